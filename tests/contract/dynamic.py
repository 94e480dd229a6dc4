"""Dynamic quantization: scales computed from the data, products left in integers or made float.

The float operators that follow ConvInteger and MatMulInteger (Cast, Mul by the scales, Add a bias)
are element-wise, so their float32 results are exact too.
"""

from __future__ import annotations

import numpy as np

from . import products
from .inputs import Values, array_at, optional_array
from .linear import along, dequantized
from .node import Node
from .values import Array, Dequantized, Product, UnsupportedError, Value, quantize, real

U8 = np.dtype(np.uint8)


def dynamic_quantize_linear(node: Node, values: Values) -> tuple[Value, ...]:
    """DynamicQuantizeLinear (opset 11): q, scale, zero point of the range of x, which holds 0."""
    return _quantized_range(array_at(values, 0))


def matmul_integer(node: Node, values: Values) -> Value:
    """MatMulInteger: a, b, a_zp, b_zp; one-dimensional zero points are per row and per column."""
    a, b = _centered(values, 0, 2, axis=-2), _centered(values, 1, 3, axis=-1)
    return _int32(products.matmul(node, [a, b]))


def conv_integer(node: Node, values: Values) -> Value:
    """ConvInteger: x, w, x_zp, w_zp; one-dimensional zero points are per output channel."""
    x, w = _centered(values, 0, 2, axis=1), _centered(values, 1, 3, axis=0)
    return _int32(products.conv(node, [x, w]))


def matmul_integer_to_float(node: Node, values: Values) -> Value:
    """com.microsoft MatMulIntegerToFloat: a, b, a_scale, b_scale, a_zp, b_zp, float bias."""
    a = _centered(values, 0, 4, axis=-2, scale=optional_array(values, 2))
    b = _centered(values, 1, 5, axis=-1, scale=optional_array(values, 3))
    return _biased(real(products.matmul(node, [a, b])), optional_array(values, 6))


def dynamic_quantize_matmul(node: Node, values: Values) -> Value:
    """com.microsoft DynamicQuantizeMatMul: float a, b, b_scale, b_zp, float bias."""
    q, scale, zero_point = _quantized_range(array_at(values, 0))
    a = dequantized(q, scale, zero_point)
    b = _centered(values, 1, 3, axis=-1, scale=optional_array(values, 2))
    return _biased(real(products.matmul(node, [a, b])), optional_array(values, 4))


def _quantized_range(x: Array) -> tuple[Array, Array, Array]:
    if x.dtype != np.float32 or x.size == 0:
        raise UnsupportedError(f"dynamic quantization of {x.dtype} {x.shape}")
    low, high = np.minimum(np.float32(0), x.min()), np.maximum(np.float32(0), x.max())
    # nothing but zeros: the range is taken for 0 to 255
    scale = np.float32(1) if low == high else np.float32((high - low) / np.float32(255))
    zero_point = np.rint(np.clip(np.float32(0) - low / scale, 0, 255)).astype(np.uint8)
    q = quantize(x, np.asarray(scale), np.asarray(zero_point, np.int64), U8)
    return q, np.asarray(scale), np.asarray(zero_point)


def _centered(
    values: Values, x: int, zero_point: int, axis: int, scale: Array | None = None
) -> Dequantized:
    """Input `x` with its zero point, which may be absent, and the scale 1 unless given."""
    q, zero = array_at(values, x), optional_array(values, zero_point)
    zero = np.zeros((), q.dtype) if zero is None else zero
    scale = np.ones((), np.float32) if scale is None else scale
    return dequantized(q, along(scale, q.ndim, axis), along(zero, q.ndim, axis))


def _int32(product: Value) -> Array:
    assert isinstance(product, Product)
    limits = np.iinfo(np.int32)
    if product.acc.size and not limits.min <= product.acc.min() <= product.acc.max() <= limits.max:
        raise UnsupportedError("sums beyond int32")
    return product.acc.astype(np.int32)


def _biased(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias
