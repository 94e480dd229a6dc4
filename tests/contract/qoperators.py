"""The QOperator spelling: each operator is its float operator between dequantized operands and a
QuantizeLinear, so only the order of the inputs is written here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import elementwise, movement, pooling, products, softmax
from .inputs import Values, array_at, optional_array
from .linear import along, dequantized
from .node import Node
from .values import Array, Dequantized, Value, move, quantize, real

Operator = Callable[[Node, Values], Value]


def qlinear_conv(node: Node, values: Values) -> Value:
    """QLinearConv: x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, int32 bias. The weights'
    parameters are per tensor or per output channel."""
    operands = [_dequantize(values, 0), _dequantize(values, 3, axis=0), *values[8:9]]
    return _between(node, products.conv, operands, values, 6)


def qlinear_matmul(node: Node, values: Values) -> Value:
    """QLinearMatMul: a, a_scale, a_zp, b, b_scale, b_zp, y_scale, y_zp. One-dimensional parameters
    are per row of a and per column of b; others broadcast."""
    operands = [_dequantize(values, 0, axis=-2), _dequantize(values, 3, axis=-1)]
    return _between(node, products.matmul, operands, values, 6)


def qgemm(node: Node, values: Values) -> Value:
    """com.microsoft QGemm: a, a_scale, a_zp, b, b_scale, b_zp, int32 c, y_scale, y_zp. Parameters
    of b are per column of the product. c is added to the sums, alpha scales both."""
    columns = 0 if node.integer("transB", 0) else 1
    b = _dequantize(values, 3, axis=columns)
    operands = [_dequantize(values, 0), b, *values[6:7]]
    if optional_array(values, 7) is None:
        return real(products.gemm(node, operands))
    return _between(node, products.gemm, operands, values, 7)


def qlinear_binary(node: Node, values: Values) -> Value:
    """com.microsoft QLinearAdd and QLinearMul: a, scale, zp, b, scale, zp, y_scale, y_zp."""
    plain = _renamed(node, node.op_type.removeprefix("QLinear"))
    operands = [_dequantize(values, 0), _dequantize(values, 3)]
    return _between(plain, elementwise.binary, operands, values, 6)


def qlinear_unary(node: Node, values: Values) -> Value:
    """com.microsoft QLinearSigmoid and QLinearLeakyRelu: x, scale, zp, y_scale, y_zp."""
    plain = _renamed(node, node.op_type.removeprefix("QLinear"))
    return _between(plain, elementwise.unary, [_dequantize(values, 0)], values, 3)


def qlinear_softmax(node: Node, values: Values) -> Value:
    """com.microsoft QLinearSoftmax: x, scale, zp, y_scale, y_zp; attributes axis and opset."""
    return _between(node, softmax.softmax, [_dequantize(values, 0)], values, 3)


def qlinear_pool(node: Node, values: Values) -> Value:
    """com.microsoft QLinearAveragePool and QLinearGlobalAveragePool, channels_last or not."""
    operator = pooling.global_average_pool if "Global" in node.op_type else pooling.average_pool
    x: Value = _dequantize(values, 0)
    if not node.integer("channels_last", 0):
        return _between(node, operator, [x], values, 3)
    y = _between(node, operator, [move(x, lambda a: np.moveaxis(a, -1, 1))], values, 3)
    return np.moveaxis(real(y), 1, -1)


def qlinear_reduce_mean(node: Node, values: Values) -> Value:
    """com.microsoft QLinearReduceMean: x, scale, zp, y_scale, y_zp; axes is an attribute."""
    return _between(node, pooling.reduce_mean, [_dequantize(values, 0)], values, 3)


def qlinear_concat(node: Node, values: Values) -> Value:
    """com.microsoft QLinearConcat: y_scale, y_zp, then x, scale, zp of each input."""
    operands: Values = [_dequantize(values, i) for i in range(2, len(values), 3)]
    return _between(node, movement.concat, operands, values, 0)


def qlinear_where(node: Node, values: Values) -> Value:
    """com.microsoft QLinearWhere: condition, x, scale, zp, y, scale, zp, z_scale, z_zp."""
    x, y = real(_dequantize(values, 1)), real(_dequantize(values, 4))
    picked = np.where(array_at(values, 0), x, y)
    return _quantize(picked, values, 7, np.dtype(np.uint8))


def _between(node: Node, operator: Operator, operands: list[Any], values: Values, y: int) -> Value:
    """Q(operator(operands)), the output's scale and zero point being inputs `y` and `y` + 1."""
    return _quantize(operator(node, operands), values, y, operands[0].q.dtype)


def _quantize(value: Value, values: Values, y: int, dtype: np.dtype[Any]) -> Array:
    scale, zero_point = array_at(values, y), optional_array(values, y + 1)
    if zero_point is None:
        zero_point = np.zeros((), dtype)
    scale, zero = along(scale, 1, 0), along(zero_point, 1, 0).astype(np.int64)
    return quantize(value, scale, zero, zero_point.dtype)


def _dequantize(values: Values, i: int, axis: int = 1) -> Dequantized:
    """DQ of input `i` with the scale and zero point after it, along `axis` when one-dimensional."""
    x, scale, zero_point = (
        *(array_at(values, j) for j in (i, i + 1)),
        optional_array(values, i + 2),
    )
    if zero_point is None:
        zero_point = np.zeros((), x.dtype)
    return dequantized(x, along(scale, x.ndim, axis), along(zero_point, x.ndim, axis))


def _renamed(node: Node, op_type: str) -> Node:
    return Node(op_type, "", node.opset, node.inputs, node.outputs, node.attrs)
