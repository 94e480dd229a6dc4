"""The forms that quantization writes: QDQ, QOperator, float16. Valid ONNX, the same everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from cli_harness import DATA
from onnx import numpy_helper, parser

import qrt
from qrt.errors import QuantizationError
from qrt.ptq.config import PRESETS, Grid, QuantConfig
from qrt.ptq.qoperator import TARGETS

Array = np.ndarray[Any, Any]
FLOAT = DATA / "digits_fp32.onnx"
with np.load(DATA / "digits_test.npz") as _arrays:
    X = _arrays["x"][:, None].astype(np.float32) / np.float32(16)

# every operator that has a QOperator form but Gemm, some that take integers as they are, and two
# that have neither (Tanh, ReduceMean)
MANY = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4, 8, 8] x) => (float[1, 1, 8] y)
<int64[3] rows = {1, 16, 8}, float low = {-1.0}, float high = {2.0}> {
  convolved = Conv <pads = [1, 1, 1, 1]> (x, w, b)
  clipped = Clip (convolved, low, high)
  left, right = Split <axis = 1> (clipped)
  leaky = LeakyRelu <alpha = 0.1> (left)
  gate = Sigmoid (right)
  gated = Mul (leaky, gate)
  both = Concat <axis = 1> (gated, right)
  pooled = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (both)
  curved = Tanh (pooled)
  sum = Add (curved, pooled)
  small = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (sum)
  mean = GlobalAveragePool (small)
  flat = Flatten (mean)
  one = MatMul (flat, v)
  square = Reshape (sum, rows)
  turned = Transpose <perm = [0, 2, 1]> (square)
  pairs = MatMul (square, turned)
  shares = Softmax <axis = -1> (pairs)
  wide = MatMul (shares, square)
  last = ReduceMean <axes = [1], keepdims = 1> (wide)
  y = Add (one, last)
}"""


def many_operators() -> onnx.ModelProto:
    """The model of `MANY` with random weights."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(MANY)
    for name, shape in {"w": (8, 4, 3, 3), "b": (8,), "v": (8, 8)}.items():
        array = rng.standard_normal(shape).astype(np.float32) / 4
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def in_onnxruntime(model: onnx.ModelProto, x: Array) -> Array:
    """The first output for the first input."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    found: Array = session.run(None, {session.get_inputs()[0].name: x})[0]
    return found


def operators(model: onnx.ModelProto) -> set[str]:
    """Types of its nodes."""
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("preset", ["static", "arm"])
def test_qoperator_form_of_a_classifier(preset: str) -> None:
    config = replace(PRESETS[preset], rounding="nearest", bias_correction=False)
    qdq = qrt.quantize_static(FLOAT, X[:40], config)
    made = qrt.quantize_static(FLOAT, X[:40], config, form="qoperator")
    onnx.checker.check_model(made, full_check=True)
    assert {"QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm"} <= operators(made)
    assert not {"Conv", "Add", "Gemm", "Relu", "DequantizeLinear"} & operators(made)
    (ours,) = qrt.load(made).run(None, {"image": X})
    assert np.array_equal(ours, qrt.load(qdq).run(None, {"image": X})[0])
    theirs = in_onnxruntime(made, X)
    assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))
    assert np.abs(ours - theirs).max() <= 0.02 * np.abs(theirs).max()


@pytest.mark.parametrize("signed", [False, True])
def test_qoperator_form_of_every_operator(signed: bool) -> None:
    model = many_operators()
    grid = Grid(signed=signed, symmetric=signed)
    x = np.random.default_rng(1).standard_normal((20, 4, 8, 8)).astype(np.float32)
    made = qrt.quantize_static(model, x, QuantConfig(activations=grid), form="qoperator")
    onnx.checker.check_model(made, full_check=True)
    found = operators(made)
    assert {name for op, (_, name) in TARGETS.items() if op != "Gemm"} <= found
    assert {"Tanh", "ReduceMean"} <= found
    assert not {"Split", "MaxPool", "Flatten", "Reshape", "Transpose"} - found
    real = {name for node in made.graph.node for name in node.output
            if node.op_type == "DequantizeLinear"}  # fmt: skip
    readers = {node.op_type for node in made.graph.node if real.intersection(node.input)}
    assert readers <= {"Tanh", "ReduceMean", "Add", "QuantizeLinear"}
    session = qrt.load(made)
    for sample in x[:5, None]:
        (ours,), theirs = session.run(None, {"x": sample}), in_onnxruntime(made, sample)
        (want,) = qrt.load(model).run(None, {"x": sample})
        # a step or two of the grids apart: com.microsoft's operators round on their own
        assert np.abs(ours - theirs).max() <= 0.03 * np.abs(want).max()
        assert np.abs(ours - want).max() <= 0.15 * np.abs(want).max()


def test_what_has_no_qoperator_form_stays_qdq() -> None:
    made = qrt.quantize_static(FLOAT, X[:40], "int16", form="qoperator")
    assert {"Conv", "QuantizeLinear"} <= operators(made)
    assert not [op for op in operators(made) if op.startswith("QLinear")]
    with pytest.raises(QuantizationError, match="form is one of qdq, qoperator"):
        qrt.quantize_static(FLOAT, X[:1], QuantConfig(), form="dynamic")


@pytest.mark.parametrize("model", [FLOAT, "many"])
@pytest.mark.parametrize("options", [{}, {"form": "full"}, {"form": "full", "keep_io": False}],
                         ids=["weights", "full", "full_ends"])  # fmt: skip
def test_float16(model: Any, options: dict[str, Any]) -> None:
    proto = many_operators() if model == "many" else onnx.load(model)
    made = qrt.to_float16(proto, **options)
    onnx.checker.check_model(made, full_check=True)
    wide = [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert not [t.name for t in wide if np.prod(t.dims) > 1]
    x = X[:4] if model != "many" else np.random.default_rng(1).random((1, 4, 8, 8), np.float32)
    name = proto.graph.input[0].name
    (want,) = qrt.load(proto).run(None, {name: x})
    fed = x.astype(np.float16) if options.get("keep_io") is False else x
    (ours,), theirs = qrt.load(made).run(None, {name: fed}), in_onnxruntime(made, fed)
    assert ours.dtype == theirs.dtype == fed.dtype
    bound = (0.004 if "form" not in options else 0.02) * np.abs(want).max()
    assert np.abs(ours - want).max() <= bound
    assert np.abs(ours - theirs).max() <= bound
    if "form" not in options:
        host = [k for row in qrt.load(made).explain().rows for k in row.kernels if "host" in k]
        assert not host
        sizes = [len(m.SerializeToString()) for m in (proto, made)]
        assert model == "many" or sizes[1] < 0.6 * sizes[0]


def test_float16_says_what_it_cannot_hold() -> None:
    model = many_operators()
    weights = next(t for t in model.graph.initializer if t.name == "w")
    array = numpy_helper.to_array(weights).copy()
    array[0, 0, 0] = [1e6, -1e6, np.inf]
    weights.CopyFrom(numpy_helper.from_array(array, "w"))
    with pytest.warns(UserWarning, match="2 of 288 values of 'w' lie beyond float16"):
        made = qrt.to_float16(model)
    stored = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert stored["w_float16"][0, 0, 0].tolist() == [65504, -65504, np.inf]
    kept = {t.name for t in qrt.to_float16(model, keep=["Conv"]).graph.initializer}
    assert {"w", "b", "v_float16"} <= kept
    array[0] = np.nan
    weights.CopyFrom(numpy_helper.from_array(array, "w"))
    for form in ("weights", "full"):
        with pytest.raises(QuantizationError, match="tensor 'w' has 36 NaN"):
            qrt.to_float16(model, form=form)
    with pytest.raises(QuantizationError, match="keep names 'Einsum'"):
        qrt.to_float16(model, keep=["Einsum"])
    with pytest.raises(QuantizationError, match="form is one of weights, full"):
        qrt.to_float16(model, form="half")


def test_what_a_subgraph_reads_stays() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 4] x) => (float[2, 3] y) <float zero = {0.0}> {
      h = MatMul (x, w)
      i = Identity (h)
      r = Relu (i)
      s = ReduceSum (r)
      c = Greater (s, zero)
      y = If (c) <then_branch = t () => (float[2, 3] a) { a = Neg (r) },
                  else_branch = e () => (float[2, 3] b) { b = Neg (i) }>
    }""")
    w = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    x = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    (want,) = qrt.load(model).run(None, {"x": x})
    qdq = qrt.quantize_static(model, [x])
    for made in (qdq, qrt.quantize_static(model, [x], form="qoperator"), qrt.import_qat(qdq),
                 qrt.quantize_dynamic(model), qrt.quantize_weights(model, 8),
                 qrt.to_float16(model), qrt.to_float16(model, form="full")):  # fmt: skip
        (ours,) = qrt.load(made).run(None, {"x": x})
        assert np.abs(ours - want).max() <= 0.02 * np.abs(want).max()
        assert np.array_equal(in_onnxruntime(made, x).argmax(axis=1), want.argmax(axis=1))


def test_batchnorm_stays_where_a_subgraph_reads_its_convolution() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2, 3, 3] x, bool c) => (float[1, 2, 3, 3] y)
    <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] one = {1, 1}> {
      h = Conv (x, w)
      n = BatchNormalization (h, one, one, one, one)
      a = If (c) <then_branch = t () => (float[1, 2, 3, 3] p) { p = Neg (h) },
                  else_branch = e () => (float[1, 2, 3, 3] q) { q = Abs (h) }>
      y = Add (a, n)
    }""")
    made = qrt.quantize_dynamic(model)
    onnx.checker.check_model(made, full_check=True)
    assert {"BatchNormalization", "ConvInteger"} <= operators(made)
