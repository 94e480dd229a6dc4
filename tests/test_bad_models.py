"""Models that `qrt.load` must refuse: one exception class per kind, and a message that names node,
operator, the rule and what came. Never a crash, a hang or a wrong answer."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import qrt
from qrt.errors import InputError, ModelError, QrtError, QuantizationError, UnsupportedError
from tests.contract import evaluate
from tests.graphs import SPELLINGS, random_graph
from tests.loader.models import f32, make_model, node, scalar, tensor_info
from tests.sessions import Cases, differences, run

NAMED_TWICE = re.compile(r"\(#\d+\): [\w.]+( '[^']*')? \(#\d+\): ")
U8, S8, I32 = np.uint8, np.int8, np.int32
TRAINING = "ai.onnx.preview.training"
IMAGE = tensor_info("x", (1, 3, 6, 6))
CONSTANTS = {
    "s": scalar(0.02),
    "z": scalar(128, U8),
    "w": np.arange(-54, 54).astype(S8).reshape(4, 3, 3, 3),
    "ws": scalar(0.01),
    "wz": scalar(0, S8),
    "b": np.zeros(4, I32),
}


def qoperators(attrs: dict[str, Any] | None = None, **changes: Any) -> onnx.ModelProto:
    """QuantizeLinear 'quantize', QLinearConv 'conv1', DequantizeLinear 'real'."""
    nodes = [
        node("QuantizeLinear", "x s z", "q", name="quantize"),
        node("QLinearConv", "q s z w ws wz s z b", "c", name="conv1", **(attrs or {})),
        node("DequantizeLinear", "c s z", "y", name="real"),
    ]
    return make_model(nodes, inputs=[IMAGE], constants={**CONSTANTS, **changes})


def pairs(attrs: dict[str, Any] | None = None, bias: str = "", **changes: Any) -> onnx.ModelProto:
    """The same with DequantizeLinear 'xr', 'wr' and QuantizeLinear 'back' around Conv 'conv1'."""
    nodes = [
        node("QuantizeLinear", "x s z", "q", name="quantize"),
        node("DequantizeLinear", "q s z", "d", name="xr"),
        node("DequantizeLinear", "w ws wz", "f", name="wr", axis=0),
        node("Conv", f"d f {bias}", "g", name="conv1", **(attrs or {})),
        node("QuantizeLinear", "g s z", "c", name="back"),
        node("DequantizeLinear", "c s z", "y", name="real"),
    ]
    return make_model(nodes, inputs=[IMAGE], constants={**CONSTANTS, **changes})


def one(op: str, inputs: str = "x", domain: str = "", **attrs: Any) -> onnx.ModelProto:
    """A float operator 'n' on x of 1 x 3 x 6 x 6; `constants` and `opset` are taken out."""
    options = {k: attrs.pop(k) for k in ("constants", "opset") if k in attrs}
    made = node(op, inputs, "y", name="n", domain=domain, **attrs)
    domains = [domain] if domain else []
    return make_model([made], inputs=[IMAGE], domains=domains, **options)


def rewired(position: int, index: int, name: str) -> onnx.ModelProto:
    """`qoperators` with another tensor as input `index` of node `position`."""
    model = qoperators()
    model.graph.node[position].input[index] = name
    return model


Case = tuple[onnx.ModelProto | bytes, type[QrtError], tuple[str, ...]]
GOOD = qoperators().SerializeToString()

NOT_ONNX: dict[str, Case] = {
    "truncated": (GOOD[: len(GOOD) // 2], ModelError, ("truncated",)),
    "last byte missing": (GOOD[:-1], ModelError, ("truncated",)),
    "empty": (b"", ModelError, ("empty",)),
    "text": (b"this is not a model, it is a line of text\n", ModelError, ("not an ONNX",)),
    "random": (np.random.default_rng(1).bytes(5000), ModelError, ("not an ONNX",)),
}

BROKEN: dict[str, Case] = {
    "cyclic": (rewired(0, 0, "c"), ModelError, ("cycle", "quantize")),
    "its own input": (rewired(1, 0, "c"), ModelError, ("conv1",)),
    "missing tensor": (rewired(1, 3, "nothing"), ModelError, ("QLinearConv 'conv1'", "'nothing'")),
    "missing input": (rewired(0, 0, ""), ModelError, ("QuantizeLinear 'quantize'",)),
    "made twice": (
        make_model([node("Relu", "x", "y", name="a"), node("Relu", "x", "y", name="b")]),
        ModelError,
        ("'b'", "'y'"),
    ),
    "missing output": (
        make_model([node("Relu", "x", "y")], outputs=["other"]), ModelError, ("'other'",),
    ),
    "unknown attribute": (qoperators({"stride": [1, 1]}), ModelError, ("conv1", "'stride'")),
    "attribute type": (qoperators({"strides": 1}), ModelError, ("conv1", "'strides'", "INTS")),
    "stride 0": (qoperators({"strides": [0, 1]}), ModelError, ("QLinearConv 'conv1'", "strides")),
    "negative dilation": (qoperators({"dilations": [1, -1]}), ModelError, ("conv1", "dilations")),
    "pads of another rank": (qoperators({"pads": [1, 1]}), ModelError, ("conv1", "pads")),
    "kernel_shape": (qoperators({"kernel_shape": [5, 5]}), ModelError, ("conv1", "kernel_shape")),
    "auto_pad": (
        qoperators({"auto_pad": "SOME"}), UnsupportedError, ("conv1", "auto_pad", "SOME"),
    ),
    "group": (qoperators({"group": 2}), ModelError, ("conv1", "group")),
    "group 0": (qoperators({"group": 0}), ModelError, ("conv1", "group")),
    "channels": (
        qoperators(w=np.ones((4, 5, 3, 3), S8)), ModelError, ("QLinearConv 'conv1'", "channels"),
    ),
    "weights of another rank": (
        qoperators(w=np.ones((4, 3, 3), S8)), ModelError, ("QLinearConv 'conv1'",),
    ),
    **{
        f"bias {list(shape)}": (
            pairs(bias="h", h=np.ones(shape, np.float32)), ModelError, ("Conv 'conv1'", "bias"),
        )
        for shape in ((1,), (), (3,), (8,), (4, 1), (1, 4, 1, 1), (4, 1, 4, 4))
    },
    "bias of float weights": (
        one("Conv", "x c b", constants={"c": np.ones((4, 3, 1, 1), np.float32), "b": f32(1)}),
        ModelError, ("Conv 'n'", "bias"),
    ),
    "huge stride": (qoperators({"strides": [2**62, 1]}), QrtError, ("QLinearConv 'conv1'",)),
    "huge pads": (qoperators({"pads": [2**62, 0, 0, 0]}), QrtError, ("QLinearConv 'conv1'",)),
    "huge pads of a pool": (
        one("MaxPool", kernel_shape=[2, 2], pads=[2**62, 0, 0, 0]), QrtError, ("MaxPool 'n'",),
    ),
    "huge kernel": (
        one("AveragePool", kernel_shape=[2, 2**62], auto_pad="SAME_UPPER"),
        QrtError, ("AveragePool 'n'",),
    ),
    "bound of three elements": (
        one("Clip", "x c", constants={"c": f32(1, 2, 3)}), ModelError, ("Clip 'n'", "min"),
    ),
    "weights of another type": (
        one("Conv", "x c", constants={"c": np.ones((4, 3, 1, 1), U8)}),
        QrtError, ("Conv 'n'", "uint8"),
    ),
    "operand of another type": (
        one("Add", "x c", constants={"c": np.ones((1, 3, 6, 6), U8)}),
        QrtError, ("Add 'n'", "uint8"),
    ),
    "too few inputs": (one("Conv", "x"), ModelError, ("Conv 'n'",)),
    "shapes": (
        one("Add", "x c", constants={"c": np.ones((1, 3, 5, 6), np.float32)}),
        ModelError,
        ("Add 'n'",),
    ),
    "reshape": (
        one("Reshape", "x c", constants={"c": np.array([7, 7])}), ModelError, ("Reshape 'n'",),
    ),
    "transpose": (one("Transpose", perm=[0, 0, 1, 2]), ModelError, ("Transpose 'n'", "perm")),
    "concat axis": (one("Concat", "x x", axis=9), ModelError, ("Concat 'n'", "axis", "9")),
    "softmax axis": (one("Softmax", axis=-5), ModelError, ("Softmax 'n'", "axis", "-5")),
}  # fmt: skip


def quantization(make: Callable[..., onnx.ModelProto], where: str) -> dict[str, Case]:
    """Scales and zero points without meaning; `where` is the node that reads the first of them."""
    spelled = make.__name__
    bad_scales = {"zero": 0.0, "NaN": np.nan, "negative": -0.1, "infinite": np.inf}
    return {
        **{
            f"{spelled}, scale {name}": (
                make(s=scalar(value)), QuantizationError, (where, "scale", str(value)),
            )
            for name, value in bad_scales.items()
        },
        **{
            f"{spelled}, weight scale {name}": (
                make(ws=scalar(value)), QuantizationError, ("scale", str(value)),
            )
            for name, value in bad_scales.items()
        },
        f"{spelled}, one weight scale of four": (
            make(ws=f32(1, 2, 0, 4), wz=np.zeros(4, S8)), QuantizationError, ("scale", "0.0"),
        ),
        f"{spelled}, three scales for four channels": (
            make(ws=f32(1, 2, 3), wz=np.zeros(3, S8)), QuantizationError, ("scale", "4", "3"),
        ),
        f"{spelled}, int8 zero point of uint8": (
            make(wz=scalar(0, U8)), QuantizationError, ("zero_point", "int8", "uint8"),
        ),
        f"{spelled}, float zero point": (
            make(z=scalar(0.0)), QuantizationError, (where, "zero_point", "float32"),
        ),
        f"{spelled}, int32 zero point": (
            make(z=scalar(0, I32)), QuantizationError, (where, "int32"),
        ),
        f"{spelled}, double scale": (
            make(s=scalar(0.1, np.float64)), QuantizationError, (where, "scale", "float64"),
        ),
    }  # fmt: skip


UNSUPPORTED: dict[str, Case] = {
    "unknown operator": (one("Frobnicate", domain="my"), UnsupportedError, ("Frobnicate 'n'",)),
    "unknown ONNX operator": (one("Frobnicate"), QrtError, ("Frobnicate 'n'",)),
    "no implementation": (
        make_model(
            [node("Gradient", "x", "y", domain=TRAINING, name="n", xs=["x"], y="z")],
            domains=[TRAINING],
        ),
        UnsupportedError, ("Gradient 'n'", "needs the derivative of the graph"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_ONNX)
def test_not_onnx(name: str, tmp_path: Path) -> None:
    data, error, says = NOT_ONNX[name]
    assert isinstance(data, bytes)
    path = tmp_path / "some.onnx"
    path.write_bytes(data)
    assert "some.onnx" in refusal(path, error, says)
    refusal(data, error, says)


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str) -> None:
    refusal(*BROKEN[name])


BAD_QUANTIZATION = {
    **quantization(qoperators, "QuantizeLinear 'quantize'"),
    **quantization(pairs, "QuantizeLinear 'quantize'"),
}


@pytest.mark.parametrize("name", BAD_QUANTIZATION)
def test_bad_quantization(name: str) -> None:
    text = refusal(*BAD_QUANTIZATION[name])
    assert "(#" in text, f"names no node: {text}"


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported(name: str) -> None:
    refusal(*UNSUPPORTED[name])


@pytest.mark.parametrize("value", [0.0, np.nan, -1.0, np.inf])
def test_a_scale_that_is_an_input_is_checked_when_it_comes(value: float) -> None:
    made = node("QuantizeLinear", "x s z", "y", name="quantize")
    model = make_model(
        [made],
        inputs=["x", tensor_info("s", ()), tensor_info("z", (), TensorProto.UINT8)],
        outputs=[tensor_info("y", (2, 3), TensorProto.UINT8)],
    )
    session = qrt.load(model)
    x = np.ones((2, 3), np.float32)
    good = session.run(None, {"x": x, "s": scalar(0.5), "z": scalar(1, U8)})[0]
    assert (good == 3).all()
    with pytest.raises(QuantizationError, match=r"QuantizeLinear 'quantize' \(#0\).*scale.*") as e:
        session.run(None, {"x": x, "s": scalar(value), "z": scalar(1, U8)})
    assert str(value) in str(e.value)
    again = session.run(None, {"x": x, "s": scalar(0.5), "z": scalar(1, U8)})[0]
    assert (again == 3).all()


def test_the_good_ones_are_good() -> None:
    """What the bad models above are made of runs, and both spellings agree."""
    x = np.random.default_rng(0).normal(0, 1, (1, 3, 6, 6)).astype(np.float32)
    left, right = (qrt.load(model)(x) for model in (qoperators(), pairs()))
    assert left.shape == (1, 4, 4, 4) and left.tobytes() == right.tobytes()


def test_not_a_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx"):
        qrt.load(tmp_path / "nothing.onnx")
    with pytest.raises(ModelError, match="folder"):
        qrt.load(tmp_path)
    for thing in (None, 3, object()):
        with pytest.raises((InputError, ModelError)):
            qrt.load(thing)  # type: ignore[arg-type]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_damaged_models_give_a_result_or_a_qrt_error(spelling: str) -> None:
    """Random graphs with one field of one node or tensor changed. Where the contract still says
    what they mean, the result is that."""
    seeds = range(300)
    cases = Cases()
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        rng = np.random.default_rng((seed, 13))
        model, inputs = random_graph(rng, spelling)
        label = f"seed {seed}, {damage(rng, model)}"
        try:
            got = run(model, inputs)
        except (ModelError, UnsupportedError) as error:
            outcomes[type(error).__name__] += 1
            twice = NAMED_TWICE.search(str(error))
            cases.check(label, f"the node is named twice: {error}" if twice else "")
            continue
        except Exception as error:
            cases.check(label, f"{type(error).__name__}: {error}")
            continue
        outcomes["runs"] += 1
        with contextlib.suppress(Exception):  # what it does not cover
            cases.check(label, differences(evaluate(model, inputs), got))
            outcomes["covered by the contract"] += 1
    print(f"\ndamaged {spelling} models: {dict(outcomes)}")
    cases.finish(f"damaged {spelling} models, seeds 0..{seeds[-1]}", at_least=250)


def damage(rng: np.random.Generator, model: onnx.ModelProto) -> str:
    """Change `model` in one place; says where."""
    graph = model.graph
    made = graph.node[int(rng.integers(len(graph.node)))]
    names = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output]
    kind = rng.choice(["input", "attribute", "type", "dims", "operator", "output", "drop"])
    if kind == "input" and made.input:
        made.input[int(rng.integers(len(made.input)))] = str(rng.choice([*names, "", "nothing"]))
    elif kind == "attribute" and made.attribute:
        attribute = made.attribute[int(rng.integers(len(made.attribute)))]
        odd = int(rng.choice([-(2**40), -1, 0, 3, 2**31, 2**62]))
        if attribute.ints:
            attribute.ints[int(rng.integers(len(attribute.ints)))] = odd
        else:
            attribute.i = odd
    elif kind in ("type", "dims") and graph.initializer:
        tensor = graph.initializer[int(rng.integers(len(graph.initializer)))]
        if kind == "type":
            tensor.data_type = int(rng.choice([1, 2, 3, 5, 6, 7, 9, 10, 11, 16, 17]))
        elif tensor.dims:
            tensor.dims[int(rng.integers(len(tensor.dims)))] = int(rng.choice([-1, 0, 1, 2**40]))
    elif kind == "operator":
        made.op_type = str(rng.choice(["Relu", "Conv", "MaxPool", "Transpose", "QLinearConv"]))
    elif kind == "output":
        made.output[0] = str(rng.choice(names))
    elif made.input:
        del made.input[-1]
    return f"{kind} of {made.op_type}"


def refusal(
    model: onnx.ModelProto | bytes | Path, error: type[QrtError], says: tuple[str, ...]
) -> str:
    """The message of the error that loading, or else the first run, raises."""
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    with pytest.raises(error) as caught:
        qrt.load(model)
    assert type(caught.value) is error or error is QrtError, repr(caught.value)
    text = str(caught.value)
    for part in says:
        assert part in text, f"{part!r} is not in: {text}"
    assert not NAMED_TWICE.search(text), f"the node is named twice: {text}"
    return text
