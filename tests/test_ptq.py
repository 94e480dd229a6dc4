"""Float models quantized by qrt: valid ONNX, the same in onnxruntime, and as accurate."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_harness import DATA, qrt_command
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qrt
from qrt.api.quantization import run_float
from qrt.errors import InputError, ModelError, QrtError, QuantizationError
from qrt.ptq.compare import compare_models
from qrt.ptq.config import PRESETS, Grid, QuantConfig, Rule
from qrt.ptq.observers import BINS, OBSERVERS, Histogram
from qrt.ptq.prepare import prepare
from qrt.ptq.rounding import BY_DATA
from qrt.ptq.rows import rows_of
from qrt.ptq.sizes import model_size

Array = np.ndarray[Any, Any]
FLOAT = DATA / "digits_fp32.onnx"
INT8 = DATA / "digits_int8.onnx"
STATIC = ("static", "x86", "arm", "int16")


def _digits() -> tuple[Array, Array]:
    with np.load(DATA / "digits_test.npz") as arrays:
        return arrays["x"][:, None].astype(np.float32) / np.float32(16), arrays["y"]


X, Y = _digits()
CALIBRATION = X[:60]


def _accuracy(model: Any) -> float:
    (logits,) = qrt.load(model).run(None, {"image": X})
    return float((logits.argmax(axis=1) == Y).mean())


def _onnxruntime(model: onnx.ModelProto, x: Array) -> Array:
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    found: Array = session.run(None, {session.get_inputs()[0].name: x})[0]
    return found


def _check(made: onnx.ModelProto) -> None:
    """Valid, as accurate as the float model, and the same in onnxruntime."""
    onnx.checker.check_model(made, full_check=True)
    assert _accuracy(made) >= _accuracy(str(FLOAT)) - 0.003
    (ours,) = qrt.load(made).run(None, {"image": X[:50]})
    theirs = _onnxruntime(made, X[:50])
    assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))
    assert np.abs(ours - theirs).max() <= 0.02 * np.abs(theirs).max()


@pytest.mark.parametrize("preset", STATIC)
def test_static(preset: str) -> None:
    assert preset in PRESETS
    made = qrt.quantize_static(FLOAT, CALIBRATION, preset)
    _check(made)
    ops = {node.op_type for node in made.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops


@pytest.mark.parametrize("preset", STATIC[:3])
def test_static_products_run_in_integers(preset: str) -> None:
    made = qrt.quantize_static(FLOAT, CALIBRATION, preset)
    explained = qrt.load(made).explain()
    products = [k for row in explained.rows for k in row.kernels if k.startswith(("gemm", "depth"))]
    assert products
    assert not [k for k in products if k.startswith("gemm_f32")]


def test_a_clamp_reads_what_its_product_gives_before_that_is_rounded() -> None:
    made = qrt.quantize_static(FLOAT, CALIBRATION)
    makers = {node.output[0]: node.op_type for node in made.graph.node}
    clamped = {makers[n.input[0]] for n in made.graph.node if n.op_type in ("Relu", "Clip")}
    assert clamped == {"Conv", "Add"}


@pytest.mark.parametrize("observer", OBSERVERS)
def test_observers(observer: str) -> None:
    config = QuantConfig(activations=Grid(observer=observer))
    made = qrt.quantize_static(FLOAT, CALIBRATION, config)
    assert _accuracy(made) >= _accuracy(str(FLOAT)) - 0.01


@pytest.mark.parametrize("weight_dtype", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic(weight_dtype: str, per_channel: bool) -> None:
    made = qrt.quantize_dynamic(FLOAT, weight_dtype=weight_dtype, per_channel=per_channel)
    _check(made)
    assert {"DynamicQuantizeLinear"} <= {node.op_type for node in made.graph.node}


@pytest.mark.parametrize(
    ("weight_dtype", "per_channel"), [("int8", True), ("uint8", False), ("uint8", True)]
)
def test_dynamic_weights_are_better_rounded_by_data(weight_dtype: str, per_channel: bool) -> None:
    (want,) = ReferenceEvaluator(onnx.load(FLOAT)).run(None, {"image": X[200:300]})

    def error(**options: Any) -> float:
        made = qrt.quantize_dynamic(
            FLOAT, weight_dtype=weight_dtype, per_channel=per_channel, **options
        )
        onnx.checker.check_model(made, full_check=True)
        session = qrt.load(made)
        rows = [session.run(None, {"image": X[i : i + 1]})[0] for i in range(200, 300)]
        return float(((np.concatenate(rows) - want) ** 2).mean())

    assert error(calibration_data=X[:60]) < 0.8 * error()


@pytest.mark.parametrize("form", ["blocked", "matmulnbits"])
@pytest.mark.parametrize("method", ["rtn", "mse", "hqq", "gptq"])
def test_weights_of_few_bits(form: str, method: str) -> None:
    made = qrt.quantize_weights(
        FLOAT, 4, 16, method=method, form=form, symmetric=method != "hqq",
        calibration_data=CALIBRATION,
    )  # fmt: skip
    onnx.checker.check_model(made, full_check=True)
    assert _accuracy(made) >= _accuracy(str(FLOAT)) - 0.02
    (ours,) = qrt.load(made).run(None, {"image": X[:50]})
    theirs = _onnxruntime(made, X[:50])
    assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max() + 2e-5


def _linear(w: Array) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("n", s))
            for n, s in (("x", w.shape[0]), ("y", w.shape[1]))]  # fmt: skip
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(w, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_better_methods_have_smaller_errors() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_t(4, (64, 32)).astype(np.float32)
    mixed = rng.standard_normal((64, 64)) @ np.diag(rng.uniform(0.1, 3, 64))
    x = (rng.standard_normal((400, 64)) @ mixed).astype(np.float32)
    model = _linear(w)

    def error(method: str, symmetric: bool = True) -> float:
        made = qrt.quantize_weights(
            model, 4, 32, method=method, symmetric=symmetric, calibration_data=x[:200]
        )
        (y,) = qrt.load(made).run(None, {"x": x[200:]})
        return float(((y - x[200:] @ w) ** 2).mean())

    assert error("mse") < error("rtn")
    assert error("gptq") < 0.7 * error("rtn")
    assert error("hqq", False) < 1.2 * error("rtn", False)


def _convolutions(rng: np.random.Generator) -> onnx.ModelProto:
    """A plain, a depthwise, a grouped and a pointwise Conv, clamps behind them."""
    shapes = {"plain": (8, 3, 3, 3), "deep": (8, 1, 3, 3), "split": (8, 4, 3, 3),
              "point": (6, 8, 1, 1)}  # fmt: skip
    groups = {"deep": 8, "split": 2}
    nodes, tensors, last = [], [], "x"
    for name, shape in shapes.items():
        w = rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5
        tensors += [numpy_helper.from_array(w.astype(np.float32), f"{name}_w")]
        pads = [shape[2] // 2] * 4
        out = "y" if name == "point" else f"{name}_out"
        nodes.append(helper.make_node("Conv", [last, f"{name}_w"], [out], name, pads=pads,
                                      group=groups.get(name, 1)))  # fmt: skip
        if name != "point":
            nodes.append(helper.make_node("Relu", [out], [f"{name}_relu"]))
        last = f"{name}_relu"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("n", c, 8, 8))
            for n, c in (("x", 3), ("y", 6))]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_data_round_weights_better() -> None:
    rng = np.random.default_rng(8)
    model = _convolutions(rng)
    x = rng.standard_normal((24, 3, 8, 8)).astype(np.float32)
    x += np.roll(x, 1, axis=2) + np.roll(x, 1, axis=3) + 0.5  # neighbours are alike, as in pictures
    (want,) = ReferenceEvaluator(model).run(None, {"x": x[16:]})

    def error(made: onnx.ModelProto) -> float:
        onnx.checker.check_model(made, full_check=True)
        (ours,) = qrt.load(made).run(None, {"x": x[16:]})
        assert np.abs(ours - _onnxruntime(made, x[16:])).max() <= 0.02 * np.abs(want).max()
        return float(((ours - want) ** 2).mean())

    few = Grid(bits=4, signed=True, symmetric=True, granularity="per_channel")

    def static(rounding: str) -> float:
        config = QuantConfig(weights=few, rounding=rounding, bias_correction=True)
        return error(qrt.quantize_static(model, x[:16], config))

    def blocks(method: str) -> float:
        return error(qrt.quantize_weights(model, 4, 4, method=method, calibration_data=x[:16]))

    nearest, rtn = static("nearest"), blocks("rtn")  # the first with its bias corrected
    for by_data in BY_DATA:
        assert static(by_data) < 0.85 * nearest, by_data
        assert blocks(by_data) < 0.4 * rtn, by_data
    first, again = (qrt.quantize_weights(model, calibration_data=x[:16]) for _ in range(2))
    assert first == again


def test_patches_are_what_a_convolution_multiplies() -> None:
    rng = np.random.default_rng(4)
    for attrs, groups, width in (
        ({"pads": [1, 0, 2, 1], "strides": [2, 1]}, 1, 6),
        ({"dilations": [2, 1], "group": 2}, 2, 6),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2], "group": 6}, 6, 6),
        ({"auto_pad": "SAME_LOWER"}, 1, 6),
    ):
        w = rng.standard_normal((6, width // groups, 3, 2)).astype(np.float32)
        x = rng.standard_normal((2, width, 7, 8)).astype(np.float32)
        node = helper.make_node("Conv", ["x", "w"], ["y"], **attrs)
        rows = rows_of(node, x.astype(np.float64), w)
        assert rows is not None
        y = np.einsum("gmk,gok->gom", rows, w.reshape(groups, 6 // groups, -1))
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xwy"]
        model = helper.make_model(helper.make_graph([node], "g", ends[:2], ends[2:]))
        (want,) = ReferenceEvaluator(model).run(None, {"x": x, "w": w})
        got = y.reshape(6, 2, -1).swapaxes(0, 1).reshape(want.shape)
        assert np.allclose(got, want, atol=1e-4)


def test_bias_correction_takes_the_shift_out() -> None:
    rng = np.random.default_rng(5)
    w = rng.standard_normal((64, 8)).astype(np.float32)
    model = _linear(w)
    model.graph.node[0].op_type = "Gemm"  # which has room for a bias
    x = (rng.standard_normal((200, 64)) + 3).astype(np.float32)
    want = (x @ w).mean(axis=0)

    def shift(**options: Any) -> float:
        grid = Grid(bits=4, signed=True, symmetric=True, granularity="per_channel")
        made = qrt.quantize_static(model, x, QuantConfig(weights=grid, **options))
        return float(np.abs(qrt.load(made).run(None, {"x": x})[0].mean(axis=0) - want).max())

    assert shift(bias_correction=True) < 0.1 * shift()


def test_a_bias_that_is_scaled_is_left_alone() -> None:
    rng = np.random.default_rng(5)
    model = _linear(rng.standard_normal((64, 8)).astype(np.float32))
    model.graph.node[0].op_type = "Gemm"
    model.graph.node[0].attribute.append(helper.make_attribute("alpha", 0.25))
    x = (rng.standard_normal((200, 64)) + 3).astype(np.float32)
    grid = Grid(bits=4, signed=True, symmetric=True, granularity="per_channel")
    plain, corrected = (
        qrt.quantize_static(model, x, QuantConfig(weights=grid, bias_correction=on))
        for on in (False, True)
    )
    (want,), (got,) = (qrt.load(made).run(None, {"x": x}) for made in (plain, corrected))
    assert np.array_equal(got, want)


def test_batchnorm_goes_into_the_weights() -> None:
    rng = np.random.default_rng(1)
    arrays = {
        "w": rng.standard_normal((4, 3, 3, 3)), "gamma": rng.uniform(0.5, 2, 4),
        "beta": rng.standard_normal(4), "mean": rng.standard_normal(4),
        "variance": rng.uniform(0.5, 2, 4),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in (("x", (1, 3, 8, 8)), ("y", (1, 4, 6, 6)))]  # fmt: skip
    tensors = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    folded = prepare(model).model()
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    want = ReferenceEvaluator(model).run(None, {"x": x})[0]
    got = ReferenceEvaluator(folded).run(None, {"x": x})[0]
    assert np.allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_bias_far_beyond_its_weights_stays_within_int32() -> None:
    w = np.full((3, 2), 1e-9, np.float32)
    model = _linear(w)
    node = model.graph.node[0]
    node.op_type = "Gemm"
    node.input.append("b")
    model.graph.initializer.append(numpy_helper.from_array(np.array([5.0, -3.0], np.float32), "b"))
    x = np.random.default_rng(2).standard_normal((20, 3)).astype(np.float32)
    (y,) = qrt.load(qrt.quantize_static(model, x)).run(None, {"x": x})
    assert np.allclose(y, [5.0, -3.0], atol=1e-3)


def test_rules_leave_nodes_in_float() -> None:
    names = [n.name for n in onnx.load(FLOAT).graph.node if n.op_type == "Conv"]
    skipped = QuantConfig(name_rules={names[0]: Rule(skip=True)})
    made = qrt.quantize_static(FLOAT, CALIBRATION, skipped)
    kept = next(n for n in made.graph.node if n.name == names[0])
    weights = {t.name: t for t in made.graph.initializer}
    assert weights[kept.input[1]].data_type == TensorProto.FLOAT
    only = qrt.quantize_static(FLOAT, CALIBRATION, QuantConfig(op_types=("Gemm",)))
    assert "Conv" in {n.op_type for n in only.graph.node}
    assert sum(n.op_type == "QuantizeLinear" for n in only.graph.node) <= 2


def test_histograms_keep_counts_while_their_range_grows() -> None:
    seen = Histogram(lambda h, levels: (h.low, h.high))
    rng = np.random.default_rng(3)
    parts = [rng.standard_normal(1000) * s for s in (0.1, 1, 30)]
    for part in parts:
        seen.update(part.astype(np.float32))
    assert seen.counts.sum() == 3000
    every = np.concatenate(parts).astype(np.float32)
    want, _ = np.histogram(every, BINS, (-seen.reach, seen.reach))
    # elements on the border of two bins may have been counted in the other
    assert np.abs(np.cumsum(seen.counts) - np.cumsum(want)).max() <= 3


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: qrt.quantize_static(FLOAT, X[:0]), InputError, "calibration data are empty"),
        (lambda: qrt.quantize_static(FLOAT, 3), InputError, "calibration data are arrays"),
        (lambda: qrt.quantize_static(FLOAT, {"no": X}), InputError, "no input 'image'"),
        (lambda: qrt.quantize_static(FLOAT, X[:2] * np.nan), QuantizationError, "not finite"),
        (lambda: qrt.quantize_static(FLOAT, X[:2, :, :3]), QrtError, "image"),
        (lambda: qrt.quantize_static(FLOAT, X, "best"), QuantizationError, "a preset is one of"),
        (lambda: qrt.quantize_static(INT8, X), ModelError, "quantized already"),
        (lambda: qrt.quantize_dynamic(INT8), ModelError, "quantized already"),
        (
            lambda: qrt.quantize_static(
                FLOAT, X, QuantConfig(op_rules={"Einsum": Rule(skip=True)})
            ),
            QuantizationError,
            "the model has none",
        ),
        (
            lambda: qrt.quantize_static(FLOAT, X, QuantConfig(name_rules={"zz*": Rule()})),
            QuantizationError,
            "no node matches",
        ),
        (lambda: qrt.quantize_static(FLOAT, X, QuantConfig(op_types=("Einsum",))),
         QuantizationError, "qrt does not run Einsum in integers"),
        (lambda: qrt.quantize_static(FLOAT, X, QuantConfig(op_types=("LeakyRelu",))),
         QuantizationError, "nothing to quantize"),
        (lambda: qrt.quantize_dynamic(FLOAT, weight_dtype="int7"), QuantizationError, "int7"),
        (lambda: qrt.quantize_dynamic(FLOAT, op_types=("Relu",)), QuantizationError, "Relu"),
        (lambda: qrt.quantize_dynamic(FLOAT, rounding="up"), QuantizationError, "rounding is one"),
        (lambda: qrt.quantize_dynamic(FLOAT, rounding="gptq"), QuantizationError, "needs"),
        (lambda: qrt.quantize_weights(FLOAT, 5), QuantizationError, "bits are one of"),
        (lambda: qrt.quantize_weights(FLOAT, 4, 0), QuantizationError, "block_size must be"),
        (lambda: qrt.quantize_weights(FLOAT, 4, 24, form="matmulnbits"), QuantizationError,
         "a power of two"),
        (lambda: qrt.quantize_weights(FLOAT, method="gptq"), QuantizationError, "needs"),
        (lambda: qrt.quantize_weights(FLOAT, calibration_data=X[:0]), InputError, "are empty"),
        (lambda: qrt.quantize_weights(FLOAT, method="rtn", reconstruct=True,
                                      calibration_data=X[:0]), InputError, "are empty"),
        (lambda: QuantConfig(rounding="up"), QuantizationError, "rounding is one of"),
        (lambda: Grid(bits=1), QuantizationError, "bits must be 2 to 16"),
        (lambda: Grid(observer="magic"), QuantizationError, "an observer is one of"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert says in str(raised.value)


def test_sizes_say_where_the_bytes_are() -> None:
    before = model_size(FLOAT)
    after = model_size(qrt.quantize_weights(FLOAT, 8, 64))
    few, two = (model_size(qrt.quantize_weights(FLOAT, bits, 64)) for bits in (4, 2))
    assert before.nbytes == sum(
        4 * numpy_helper.to_array(t).size
        for t in onnx.load(FLOAT).graph.initializer
        if t.data_type == TensorProto.FLOAT
    ) + sum(
        8 * numpy_helper.to_array(t).size
        for t in onnx.load(FLOAT).graph.initializer
        if t.data_type == TensorProto.INT64
    )
    names = [layer.layer for layer in before.layers]
    assert [layer.layer for layer in after.layers] == names
    assert two.nbytes < few.nbytes < after.nbytes < before.nbytes / 2


def test_weights_of_two_bits_are_what_the_reference_makes_of_them() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    model = _linear(rng.standard_normal((64, 32)).astype(np.float32))
    made = qrt.quantize_weights(model, 2, 32)
    onnx.checker.check_model(made, full_check=True)
    (want,) = ReferenceEvaluator(made).run(None, {"x": x})
    (got,) = qrt.load(made).run(None, {"x": x})
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_data_in_other_files_count_and_are_found(tmp_path: Path) -> None:
    path, data = tmp_path / "model.onnx", tmp_path / "model.data"
    onnx.save(onnx.load(FLOAT), path, save_as_external_data=True, location=data.name,
              size_threshold=100)  # fmt: skip
    onnx.checker.check_model(path)
    held = path.stat().st_size + data.stat().st_size
    assert 0.9 * held < model_size(path).file_nbytes <= held
    assert qrt.quantize_dynamic(path) == qrt.quantize_dynamic(FLOAT)
    data.unlink()
    with pytest.raises(ModelError, match=r"'model\.data' is missing"):
        qrt.quantize_dynamic(path)


def test_from_the_command_line(tmp_path: Path) -> None:
    samples, out = tmp_path / "samples.npy", tmp_path / "out.onnx"
    np.save(samples, X[:40])
    done = qrt_command("quantize", FLOAT, "--data", samples, "-o", out, "--json")
    assert done.code == 0, done.err
    assert done.json["file_nbytes_after"] == out.stat().st_size
    assert _accuracy(str(out)) >= _accuracy(str(FLOAT)) - 0.005
    few = tmp_path / "few.onnx"
    assert qrt_command("quantize", FLOAT, "--recipe", "weights_int4", "-o", few).code == 0
    sizes = qrt_command("size", FLOAT, out, few, "--layers")
    assert sizes.code == 0
    lines = sizes.out.splitlines()
    before, after = (model_size(path) for path in (FLOAT, out))
    conv = next(layer for layer in before.layers if layer.op == "Conv")
    line = next(line.split() for line in lines if line.startswith(f"{conv.layer} "))
    same = next(layer for layer in after.layers if layer.layer == conv.layer)
    assert line[1:4] == ["Conv", f"{conv.nbytes / 1e6:.4f}", f"{same.nbytes / 1e6:.4f}"]
    assert f"{before.nbytes / 1e6:.4f}" in next(x for x in lines if x.startswith("all constants"))
    assert len(qrt_command("size", FLOAT, out, "--json").json["models"]) == 2
    missing = qrt_command("quantize", FLOAT, "-o", tmp_path / "no.onnx")
    assert missing.code == 2
    assert "needs --data" in missing.message
    nowhere = qrt_command(
        "quantize", FLOAT, "--recipe", "dynamic", "-o", tmp_path / "no" / "a.onnx"
    )
    assert nowhere.code == 2
    wrong = qrt_command("quantize", FLOAT, "--data", str(FLOAT), "-o", tmp_path / "no.onnx")
    assert wrong.code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.onnx", "out.onnx", "samples.npy"]


def test_layers_are_compared_alone_and_together() -> None:
    made = qrt.quantize_static(FLOAT, CALIBRATION)
    found = compare_models(FLOAT, made, X[:8], run_float)
    assert found.samples == 8
    names = {layer.tensor for layer in found.layers}
    assert {n.output[0] for n in onnx.load(FLOAT).graph.node if n.op_type == "Conv"} <= names
    for layer in found.layers:
        assert layer.local_sqnr >= layer.accumulated_sqnr - 3  # noise may cancel, a little
        assert layer.accumulated_sqnr > 20
    same = compare_models(FLOAT, FLOAT, X[:2], run_float)
    assert all(layer.accumulated_sqnr == np.inf for layer in same.layers)


def test_causes_are_named() -> None:
    rng = np.random.default_rng(6)
    w = rng.standard_normal((16, 8)).astype(np.float32)
    w[:, 3] *= 100
    model, x = _linear(w), rng.standard_normal((40, 16)).astype(np.float32)
    grid = Grid(signed=True, symmetric=True)  # per tensor
    made = qrt.quantize_static(model, x, QuantConfig(weights=grid, quantize_outputs=True))
    layer = next(e for e in compare_models(model, made, x, run_float).layers if e.tensor == "y")
    assert "one wide channel of its weights: 3 spans" in layer.cause
    far = compare_models(model, made, 5 * x, run_float).layers
    assert all("saturation" in layer.cause for layer in far)
    page = compare_models(model, made, x, run_float).page("a < b")
    assert "one wide channel" in page
    assert "a &lt; b" in page
    assert "src=" not in page and "href=" not in page
    for point in ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6]).iter("circle"):
        assert 0 <= float(point.get("cx", "nan")) <= 1060
        assert 0 <= float(point.get("cy", "nan")) <= 340


def test_weights_and_scales_of_zero_are_causes() -> None:
    rng = np.random.default_rng(8)
    model = _linear(rng.standard_normal((32, 8)).astype(np.float32))
    x = rng.standard_normal((20, 32)).astype(np.float32)
    few = compare_models(model, qrt.quantize_weights(model, 4, 32), x, run_float).layers[0]
    assert few.cause.startswith("weights of 4 bits: ")
    w = numpy_helper.to_array(model.graph.initializer[0])
    made = qrt.quantize_static(model, x)
    scales = {t.name: t for t in made.graph.initializer}
    node = next(n for n in made.graph.node if n.op_type == "DequantizeLinear" and "w" in n.name)
    broken = numpy_helper.to_array(scales[node.input[1]]).copy()
    broken[2] = 0
    scales[node.input[1]].CopyFrom(numpy_helper.from_array(broken, node.input[1]))
    found = compare_models(model, made, x, run_float)
    layer = next(e for e in found.layers if e.tensor == "y")
    assert "zero scale: 1 of 8 of its weights" in layer.cause
    y = (x @ w).astype(np.float64)
    lost = 10 * np.log10((y**2).sum() / (y[:, 2] ** 2).sum())
    assert abs(layer.local_sqnr - lost) < 0.1  # that column is gone, the rest is as it was
    assert dict(found.outputs)["y"] == layer.accumulated_sqnr


def test_a_layer_is_charged_with_what_its_own_pair_rounds() -> None:
    rng = np.random.default_rng(9)
    model, x = _linear(np.eye(8, dtype=np.float32)), rng.standard_normal((50, 8)).astype(np.float32)
    made = qrt.quantize_static(model, x / 4, QuantConfig(quantize_outputs=True))
    found = {e.tensor: e for e in compare_models(model, made, x, run_float).layers}
    step = (x.max() - x.min()) / 4 / 255
    clipped = np.clip(x, x.min() / 4, x.max() / 4)
    noise = ((clipped - x).astype(np.float64) ** 2).sum()
    want = 10 * np.log10((x.astype(np.float64) ** 2).sum() / noise)
    assert abs(found["x"].local_sqnr - want) < 0.2
    assert abs(found["y"].local_sqnr - want) < 0.2  # on exact inputs its grid is as narrow
    assert found["x"].op == "input"
    share = 100 * float(((x > clipped + step) | (x < clipped - step)).mean())
    assert f"saturation: {share:.2g} %" in found["x"].cause


def test_models_that_have_nothing_in_common_are_refused() -> None:
    other = _linear(np.ones((3, 2), np.float32))
    with pytest.raises(ModelError, match="the same inputs"):
        compare_models(FLOAT, other, X[:1], run_float)
    with pytest.raises(InputError, match="are empty"):
        compare_models(FLOAT, FLOAT, X[:0], run_float)
    spoiled = X[:2].copy()
    spoiled[1, 0, 3] = np.nan
    with pytest.raises(InputError, match="input 'image' in run 1 of the data: 8 of 64 values"):
        compare_models(FLOAT, FLOAT, spoiled, run_float)
    w = np.ones((16, 8), np.float32)
    with pytest.raises(ModelError, match=r"tensor 'y' has shape \(1, 8\) in the first model"):
        compare_models(_linear(w), _linear(w[:, :4]), np.ones((2, 16), np.float32), run_float)


def test_comparison_from_the_command_line(tmp_path: Path) -> None:
    samples, out, page = tmp_path / "x.npy", tmp_path / "q.onnx", tmp_path / "layers.html"
    np.save(samples, X[:20])
    assert qrt_command("quantize", FLOAT, "--data", samples, "-o", out).code == 0
    done = qrt_command("compare", FLOAT, out, "--data", samples, "--html", page, "--samples", "4")
    assert done.code == 0, done.err
    assert "accumulated dB" in done.out
    assert "<table>" in page.read_text()
    told = qrt_command("compare", FLOAT, out, "--data", samples, "--json").json
    assert told["samples"] == 20
