"""Operators that are written out run natively, and give what onnx.reference gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import qrt
from tests.graphs.draw import Array

RNG = np.random.default_rng(11)
X = RNG.normal(size=(2, 6, 5, 4)).astype(np.float32)
CHANNELS = [RNG.uniform(0.5, 2, 6).astype(np.float32) for _ in range(2)]
AXES = np.array([1, -1])


def model_of(
    node: onnx.NodeProto, feeds: dict[str, Array], opset: int = 22
) -> onnx.ModelProto:
    """One node; the first of `feeds` is an input, the others are constants."""
    name, *rest = feeds
    constants = [onnx.numpy_helper.from_array(feeds[n], n) for n in rest]
    kind = helper.np_dtype_to_tensor_dtype(feeds[name].dtype)
    ends = [helper.make_tensor_value_info(name, kind, feeds[name].shape)], [
        onnx.ValueInfoProto(name=node.output[0])
    ]
    graph = helper.make_graph([node], "g", *ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")


def cases() -> dict[str, tuple[onnx.NodeProto, dict[str, Array], int]]:
    """Every operator by its name, and its opset."""
    make = helper.make_node
    found = {}
    for op in REDUCTIONS:
        x = np.abs(X) if op == "ReduceLogSum" else X
        found[op] = make(op, ["x", "axes"], ["y"], keepdims=0), {"x": x, "axes": AXES}, 22
        found[f"{op} 13"] = make(op, ["x"], ["y"], axes=[1, -1]), {"x": x}, 13
    norm = {"x": X, "scale": CHANNELS[0], "bias": CHANNELS[1]}
    found["InstanceNormalization"] = make("InstanceNormalization", list(norm), ["y"]), norm, 22
    group = make("GroupNormalization", list(norm), ["y"], num_groups=3, epsilon=1e-3)
    found["GroupNormalization"] = group, norm, 22
    found["CastLike"] = make("CastLike", ["x", "t"], ["y"]), {"x": X, "t": AXES}, 22
    return found


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_natively(name: str) -> None:
    node, feeds, opset = CASES[name]
    model = model_of(node, feeds, opset)
    inputs = {"x": feeds["x"]}
    (want,) = ReferenceEvaluator(model).run(None, inputs)
    session = qrt.load(model)
    (got,) = session.run(None, inputs)
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
    assert not any("host" in kernel for row in session.explain() for kernel in row.kernels)


def test_log_sum_exp_of_large_numbers() -> None:
    """log(sum(exp(x))), also where exp alone would overflow; of nothing but -inf it is -inf."""
    x = np.array([[np.inf, 0, 1], [-np.inf] * 3, [200, 199, -200]], np.float32)
    node = helper.make_node("ReduceLogSumExp", ["x", "axes"], ["y"], keepdims=0)
    (got,) = qrt.load(model_of(node, {"x": x, "axes": np.array([1])})).run(None, {"x": x})
    np.testing.assert_allclose(got, [np.inf, -np.inf, 200 + np.log1p(np.exp(-1))], rtol=2e-7)


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_names_that_onnx_runtime_writes_into_onnx_s_domain(op: str) -> None:
    """In an opset that has no such operator."""
    scale = RNG.uniform(0.5, 2, 4).astype(np.float32)
    node = helper.make_node(op, ["x", "scale"], ["y"], axis=-1, epsilon=1e-5)
    session = qrt.load(model_of(node, {"x": X, "scale": scale}, 13))
    wide = X.astype(np.float64)
    if op == "LayerNormalization":
        wide = wide - wide.mean(-1, keepdims=True)
    want = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + 1e-5) * scale
    (got,) = session.run(None, {"x": X})
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert not any("host" in kernel for row in session.explain() for kernel in row.kernels)


def test_other_names_are_still_unknown() -> None:
    node = helper.make_node("SkipLayerNormalization", ["x", "x", "x"], ["y"])
    with pytest.raises(qrt.QrtError, match="'SkipLayerNormalization' is not an ONNX operator"):
        qrt.load(model_of(node, {"x": X}, 13))
