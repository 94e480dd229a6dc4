"""The oracle itself, against ONNX Runtime, ONNX's reference, and sums written out by hand.

Where they disagree somebody is wrong; the tests at the end name each such case and who it is.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.contract import UnsupportedError, evaluate
from tests.graphs import DYNAMIC, OPERATORS, SPELLINGS, Case, case, random_graph
from tests.graphs.draw import Array
from tests.graphs.respell import as_qdq
from tests.rivals import (
    Tally,
    onnxruntime_is_wrong,
    onnxruntime_outputs,
    onnxruntime_sums_exactly,
    reference_is_wrong,
    reference_outputs,
)

PRODUCTS = {"conv": "QLinearConv", "matmul": "QLinearMatMul", "gemm": "QGemm"}
# of these every float32 step is one operation, so any float evaluator gives the same bits
EXACT_IN_FLOAT = (
    *("add", "mul", "concat", "requantize", "transpose", "reshape", "flatten"),
    *("unsqueeze", "squeeze", "pad", "slice", "resize_nearest"),
)


@pytest.mark.skipif(
    not onnxruntime_sums_exactly(), reason="ONNX Runtime saturates sums on this CPU"
)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_equal_onnxruntime(name: str) -> None:
    tally = Tally(allowed=0)
    for seed in range(220):
        model, inputs = case(np.random.default_rng((seed, 1)), name, "qop")
        got = onnxruntime_outputs(model, inputs)
        if got is not None:
            tally.add(seed, model, evaluate(model, inputs), got)
    tally.finish(f"onnxruntime {PRODUCTS[name]}", at_least=100)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", [n for n in OPERATORS if n not in (*PRODUCTS, *DYNAMIC)])
def test_operators_are_within_one_step_of_onnxruntime(name: str, spelling: str) -> None:
    exact = spelling == "qdq" and name in (*EXACT_IN_FLOAT, "max_pool")
    tally = Tally(allowed=0 if exact else 1)
    for seed in range(80):
        model, inputs = case(np.random.default_rng((seed, 2)), name, spelling)
        got = None if onnxruntime_is_wrong(model, inputs) else onnxruntime_outputs(model, inputs)
        if got is not None:
            tally.add(seed, model, evaluate(model, inputs), got)
    tally.finish(f"onnxruntime {name} {spelling}", at_least=15)


@pytest.mark.parametrize("name", PRODUCTS)
def test_qdq_products_are_within_one_step_of_onnxruntime(name: str) -> None:
    """Run as float operators there: sums and the product of scales round differently."""
    tally = Tally(allowed=1)
    for seed in range(100):
        model, inputs = case(np.random.default_rng((seed, 3)), name, "qdq")
        got = onnxruntime_outputs(model, inputs)
        if got is not None:
            tally.add(seed, model, evaluate(model, inputs), got)
    tally.finish(f"onnxruntime {name} qdq", at_least=80)


@pytest.mark.skipif(
    not onnxruntime_sums_exactly(), reason="ONNX Runtime saturates sums on this CPU"
)
@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_quantization_equals_onnxruntime(name: str) -> None:
    """Floats too, to the last bit: after the integer sums everything is element-wise."""
    different, compared = [], 0
    for seed in range(120):
        model, inputs = case(np.random.default_rng((seed, 8)), name)
        got = onnxruntime_outputs(model, inputs)
        if got is not None:
            compared += 1
            want = evaluate(model, inputs)
            different += [seed for n, y in want.items() if not np.array_equal(y, got[n])]
    assert not different
    assert compared >= 80


@pytest.mark.shared("*_qdq*", "*_qop*", "*_dyn*")
def test_real_networks_are_within_one_step_of_onnxruntime(shared_model: Path) -> None:
    """Whole networks against ONNX Runtime's stored outputs; all but a QLinearSoftmax or two agree
    bit for bit. Networks with float parts the contract does not cover are skipped."""
    model = onnx.load(shared_model)
    arrays = dict(np.load(shared_model.with_suffix(".npz")))
    inputs = {k.removeprefix("in:"): v for k, v in arrays.items() if k.startswith("in:")}
    try:
        want = evaluate(model, inputs)
    except UnsupportedError as reason:
        pytest.skip(str(reason))
    tally = Tally(allowed=1)
    tally.add("-", model, want, {k: arrays[f"out:{k}"] for k in want})
    tally.finish(shared_model.stem, at_least=1)


@pytest.mark.parametrize("name", EXACT_IN_FLOAT)
def test_operators_equal_onnx_reference(name: str) -> None:
    tally = Tally(allowed=0)
    for seed in range(25):
        model, inputs = small_case(name, (seed, 4))
        got = None if reference_is_wrong(model) else reference_outputs(model, inputs)
        if got is not None:
            tally.add(seed, model, evaluate(model, inputs), got)
    tally.finish(f"onnx reference {name}", at_least=12)


@pytest.mark.parametrize(
    "name",
    [*PRODUCTS, "unary", "gate", "softmax", "average_pool", "global_average_pool", "reduce_mean"],
)
def test_operators_are_within_one_step_of_onnx_reference(name: str) -> None:
    tally = Tally(allowed=1)
    for seed in range(25):
        model, inputs = small_case(name, (seed, 5))
        got = None if reference_is_wrong(model) else reference_outputs(model, inputs)
        if got is not None:
            tally.add(seed, model, evaluate(model, inputs), got)
    tally.finish(f"onnx reference {name}", at_least=8)


def test_spellings_agree() -> None:
    """A QOperator is its QDQ spelling, in graphs of several operators."""
    tally = Tally(allowed=0)
    for seed in range(400):
        model, inputs = random_graph(np.random.default_rng((seed, 6)), "qop")
        plain = as_qdq(model)
        if plain is not None:
            tally.add(seed, model, evaluate(model, inputs), evaluate(plain, inputs))
    tally.finish("spellings", at_least=100)


def test_random_graphs_are_deterministic_and_valid() -> None:
    for seed, spelling in itertools.product(range(40), SPELLINGS):
        model, inputs = random_graph(np.random.default_rng(seed), spelling)
        again, _ = random_graph(np.random.default_rng(seed), spelling)
        assert model == again
        onnx.checker.check_model(model)
        assert set(inputs) == {i.name for i in model.graph.input}
        evaluate(model, inputs)


@pytest.mark.parametrize("types", list(itertools.product(("u1", "i1"), repeat=3)), ids="-".join)
def test_conv_equals_scalar_loops(types: tuple[str, str, str]) -> None:
    """Signedness in all combinations, groups, strides, dilations, uneven pads; also those ONNX
    Runtime has no kernel for. Python's integers, one NumPy float32 scalar at a time."""
    rng = np.random.default_rng(7)
    x = _random(rng, (2, 4, 5, 6), types[0])
    w = _random(rng, (6, 2, 3, 2), types[1])
    x_zero, w_zero, y_zero = (_random(rng, (), t) for t in types)
    x_scale, y_scale = np.float32(0.031), np.float32(3.7)
    w_scale = rng.uniform(0.01, 0.05, 6).astype(np.float32)
    bias = rng.integers(-9999, 9999, 6).astype(np.int32)
    weights = [x_scale, x_zero, w, w_scale, np.full(6, w_zero), y_scale, y_zero, bias]
    attrs = {"group": 2, "strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 2, 3]}
    got = _run("QLinearConv", [x, *weights], y_zero.dtype, **attrs)
    qmin, qmax = np.iinfo(y_zero.dtype).min, np.iinfo(y_zero.dtype).max
    for n, m, i, j in np.ndindex(*got.shape):
        acc = int(bias[m])
        for c, p, q in np.ndindex(2, 3, 2):
            row, column = 2 * i + p - 1, j + 2 * q
            if 0 <= row < 5 and 0 <= column < 6:
                tap = int(x[n, m // 3 * 2 + c, row, column]) - int(x_zero)
                acc += tap * (int(w[m, c, p, q]) - int(w_zero))
        multiplier = (x_scale * w_scale[m]) / y_scale
        y = int(np.rint(np.float32(acc) * multiplier)) + int(y_zero)
        assert got[n, m, i, j] == min(max(y, qmin), qmax)


def test_float_bias_joins_the_sums_before_requantization() -> None:
    """0.6 is 2.4 steps of 0.5 * 0.5: 2 steps; 3 sums + 2 = 5 steps = 1.25 -> 1 in steps of 1."""
    dq = [("DequantizeLinear", ["x", "half"], ["xf"]), ("DequantizeLinear", ["w", "half"], ["wf"])]
    chain = [*dq, ("Gemm", ["xf", "wf", "bias"], ["f"]), ("QuantizeLinear", ["f", "one"], ["y"])]
    constants = {
        "w": np.array([[1]], np.uint8),
        "half": np.float32(0.5),
        "one": np.float32(1),
        "bias": np.array([0.6], np.float32),
    }
    x = np.array([[3]], np.uint8)
    assert _chain(chain, constants, x, "y", TensorProto.UINT8) == 1
    # without a QuantizeLinear the bias is added as it is
    assert _chain(chain[:-1], constants, x, "f", TensorProto.FLOAT) == np.float32(0.75 + 0.6)


def test_clip_narrows_the_clamp() -> None:
    """Relu6 in steps of 0.1, zero point 10, is the clamp [10, 70]."""
    dq = [
        ("DequantizeLinear", ["x", "one", "four"], ["xf"]),
        ("DequantizeLinear", ["w", "one"], ["wf"]),
    ]
    clip = ("Clip", ["f", "zero", "six"], ["c"])
    quantize = ("QuantizeLinear", ["c", "tenth", "ten"], ["y"])
    chain = [*dq, ("MatMul", ["xf", "wf"], ["f"]), clip, quantize]
    constants = {
        "w": np.array([[1]], np.uint8),
        "four": np.uint8(4),
        "ten": np.uint8(10),
        "one": np.float32(1),
        "zero": np.float32(0),
        "six": np.float32(6),
        "tenth": np.float32(0.1),
    }
    x = np.arange(12, dtype=np.uint8).reshape(12, 1)
    got = _chain(chain, constants, x, "y", TensorProto.UINT8)
    assert got[:, 0].tolist() == [10] * 5 + [20, 30, 40, 50, 60, 70, 70]


def test_what_the_contract_does_not_cover_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="LSTM"):
        _run("LSTM", [np.zeros((1, 1, 1), np.float32)], np.dtype("f4"))
    with pytest.raises(UnsupportedError, match="dequantized"):
        _run("MatMul", [np.zeros((2, 2), np.float32)] * 2, np.dtype("f4"))


# Disagreements. Each states who is right; the contract follows QuantizeLinear's definition.


def test_zero_point_is_added_after_rounding_the_reference_rounds_last() -> None:
    """acc * multiplier = 0.5, zero point 1. ONNX's QLinearMatMul reference: rint(1.5) = 2. ONNX
    Runtime and QuantizeLinear: rint(0.5) + 1 = 1. The contract follows the latter."""
    half, one, zero = np.float32(0.5), np.float32(1), np.uint8(0)
    x = np.array([[1]], np.uint8)
    model = _model("QLinearMatMul", [x, half, zero, x, one, zero, one, np.uint8(1)], np.dtype("u1"))
    assert evaluate(*model)["y"] == 1
    assert np.asarray(ReferenceEvaluator(model[0]).run(None, model[1])[0]) == 2  # type: ignore[index]
    runtime = onnxruntime_outputs(*model)
    assert runtime is not None
    assert runtime["y"] == 1


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_onnxruntime_rounds_binary_operators_after_the_zero_point(op: str) -> None:
    """0.5 with an odd zero point: ONNX Runtime's fused kernel rounds 1.5, its own QDQ spelling 0.5.
    The QDQ spelling is the definition."""
    half, one, zero = np.float32(0.5), np.float32(1), np.uint8(0)
    second = np.array([0 if op == "QLinearAdd" else 1], np.uint8)
    x = np.array([1], np.uint8)
    values = [x, half, zero, second, one, zero, one, np.uint8(1)]
    model = _model(op, values, np.dtype("u1"), "com.microsoft")
    plain = as_qdq(model[0])
    assert plain is not None
    for spelled in (model[0], plain):
        assert evaluate(spelled, model[1])["y"] == 1
    fused, float_ = onnxruntime_outputs(*model), onnxruntime_outputs(plain, model[1])
    assert fused is not None
    assert float_ is not None
    assert [int(fused["y"][0]), int(float_["y"][0])] == [2, 1]


def small_case(name: str, seed: tuple[int, int]) -> Case:
    """A QDQ case of at most 2000 input elements: the reference loops in Python."""
    for attempt in itertools.count():
        # before opset 19 the reference has no DequantizeLinear
        found = case(np.random.default_rng((*seed, attempt)), name, "qdq", opset=19)
        if sum(x.size for x in found[1].values()) <= 2000:
            return found
    raise AssertionError


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    info = np.iinfo(dtype)
    return np.asarray(rng.integers(info.min, info.max + 1, shape)).astype(dtype)


def _model(
    op: str, values: list[Any], dtype: np.dtype[Any], domain: str = "", **attrs: Any
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """One node; the first value is the graph input, the others are constants."""
    arrays = [np.asarray(v) for v in values]
    names = [f"i{i}" for i in range(len(arrays))]
    node = helper.make_node(op, names, ["y"], domain=domain, **attrs)
    constants = [numpy_helper.from_array(a, n) for a, n in zip(arrays[1:], names[1:], strict=True)]
    kind = helper.np_dtype_to_tensor_dtype
    x = helper.make_tensor_value_info("i0", kind(arrays[0].dtype), arrays[0].shape)
    y = helper.make_tensor_value_info("y", kind(dtype), None)
    graph = helper.make_graph([node], "one", [x], [y], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), {"i0": arrays[0]}


def _run(op: str, values: list[Any], dtype: np.dtype[Any], **attrs: Any) -> Array:
    return evaluate(*_model(op, values, dtype, **attrs))["y"]


def _chain(
    nodes: list[tuple[str, list[str], list[str]]],
    constants: dict[str, Any],
    x: Array,
    output: str,
    kind: int,
) -> Array:
    """Evaluate `nodes` (operator, inputs, outputs) on the graph input 'x'."""
    protos = [helper.make_node(op, names, outputs) for op, names, outputs in nodes]
    arrays = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph_input = helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)
    graph_output = helper.make_tensor_value_info(output, kind, None)
    graph = helper.make_graph(protos, "chain", [graph_input], [graph_output], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return evaluate(model, {"x": x})[output]
