"""The QOperator spelling: each operator is its float operator between views and a QuantizeLinear.

Equation: QLinearX(a, b, y) = Q_y(X(DQ(a), DQ(b))), which products compute with one multiplier.
"""

from __future__ import annotations

import numpy as np

from qrt.ir import Node
from qrt.loader.qoperators import Operand, operands_of
from qrt.passes.recognise import concat, pointwise, pools, products
from qrt.passes.recognise.linear import dequantize_view, qparams_of, quantize_view
from qrt.passes.recognise.views import Plain, View
from qrt.passes.recognise.walk import Outcome, Recogniser, Walk

# QOperator -> the ONNX operator it is, and who recognises that between views
PLAIN: dict[str, tuple[str, Recogniser]] = {
    "QGemm": ("Gemm", products.gemm),
    "QLinearAdd": ("Add", pointwise.binary),
    "QLinearAveragePool": ("AveragePool", pools.average_pool),
    "QLinearConcat": ("Concat", concat.concat),
    "QLinearConv": ("Conv", products.conv),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", pools.global_average_pool),
    "QLinearLeakyRelu": ("LeakyRelu", pointwise.unary),
    "QLinearMatMul": ("MatMul", products.matmul),
    "QLinearMul": ("Mul", pointwise.binary),
    "QLinearReduceMean": ("ReduceMean", pools.reduce_mean),
    "QLinearSigmoid": ("Sigmoid", pointwise.unary),
    "QLinearSoftmax": ("Softmax", pools.softmax),
}
BIAS = {"QGemm": 6, "QLinearConv": 8}  # position of the int32 bias


def qoperator(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """A node of PLAIN, or of com.microsoft with channels_last."""
    op, recognise = PLAIN[node.op]
    if node.attrs.get("channels_last", 0):
        return "channels_last is not supported"
    operands = operands_of(node)
    inputs = [o for o in operands if o.tensor is not None]
    output = next(o for o in operands if o.tensor is None)
    plain = Node(op, [], node.outputs, node.attrs, "", node.name, node.index, _version(node))
    plain_views: list[View | None] = []
    for operand in inputs:
        assert operand.tensor is not None
        view = _dequantized(walk, node, operand)
        if isinstance(view, (str, list)):
            return view
        value = node.required(operand.tensor)
        plain.inputs.append(walk.stand_in(view, value))
        plain_views.append(view)
    bias = node.input(BIAS[node.op]) if node.op in BIAS else None
    if bias is not None:
        plain.inputs.append(bias)
        plain_views.append(walk.view(bias))
    result = recognise(walk, plain, plain_views)
    if isinstance(result, str):
        # never silently: the float operator runs between its operands, and says why
        like = walk.stand_in(View(), node.outputs[0])
        result = Plain(walk.emit_onnx(plain, walk.reals(plain), [like], result)[0])
    assert isinstance(result, View)
    if output.scale is None or node.input(output.scale) is None:  # QGemm with a float result
        return result
    return _quantized(walk, node, result, output)


def _dequantized(walk: Walk, node: Node, operand: Operand) -> Outcome:
    """The view of one operand with its scale and zero point."""
    assert operand.tensor is not None and operand.scale is not None
    scale = walk.array(node.input(operand.scale))
    zero_point = walk.array(node.input(operand.zero_point))
    if scale is None or (node.input(operand.zero_point) is not None and zero_point is None):
        return f"{operand.name}_scale or {operand.name}_zero_point is computed while the model runs"
    value = node.required(operand.tensor)
    axis = operand.axis
    if axis is not None and axis < 0 and value.shape is not None:
        axis += len(value.shape)
    twin = Node(node.op, [value], node.outputs, {"axis": axis or 0}, "", node.name, node.index)
    return dequantize_view(walk, twin, walk.view(value), scale, zero_point)


def _quantized(walk: Walk, node: Node, x: View, output: Operand) -> Outcome:
    assert output.scale is not None
    scale = walk.array(node.input(output.scale))
    zero_point = walk.array(node.input(output.zero_point))
    if scale is None or (node.input(output.zero_point) is not None and zero_point is None):
        return "y_scale or y_zero_point is computed while the model runs"
    first = next(o.tensor for o in operands_of(node) if o.tensor is not None)
    dtype = zero_point.dtype if zero_point is not None else node.required(first).dtype
    y = qparams_of(node, scale, zero_point, dtype or np.dtype(np.uint8), axis=0)
    return quantize_view(walk, node, x, y)


def _version(node: Node) -> int:
    """The opset whose meaning the float operator has: QLinearSoftmax names it, axes of
    QLinearReduceMean are an attribute (before 18)."""
    return int(node.attrs.get("opset", 13))
