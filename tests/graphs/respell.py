"""Rewrite QOperators as what they mean: DequantizeLinear, the float operator, QuantizeLinear."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

# QOperator -> float operator, operands (index of x, of its scale), index of the bias, of y_scale
_FORMS: dict[str, tuple[str, tuple[int, ...], int | None, int]] = {
    "QLinearConv": ("Conv", (0, 3), 8, 6),
    "QLinearMatMul": ("MatMul", (0, 3), None, 6),
    "QGemm": ("Gemm", (0, 3), 6, 7),
    "QLinearAdd": ("Add", (0, 3), None, 6),
    "QLinearMul": ("Mul", (0, 3), None, 6),
    "QLinearSigmoid": ("Sigmoid", (0,), None, 3),
    "QLinearLeakyRelu": ("LeakyRelu", (0,), None, 3),
    "QLinearSoftmax": ("Softmax", (0,), None, 3),
    "QLinearAveragePool": ("AveragePool", (0,), None, 3),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,), None, 3),
}


def as_qdq(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """`model` without QOperators, the same outputs by name; None for what QDQ cannot say: an int32
    bias (its scale is a product that need not be a float32), channels_last, per-channel parameters
    before opset 13, another operator set for Softmax."""
    sizes = {t.name: onnx.numpy_helper.to_array(t).size for t in model.graph.initializer}
    opset = next(o.version for o in model.opset_import if o.domain == "")
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "QLinearConcat":
            nodes += _concat(node)
        elif node.op_type in _FORMS:
            rewritten = _rewrite(node, sizes, opset)
            if rewritten is None:
                return None
            nodes += rewritten
        else:
            nodes.append(node)
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    return plain


def _rewrite(
    node: onnx.NodeProto, sizes: dict[str, int], opset: int
) -> list[onnx.NodeProto] | None:
    op, operands, bias, y = _FORMS[node.op_type]
    inputs, out = list(node.input), node.output[0]
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if bias is not None and len(inputs) > bias and inputs[bias]:
        return None
    if attrs.pop("channels_last", 0) or attrs.pop("opset", opset) != opset:
        return None
    nodes = []
    for i, start in enumerate(operands):
        x, scale, zero = inputs[start : start + 3]
        axis: dict[str, Any] = {}
        if sizes.get(scale, 1) > 1 or sizes.get(zero, 1) > 1:
            if opset < 13 or sizes.get(scale, 1) != sizes.get(zero, 1):
                return None
            axis = {"axis": {"Conv": 0, "Gemm": 0 if attrs.get("transB") else 1}.get(op, -1)}
        nodes.append(
            helper.make_node("DequantizeLinear", [x, scale, zero], [f"{out}_dq{i}"], **axis)
        )
    nodes.append(helper.make_node(op, [n.output[0] for n in nodes], [f"{out}_f"], **attrs))
    return [*nodes, helper.make_node("QuantizeLinear", [f"{out}_f", *inputs[y : y + 2]], [out])]


def _concat(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    inputs, out = list(node.input), node.output[0]
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    parts = [inputs[i : i + 3] for i in range(2, len(inputs), 3)]
    names = [f"{out}_dq{i}" for i in range(len(parts))]
    nodes = [
        helper.make_node("DequantizeLinear", part, [name])
        for part, name in zip(parts, names, strict=True)
    ]
    nodes.append(helper.make_node("Concat", names, [f"{out}_f"], **attrs))
    return [*nodes, helper.make_node("QuantizeLinear", [f"{out}_f", *inputs[:2]], [out])]
