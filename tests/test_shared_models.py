"""Real quantized networks (`../shared/models`), end to end, against ONNX Runtime's outputs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qrt
from qrt.api.explanation import NodeRow
from qrt.api.timing import PYTHON
from tests.graphs.draw import Array
from tests.sessions import THREADS, Cases, differences, feature_levels, named, run

STEPS = 3  # of the network's last quantization
# largest difference of a dynamically quantized network's outputs, in parts of their range. Where a
# float operator rounds its last bit differently, elements move by a step of a quantization, and
# everything behind moves with the range. ONNX's own evaluator is 0.0102 from ONNX Runtime on
# cifar_mnv3ish_dyn; boxes of yolov8n_dyn whose scores are below 0.01 may be anywhere
APART = 1e-2
FURTHER_APART = {"cifar_mnv3ish_dyn": 0.02, "yolov8n_dyn": 0.08}
SLOW = ("yolov8n_dyn",)  # 4.4 G multiply-adds: not on the portable level

# of these, after exact sums or on 256 values, there is one answer; what else is in a network may
# round a near-tie differently in ONNX Runtime
ONE_ANSWER = {
    *("Conv", "Gemm", "MatMul", "QGemm", "QLinearConv", "QLinearMatMul"),
    *("Clip", "HardSigmoid", "LeakyRelu", "QLinearLeakyRelu", "QLinearSigmoid", "Relu", "Sigmoid"),
    *("GlobalMaxPool", "MaxPool"),
    *("Concat", "Constant", "Gather", "QLinearConcat", "Reshape", "Shape", "Transpose"),
    *("Unsqueeze", "DequantizeLinear", "QuantizeLinear"),
}


def in_python(row: NodeRow) -> bool:
    """True for a host operator, and for a node that runs by itself."""
    return any(kernel.startswith(PYTHON) for kernel in row.kernels)


@pytest.mark.shared("*_dyn*")
@pytest.mark.parametrize("features", feature_levels(), ids=named)
def test_dynamic_quantization_agrees_with_onnxruntime(shared_model: Path, features: str) -> None:
    """Also: every level and number of threads gives the native level's bits; nothing runs in
    Python."""
    name = shared_model.stem
    if name in SLOW and features == "portable":
        pytest.skip(f"{name} takes minutes on the portable level")
    inputs, stored = arrays_of(shared_model)
    expected = native_outputs(shared_model)
    cases = Cases()
    for threads in THREADS:
        got = run(shared_model, inputs, features, threads)
        cases.check(f"{named(features)}, {threads} threads", differences(expected, got))
    for output, want in stored.items():
        apart = float(np.abs(want - expected[output]).max() / (np.ptp(want) or 1))
        print(f"\n{name} {output}: {apart:.2g} of its range")
        most = FURTHER_APART.get(name, APART)
        cases.check(output, "" if apart <= most else f"{apart:.3g} of its range apart")
        if want.size <= 1000:
            same = np.array_equal(want.argmax(-1), expected[output].argmax(-1))
            cases.check(output, "" if same else "another arg-max")
    session = qrt.load(shared_model)
    session.run(None, inputs)
    for row in session.explain():
        products = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
        left = any(op in row.operator for op in products) and row.why
        cases.check(row.node, f"{row.operator}: {row.why}" if left or in_python(row) else "")
    cases.finish(name, at_least=len(THREADS) + len(stored))


@pytest.mark.shared("*qdq*", "*qop*")
@pytest.mark.parametrize("features", feature_levels(), ids=named)
def test_agrees_with_onnxruntime(shared_model: Path, features: str) -> None:
    """Also: every level and number of threads gives the native level's bits."""
    inputs, stored = arrays_of(shared_model)
    expected = native_outputs(shared_model)
    assert list(expected) == list(stored)
    cases = Cases()
    for threads in THREADS:
        got = run(shared_model, inputs, features, threads)
        cases.check(f"{named(features)}, {threads} threads", differences(expected, got))
    model = onnx.load(shared_model)
    exact = {node.op_type for node in model.graph.node} <= ONE_ANSWER
    for name, want in stored.items():
        step = last_step(model, name)
        apart = steps_apart(want, expected[name], step)
        print(f"\n{shared_model.stem} {name}: {apart} steps of {step:.3g}{', exact' * exact}")
        cases.check(name, "" if apart <= (0 if exact else STEPS) else f"{apart} steps apart")
        axis = -1 if want.ndim else None
        same = np.array_equal(want.argmax(axis), expected[name].argmax(axis))
        if want.size <= 1000:  # scores; boxes of a detector have no arg-max
            cases.check(name, "" if same else "another arg-max")
    cases.finish(shared_model.stem, at_least=len(THREADS) + len(stored))


@pytest.mark.shared("*qdq*", "*qop*")
def test_nothing_runs_in_float_that_onnxruntime_runs_in_integers(
    shared_model: Path, tmp_path: Path
) -> None:
    model = with_names(onnx.load(shared_model))
    integer = integer_nodes(onnxruntime_graph(model, tmp_path))
    inputs, _ = arrays_of(shared_model)
    session = qrt.load(model)
    session.run(None, inputs)
    explanation = session.explain()
    cases = Cases()
    for row in explanation:
        floats = row.kernels and not row.operator.startswith("qrt.") and "float" in row.dtype
        both = integer & {row.node, *row.origin} if floats else set()
        cases.check(row.node, f"{row.operator} runs in float ({row.why})" if both else "")
        cases.check(row.node, f"{row.operator} runs in Python" if in_python(row) else "")
    known = {name for row in explanation for name in (row.node, *row.origin)}
    print(f"\n{shared_model.stem}: integer in ONNX Runtime and fused away: {integer - known}")
    cases.finish(f"{shared_model.stem}, {len(integer)} integer nodes", at_least=len(explanation))
    sums = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    assert not (integer & sums) - known, "a product is nowhere in explain()"


def arrays_of(path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and ONNX Runtime's outputs by name."""
    arrays = np.load(path.with_suffix(".npz"))
    inputs = {k[3:]: arrays[k] for k in arrays.files if k.startswith("in:")}
    return inputs, {k[4:]: arrays[k] for k in arrays.files if k.startswith("out:")}


@cache
def native_outputs(path: Path) -> dict[str, Array]:
    """What the native level gives on one thread."""
    return run(path, arrays_of(path)[0])


def last_step(model: onnx.ModelProto, output: str) -> float:
    """Scale of the last quantization before `output`."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    place = {"QuantizeLinear": 1, "DequantizeLinear": 1, "QGemm": 7, "QLinearConcat": 0}
    place |= {"QLinearConv": 6, "QLinearMatMul": 6, "QLinearAdd": 6, "QLinearMul": 6}
    while output in producers:
        node = producers[output]
        scale = place.get(node.op_type, 3 if node.op_type.startswith("QLinear") else None)
        if scale is not None and len(node.input) > scale:
            return float(constants[node.input[scale]].max())
        # of several operands the quantized one; weights are constants
        output = next(name for name in node.input if name in producers)
    raise AssertionError("nothing is quantized")


def steps_apart(expected: Array, got: Array, step: float) -> float:
    """Largest distance in quantization steps, also of outputs that are float."""
    unit = step if expected.dtype.kind == "f" else 1.0
    gap = np.abs(expected.astype(np.float64) - got.astype(np.float64)).max(initial=0) / unit
    return float(np.round(gap, 3))


def with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a name of its own for each node, which ONNX Runtime's fusions keep."""
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    return model


def onnxruntime_graph(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """What ONNX Runtime runs: its graph after the optimizations that do not depend on the CPU."""
    ort: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


def integer_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of nodes that compute on integers: QOperators, and movement of quantized tensors."""
    quantized = {
        name
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" or node.op_type.startswith(("QLinear", "QGemm"))
        for name in node.output
    }
    byte = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
    quantized |= {i.name for i in model.graph.input if i.type.tensor_type.elem_type in byte}
    names = set()
    for node in model.graph.node:  # in topological order
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.input and node.input[0] in quantized:
            quantized.update(node.output)
        if quantized.intersection(node.output):
            names.add(node.name)
    return names
