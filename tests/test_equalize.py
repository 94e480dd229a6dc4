"""Scaled channels leave a float model as it is, and give its integers back what they lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import qrt
from bench.hard_case import WAYS, hard_case
from bench.labelled import MODELS
from qrt.api.quantization import run_float
from qrt.ptq.config import WEIGHTS, QuantConfig
from qrt.ptq.equalize import equalize, equalize_by_data
from qrt.ptq.prepare import prepare
from qrt.ptq.regions import find_regions

Array = np.ndarray[Any, Any]
PER_TENSOR = replace(WEIGHTS, granularity="per_tensor")
HEAD = '<ir_version: 9, opset_import: ["" : 18]> '


def _model(text: str, seed: int = 0) -> onnx.ModelProto:
    """The model, its constants drawn where the text says only their shapes."""
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(HEAD + text)
    kept = []
    for value in model.graph.input:
        if value.name.startswith(("w", "b")):
            shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
            array = rng.standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        else:
            kept.append(value)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model


# the text of a model, and of each region that may be scaled: channels, writers, shifts, readers
REGIONS = {
    "chain": (
        """g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8] b2,
              float[6,4,1,1] w3, float[6,1,1] w4, float[24,5] w5, float[5] b5) => (float[2,5] y) {
            a = Conv <pads=[1,1,1,1]> (x, w1, b1)
            r = Relu (a)
            c = Conv <group=8, pads=[1,1,1,1]> (r, w2, b2)
            l = LeakyRelu <alpha=0.1> (c)
            p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (l)
            d = Conv <group=2> (p, w3)
            q = PRelu (d, w4)
            m = AveragePool <kernel_shape=[2,2], strides=[2,2]> (q)
            f = Flatten (m)
            y = Gemm (f, w5, b5)
        }""",
        [(6, 1, 0, 1), (8, 1, 1, 1), (8, 1, 1, 1)],
    ),
    "residual": (
        """g (float[1,3,6,6] x, float[4,3,1,1] w1, float[4] b1, float[4,4,1,1] w2,
              float[4] b2, float[4,1,1] b3, float[5,4,1,1] w3, float[4,7] w4, float[7] b4,
              float[4,4,1,1] w5)
              => (float[1,5,12,12] y, float[1,7] z) {
            a = Conv (x, w1, b1)
            r = Relu (a)
            c = Conv (r, w2, b2)
            s = Add (c, r)
            t = Add (b3, s)
            g = GlobalAveragePool (t)
            e = Conv (g, w5)
            gate = Sigmoid (e)
            u = Mul (gate, t)
            big = Constant <value = float[4] {1, 1, 2, 2}> ()
            v = Resize <mode="linear"> (u, , big)
            y = Conv (v, w3)
            axes = Constant <value = int64[2] {2, -1}> ()
            n = ReduceMean <keepdims=0> (t, axes)
            z = Gemm (n, w4, b4)
        }""",
        [(4, 2, 3, 4)],
    ),
    "linear": (
        """g (float[2,3,8] x, float[8,6] w1, float[6] b1, float[6,6] w2, float[1] b2, float[6] b3,
              float[6] w3, float[6,4] w4, float[6] w5, float[6,2] w6)
              => (float[2,4,3] y, float[2,3,2] z) {
            a = MatMul (x, w1)
            b = Add (a, b1)
            r = Relu (b)
            c = MatMul (r, w2)
            d = Add (c, b2)
            n = LayerNormalization <axis=-1> (d, w3, b3)
            e = MatMul (n, w4)
            y = Transpose <perm=[0,2,1]> (e)
            u = Softmax (d)
            m = Mul (u, w5)
            z = MatMul (m, w6)
        }""",
        [(6, 0, 1, 1), (6, 0, 2, 1), (6, 1, 1, 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REGIONS)
def test_any_scales_cancel_out(name: str) -> None:
    text, expected = REGIONS[name]
    model, rng = _model(text), np.random.default_rng(1)
    draft = prepare(model)
    regions = [r for r in find_regions(draft) if not r.blocked and r.readers]
    found = [(r.channels, len(r.writers), len(r.shifts), len(r.readers)) for r in regions]
    assert sorted(found) == expected
    for region in regions:
        region.scale(draft, np.exp(rng.uniform(-3, 3, region.channels)))
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = rng.standard_normal(shape).astype(np.float32)
    scaled = draft.model()
    for want, got in zip(
        ReferenceEvaluator(model).run(None, {"x": x}),
        ReferenceEvaluator(scaled).run(None, {"x": x}),
        strict=True,
    ):
        # sums of some dozen products, each rounded twice more
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("r = Conv (x, w1) s = Sigmoid (r) y = Conv (s, w2)", "Sigmoid"),
        ("r = Conv (x, w1) s = Conv (r, w2) y = Conv (s, w2)", "its weights are shared"),
        ("r = Conv (x, w1) s = Add (r, x) y = Conv (s, w2)", "Add"),
        ("r = Conv (x, w1) s = Concat <axis=1> (r, x) y = Conv (s, w3)", "Concat"),
        ("r = Conv (x, w1) s = Reshape (r, to) y = Conv (s, w4)", "Reshape"),
        ("r = Conv (x, w1) s = Clip (r, w5) y = Conv (s, w2)", "Clip"),
        ("r = Conv (x, w1) y = Mul (r, r)", "Mul"),
        ("y = Conv (x, w1) z = Conv (y, w2)", "output"),
        ("r = Conv (x, w1) m = ReduceMax <keepdims=0> (r, others) s = Conv (x, w2, m)"
         " y = Conv (s, w2)", "adds it"),
    ],
)
def test_what_must_not_be_scaled_is_not(text: str, says: str) -> None:
    model = _model(
        """g (float[1,4,4,4] x, float[4,4,1,1] w1, float[4,4,1,1] w2, float[4,8,1,1] w3,
              float[4,2,1,1] w4, float w5) => (float[1,4,h,w] y) {
            to = Constant <value = int64[4] {1, 2, 8, 4}> ()
            others = Constant <value = int64[3] {0, 2, 3}> ()
        """
        + text
        + "}"
    )
    regions = find_regions(prepare(model))
    assert says in regions[0].blocked
    assert not [region for region in regions if not region.blocked and region.readers]


CLIPPED = """g (float[n,4,5,5] x, float[6,4,1,1] w1, float[6] b1, float[6,1,3,3] w2, float[6] b2,
                 float[3,6,1,1] w3) => (float[n,3,5,5] y) {
    low = Constant <value = float {0.0}> ()
    high = Constant <value = float {6.0}> ()
    a = Conv (x, w1, b1)
    r = Clip (a, low, high)
    c = Conv <group=6, pads=[1,1,1,1]> (r, w2, b2)
    s = Clip (c, low, high)
    y = Conv (s, w3)
}"""


def test_equalized_models_are_the_same_on_what_they_saw() -> None:
    model = _model(CLIPPED, 3)
    rng = np.random.default_rng(4)
    for tensor in model.graph.initializer:
        if tensor.name in ("w2", "b2"):  # so that there is something to gain
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[::2] /= 30
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    x = rng.standard_normal((40, 4, 5, 5)).astype(np.float32)
    draft = prepare(model)
    before = {name: array.copy() for name, array in draft.arrays.items()}
    feeds = [{"x": image[None]} for image in x]
    assert set(equalize_by_data(draft, QuantConfig(weights=PER_TENSOR), feeds, run_float)) == {"y"}
    changed = [n for n in before if not np.array_equal(before[n], draft.arrays[n])]
    assert set(changed) == {"w1", "b1", "w2", "b2", "w3"}
    scaled = draft.model()
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    (got,) = ReferenceEvaluator(scaled).run(None, {"x": x})
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_ranges_that_share_a_grid_become_equal() -> None:
    model = _model(
        """g (float[n,16] x, float[16,32] w1, float[32] b1, float[32,8] w2) => (float[n,8] y) {
            a = Gemm (x, w1, b1)
            r = Relu (a)
            y = MatMul (r, w2)
        }"""
    )
    rng = np.random.default_rng(5)
    w1, b1, w2 = (onnx.numpy_helper.to_array(t) for t in model.graph.initializer)
    spread = (10.0 ** rng.uniform(-1, 1, 32)).astype(np.float32)
    spread[3] = 0  # dead: its scale must be something finite
    arrays = {"w1": w1 * spread, "b1": b1 * spread * 0, "w2": w2 * (spread > 0)[:, None]}
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name))
    draft = prepare(model)
    assert set(equalize(draft, find_regions(draft), QuantConfig(weights=PER_TENSOR), {})) == {"y"}
    first = np.abs(draft.arrays["w1"]).max(axis=0)
    second = np.abs(draft.arrays["w2"]).max(axis=1)
    live = spread > 0
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    ratio = (first / first.max())[live] / (second / second.max())[live]
    assert np.allclose(ratio, 1, atol=0.02)


HARD = {
    # trained networks; how far weights are spread; points that one grid loses at least
    "digits_fp32": (1e4, 30.0),
    "cifar_tinycnn_fp32": (100.0, 10.0),
}
RECOVERING = (
    "per tensor, equalized, bias correction",
    "per channel, bias correction",
    "per channel, equalized, bias correction",
)


@pytest.mark.parametrize("name", HARD)
def test_the_hard_case(name: str, request: pytest.FixtureRequest) -> None:
    case = MODELS[name]
    if name != "digits_fp32":
        request.getfixturevalue("shared_models")
    spread, lost = HARD[name]
    model = hard_case(case, spread)
    x, y = case.arrays()
    seen, unseen, labels = x[:60], x[200:], y[200:]

    def logits(made: onnx.ModelProto) -> Array:
        session = qrt.load(made)
        name = session.get_inputs()[0].name
        return np.concatenate([session.run(None, {name: image[None]})[0] for image in unseen])

    def points(made: onnx.ModelProto) -> float:
        return float(100 * (logits(made).argmax(axis=1) == labels).mean())

    exact = points(model)
    assert points(qrt.quantize_static(model, seen, WAYS["per tensor"])) <= exact - lost
    for way in RECOVERING:
        made = qrt.quantize_static(model, seen, WAYS[way])
        assert points(made) >= exact - 1, way
    # the last of them, elsewhere
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = ort.InferenceSession(made.SerializeToString())
    feeds = ({session.get_inputs()[0].name: image[None]} for image in unseen[:200])
    found = np.concatenate([session.run(None, feed)[0] for feed in feeds])
    same = found.argmax(axis=1) == logits(made)[:200].argmax(axis=1)
    assert same.mean() > 0.99
