"""The QOperator spelling: each operator is its float operator between views and a QuantizeLinear.

Equation: QLinearX(a, b, y) = Q_y(X(DQ(a), DQ(b))), which products compute with one multiplier.
"""

from __future__ import annotations

import numpy as np

from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.recognise import concat, pointwise, pools, products
from qrt.passes.recognise.linear import dequantize_view, qparams_of, quantize_view
from qrt.passes.recognise.movement import move
from qrt.passes.recognise.views import Fixed, Mapped, Plain, View
from qrt.passes.recognise.walk import Outcome, Recogniser, Walk
from qrt.passes.spellings import SPELLINGS, operands_of
from qrt.quant.affine import Array

PLAIN: dict[str, Recogniser] = {
    "Add": pointwise.binary,
    "AveragePool": pools.average_pool,
    "Concat": concat.concat,
    "Conv": products.conv,
    "Gemm": products.gemm,
    "GlobalAveragePool": pools.global_average_pool,
    "LeakyRelu": pointwise.unary,
    "MatMul": products.matmul,
    "Mul": pointwise.binary,
    "ReduceMean": pools.reduce_mean,
    "Sigmoid": pointwise.unary,
    "Softmax": pools.softmax,
}


OWN = ("channels_last", "opset")  # attributes that the float operator does not have


def qoperator(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Any operator of SPELLINGS; com.microsoft's may have their channels last."""
    spelling = SPELLINGS[node.op]
    # QLinearSoftmax names the opset it means; axes of QLinearReduceMean are an attribute (13)
    version = AttrReader(node).int("opset", 13)
    attrs = {name: value for name, value in node.attrs.items() if name not in OWN}
    plain = Node(
        spelling.op, [], node.outputs, attrs, "", node.name, node.index, version, onnx_op=node.op
    )
    last = AttrReader(node).bool("channels_last", False)
    plain_views: list[View | None] = []
    for position, axis in operands_of(node):
        view = _dequantized(walk, node, position, axis)
        if isinstance(view, (str, list)):
            return view
        operand = walk.stand_in(view, node.required(position))
        if last and position == 0:  # the weights of a convolution stay as they are
            turned = _turned(walk, node, operand, to_last=False)
            if isinstance(turned, str):
                return turned
            operand = turned
        plain.inputs.append(operand)
        plain_views.append(walk.view(operand))
    bias = None if spelling.bias is None else node.input(spelling.bias)
    if bias is not None:
        plain.inputs.append(bias)
        plain_views.append(walk.view(bias))
    result = PLAIN[spelling.op](walk, plain, plain_views)
    if isinstance(result, str):
        result = _float(walk, node, plain, plain_views, result)
    if not isinstance(result, View):
        return result
    if last:
        turned = _turned(walk, node, walk.stand_in(result, node.outputs[0]), to_last=True)
        assert isinstance(turned, Value)
        result = walk.view(turned)
    return _quantized(walk, node, result, spelling.y)


def _float(walk: Walk, node: Node, plain: Node, views: list[View | None], why: str) -> Outcome:
    """Never silently: the float operator runs between its operands, and says why. Its bias counts
    steps of the product of their scales."""
    bias = None if SPELLINGS[node.op].bias is None else plain.input(2)
    if bias is not None:
        steps = walk.array(bias)
        scales = [v.qparams.scale for v in views[:2] if isinstance(v, (Fixed, Mapped))]
        if steps is None or len(scales) != 2:
            return why
        alpha = AttrReader(plain).float("alpha", 1.0) if plain.op == "Gemm" else 1.0
        real = steps.astype(np.float32) * (np.float32(alpha) * scales[0] * scales[1])
        plain.inputs[2] = walk.stand_in(Plain(walk.constant(real, bias)), bias)
    like = walk.stand_in(None, node.outputs[0])
    return Plain(walk.emit_onnx(plain, walk.reals(plain), [like], why)[0])


def _dequantized(walk: Walk, node: Node, position: int, axis: int | None) -> Outcome:
    """The view of the operand at `position`, its scale and zero point behind it."""
    scale, zero_point = (walk.array(node.input(position + i)) for i in (1, 2))
    if scale is None or (node.input(position + 2) is not None and zero_point is None):
        return f"the scale or zero point of input {position} is computed while the model runs"
    value = node.required(position)
    if axis is not None and axis < 0 and value.shape is not None:
        axis += len(value.shape)
    twin = Node(node.op, [value], node.outputs, {"axis": axis or 0}, "", node.name, node.index)
    return dequantize_view(walk, twin, walk.view(value), _float32(scale), zero_point)


def _quantized(walk: Walk, node: Node, x: View, y: int) -> Outcome:
    """QuantizeLinear of the result; QGemm without the output's scale gives float32."""
    if node.input(y) is None:
        return x
    scale, zero_point = walk.array(node.input(y)), walk.array(node.input(y + 1))
    if scale is None or (node.input(y + 1) is not None and zero_point is None):
        return "the scale or zero point of its output is computed while the model runs"
    first = node.required(operands_of(node)[0][0])
    dtype = first.dtype or np.dtype(np.uint8) if zero_point is None else zero_point.dtype
    y_qparams = qparams_of(node, _float32(scale), zero_point, dtype, axis=0)
    return quantize_view(walk, node, x, y_qparams)


def _float32(scale: Array) -> Array:
    """QLinearMatMul 21 has scales of 16 bits too; none of its tensors is a float."""
    return scale.astype(np.float32) if scale.dtype.name in ("float16", "bfloat16") else scale


def _turned(walk: Walk, node: Node, x: Value, to_last: bool) -> Value | str:
    """`x` with the channels moved to the last axis, or from there to the second."""
    if x.shape is None:
        return "the rank of its input is not known"
    rank = len(x.shape)
    perm = [0, *range(2, rank), 1] if to_last else [0, rank - 1, *range(1, rank - 1)]
    shape = tuple(x.shape[a] for a in perm)
    transpose = Node(
        "Transpose", [x], [Value(x.name, x.dtype, shape)], {"perm": perm}, "", node.name,
        node.index, 13,
    )  # fmt: skip
    moved = move(walk, transpose, [walk.view(x)])
    assert isinstance(moved, View)
    like = walk.stand_in(moved, x)
    like.shape = shape
    return like
