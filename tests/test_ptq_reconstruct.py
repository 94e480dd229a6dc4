"""Gradients beside finite differences, and what reconstruction makes of a quantized model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qrt
from qrt.errors import QuantizationError
from qrt.ptq.backprop import OPS
from qrt.ptq.config import Grid, QuantConfig

Array = np.ndarray[Any, Any]
PADS = {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "strides": [2, 1]}
IMAGE, ROWS = (2, 4, 5, 6), (3, 4)
# operator, attributes, shapes of real inputs, constants behind them
CASES: list[tuple[str, dict[str, Any], list[tuple[int, ...]], list[Array]]] = [
    ("Conv", PADS, [IMAGE, (6, 4, 3, 3), (6,)], []),
    ("Conv", {**PADS, "group": 2, "dilations": [2, 1]}, [IMAGE, (6, 2, 3, 3)], []),
    ("Conv", {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]},
     [IMAGE, (4, 1, 3, 3), (4,)], []),
    ("Gemm", {"transB": 1}, [ROWS, (5, 4), (5,)], []),
    ("Gemm", {"beta": 0.5}, [ROWS, (4, 5), (1, 5)], []),
    ("MatMul", {}, [(2, 3, 4), (4, 5)], []),
    ("Add", {}, [IMAGE, (4, 1, 1)], []),
    ("Sub", {}, [(4, 1, 1), IMAGE], []),
    ("Mul", {}, [IMAGE, (2, 4, 1, 1)], []),
    ("Relu", {}, [IMAGE], []),
    ("LeakyRelu", {"alpha": 0.1}, [IMAGE], []),
    ("Clip", {}, [IMAGE], [np.float32(-0.5), np.float32(0.7)]),
    ("Sigmoid", {}, [IMAGE], []),
    ("Tanh", {}, [IMAGE], []),
    ("HardSigmoid", {"alpha": 0.3}, [IMAGE], []),
    ("HardSwish", {}, [IMAGE], []),
    ("Softmax", {"axis": 1}, [IMAGE], []),
    ("LogSoftmax", {"axis": -1}, [ROWS], []),
    ("MaxPool", PADS, [IMAGE], []),
    ("AveragePool", PADS, [IMAGE], []),
    ("AveragePool", {**PADS, "count_include_pad": 1}, [IMAGE], []),
    ("GlobalAveragePool", {}, [IMAGE], []),
    ("ReduceMean", {"keepdims": 0}, [IMAGE], [np.array([2, -1])]),
    ("Transpose", {"perm": [0, 2, 3, 1]}, [IMAGE], []),
    ("Concat", {"axis": 1}, [IMAGE, (2, 3, 5, 6)], []),
]  # fmt: skip


def test_every_operator_has_its_case() -> None:
    assert {op for op, *_ in CASES} == set(OPS)


@pytest.mark.parametrize(("op", "attrs", "shapes", "constants"), CASES)
def test_gradients(
    op: str, attrs: dict[str, Any], shapes: list[tuple[int, ...]], constants: list[Array]
) -> None:
    """The result is the reference's; its slope along a random line is the gradient's."""
    rng = np.random.default_rng(1)
    real = [rng.standard_normal(shape) for shape in shapes]
    arrays = [*(a.astype(np.float32) for a in real), *constants]
    names = [f"i{n}" for n in range(len(arrays))]
    node = helper.make_node(op, names, ["y"], **attrs)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (*names, "y")]
    graph = helper.make_graph([node], "g", ends[:-1], ends[-1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    (want,) = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    parsed = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    y, back = OPS[op](parsed, *arrays)
    assert np.allclose(y, want, rtol=1e-4, atol=1e-5)
    upstream = rng.standard_normal(y.shape).astype(np.float32)
    found = back(upstream)
    for n, shape in enumerate(shapes):
        slope = found[n]
        assert slope is not None
        assert slope.shape == shape
        line, reach = rng.standard_normal(shape), 1e-3
        ends_of = []
        for sign in (1, -1):
            moved = list(arrays)
            moved[n] = (real[n] + sign * reach * line).astype(np.float32)
            ends_of.append(float((OPS[op](parsed, *moved)[0].astype(np.float64) * upstream).sum()))
        along = float((slope * line).sum())
        size = float(np.abs(slope * line).sum())
        # a kink of a clamp or a maximum that the step crosses moves it by a few elements' share
        assert abs((ends_of[0] - ends_of[1]) / (2 * reach) - along) <= 0.02 * size + 1e-3, n


def _residual(rng: np.random.Generator) -> onnx.ModelProto:
    """Two convolutions in a residual block, a constant added, a pool over all, an output, too, a
    Reshape of one sample, a Gemm."""
    arrays: dict[str, Array] = {
        "w1": rng.standard_normal((8, 3, 3, 3)) / 5, "b1": rng.standard_normal(8) / 5,
        "w2": rng.standard_normal((8, 8, 1, 1)) / 3, "w3": rng.standard_normal((5, 8)) / 3,
        "shift": rng.standard_normal((8, 1, 1)),
    }  # fmt: skip
    tensors = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    tensors.append(numpy_helper.from_array(np.array([1, -1]), "shape"))
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "one", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "two"),
        helper.make_node("Add", ["c2", "r1"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["r2"]),
        helper.make_node("Add", ["r2", "shift"], ["moved"]),
        helper.make_node("GlobalAveragePool", ["moved"], ["mean"]),
        helper.make_node("Reshape", ["mean", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3"], ["y"], "three", transB=1),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in (("x", (1, 3, 8, 8)), ("y", (1, 5)), ("mean", (1, 8, 1, 1)))]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_reconstruction_comes_nearer_on_other_samples() -> None:
    rng = np.random.default_rng(2)
    model = _residual(rng)
    x = (rng.standard_normal((96, 3, 8, 8)) + 0.5).astype(np.float32)
    x += np.roll(x, 1, axis=3)
    few = Grid(bits=4, signed=True, symmetric=True, granularity="per_channel")
    teacher = ReferenceEvaluator(model)
    want = np.concatenate([teacher.run(None, {"x": x[i : i + 1]})[0] for i in range(64, 96)])

    def error(made: onnx.ModelProto) -> float:
        onnx.checker.check_model(made, full_check=True)
        session = qrt.load(made)
        got = np.concatenate([session.run(None, {"x": x[i : i + 1]})[0] for i in range(64, 96)])
        return float(((got - want) ** 2).mean())

    def static(again: bool) -> float:
        config = QuantConfig(weights=few, rounding="gptq", reconstruct=again)
        return error(qrt.quantize_static(model, x[:64], config))

    def blocks(again: bool) -> float:
        return error(
            qrt.quantize_weights(model, 4, 8, calibration_data=x[:64], method="rtn",
                                 reconstruct=again)
        )  # fmt: skip

    for of in (static, blocks):
        assert of(True) < 0.8 * of(False), of


def test_what_has_no_gradient_is_named() -> None:
    model = _residual(np.random.default_rng(3))
    model.graph.node[4].op_type = "Softplus"
    model.graph.node[4].name = "bend"
    x = np.random.default_rng(4).standard_normal((2, 3, 8, 8)).astype(np.float32)
    with pytest.raises(QuantizationError, match="Softplus 'bend' has no gradient"):
        qrt.quantize_static(model, x, QuantConfig(reconstruct=True))
    with pytest.raises(QuantizationError, match="reconstruct needs calibration_data"):
        qrt.quantize_weights(model, reconstruct=True)
