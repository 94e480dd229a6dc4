"""Conv, MatMul and Gemm of quantized operands: exact integer sums, scaled only afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .inputs import Values, dequantized_at
from .node import Node
from .values import Array, Dequantized, Product, UnsupportedError, Value, move, per_tensor, real
from .windows import Windows

BIAS_SCALE_TOLERANCE = 1e-5  # relative; two float32 products in different order differ by 1e-7


def conv(node: Node, values: Values) -> Value:
    """Conv (opset 1 to 22), any number of spatial axes, groups, dilations. N, C, spatial..."""
    x, w = _operand(node, values, 0), _operand(node, values, 1)
    group = node.integer("group", 1)
    channels, kernel = w.shape[0], w.shape[2:]
    node.refuse_unless(x.shape[1] == w.shape[1] * group, "input channels do not match the weights")
    windows = Windows.of(node, x.shape[2:], kernel)
    taps = windows.gather(x.centered(), fill=0)
    # (group, K, N * positions) so that one matrix product per group makes the sums
    n, rank = x.shape[0], len(kernel)
    depth = w.shape[1] * math.prod(kernel)
    taps = taps.reshape(n, group, w.shape[1], *windows.counts, *kernel)
    order = (1, 2, *range(3 + rank, 3 + 2 * rank), 0, *range(3, 3 + rank))
    columns = taps.transpose(order).reshape(group, depth, n * math.prod(windows.counts))
    rows = w.centered().reshape(group, channels // group, depth)
    acc = _exact_matmul(rows, columns).reshape(channels, n, *windows.counts)
    acc = np.moveaxis(acc, 0, 1)
    w_scale = _constant_along(w.scale, tuple(range(1, w.q.ndim)))
    per_channel = (1, channels, *(1,) * rank)
    x_scale = np.asarray(per_tensor(x)[0])
    bias = None if len(values) < 3 or values[2] is None else values[2]
    if bias is not None:
        bias = move(bias, lambda a: a.reshape(per_channel))
    return _product(acc, x_scale, w_scale.reshape(per_channel), bias)


def matmul(node: Node, values: Values) -> Value:
    """MatMul with NumPy broadcasting; scales may differ per row of a and per column of b."""
    a, b = _operand(node, values, 0), _operand(node, values, 1)
    squeeze_row, squeeze_column = a.q.ndim == 1, b.q.ndim == 1
    if squeeze_row:
        a = _moved(a, lambda v: v[None, :])
    if squeeze_column:
        b = _moved(b, lambda v: v[:, None])
    product = _matmul(a, b, None)
    drop = (*((-2,) if squeeze_row else ()), *((-1,) if squeeze_column else ()))
    if not drop:
        return product

    def shrink(v: Array) -> Array:
        return np.broadcast_to(v, product.shape).squeeze(drop)

    scale, exact = shrink(product.scale), shrink(product.exact_scale)
    return Product(product.acc.squeeze(drop), scale, exact)


def gemm(node: Node, values: Values) -> Value:
    """Gemm: alpha * a @ b + beta * c. alpha goes into a's scale, beta into a float c."""
    a, b = _operand(node, values, 0), _operand(node, values, 1)
    c = values[2] if len(values) > 2 else None
    if node.integer("transA", 0):
        a = _moved(a, np.transpose)
    if node.integer("transB", 0):
        b = _moved(b, np.transpose)
    alpha, beta = np.float32(node.real("alpha", 1.0)), np.float32(node.real("beta", 1.0))
    a = Dequantized(a.q, alpha * a.scale, a.zero_point)
    if c is not None and beta != 1:
        c = beta * real(c)
    return _matmul(a, b, c)


def _matmul(a: Dequantized, b: Dequantized, bias: Value | None) -> Product:
    acc = _exact_matmul(a.centered(), b.centered())
    a_scale, b_scale = _constant_along(a.scale, (-1,)), _constant_along(b.scale, (-2,))
    return _product(acc, a_scale, b_scale, bias)


def _product(acc: Array, x_scale: Array, w_scale: Array, bias: Value | None) -> Product:
    """Attach scales and bias. An int32 array is a bias in steps of x_scale * w_scale by definition
    (QLinearConv, QGemm); a dequantized int32 is one when its scale says so."""
    scale = x_scale * w_scale
    exact = x_scale.astype(np.float64) * w_scale.astype(np.float64)
    if bias is None:
        return Product(acc, scale, exact)
    if isinstance(bias, np.ndarray) and bias.dtype == np.int32:
        return Product(acc + bias.astype(np.int64), scale, exact)
    if isinstance(bias, Dequantized) and bias.q.dtype == np.int32:
        gap = np.abs(bias.scale.astype(np.float64) - exact)
        if (gap <= BIAS_SCALE_TOLERANCE * np.abs(exact)).all():
            return Product(acc + bias.centered(), scale, exact)
    floats = real(bias)
    if floats.dtype != np.float32:
        raise UnsupportedError(f"a bias of type {floats.dtype}")
    return Product(acc, scale, exact, floats)


def _operand(node: Node, values: Values, i: int) -> Dequantized:
    value = dequantized_at(values, i)
    widest = 2 if i == 0 else 1  # activations may have 16 bits
    node.refuse_unless(value.q.dtype.itemsize <= widest, f"operands of {value.q.dtype}")
    return value


def _moved(value: Dequantized, movement: Callable[[Array], Array]) -> Dequantized:
    moved = move(value, movement)
    assert isinstance(moved, Dequantized)
    return moved


def _exact_matmul(a: Array, b: Array) -> Array:
    # exact: |a * b| <= 65535 * 255, so float64 holds sums of 10^8 of them
    return np.rint(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def _constant_along(scale: Array, axes: tuple[int, ...]) -> Array:
    """`scale` with `axes` reduced to length 1; raises when it varies along them."""
    if scale.size == 0:
        raise UnsupportedError("a product of empty operands")
    low, high = scale.min(axis=axes, keepdims=True), scale.max(axis=axes, keepdims=True)
    if (low != high).any():
        raise UnsupportedError("the scale varies along the axis that is summed")
    return np.asarray(low)
