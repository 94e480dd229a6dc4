"""Conv, MatMul and Gemm of quantized operands become the machine's Conv and MatMul.

Equation: docs/machine.md "Products". Weights leave as int8 with their zero point folded where it
fits; BatchNormalization behind a product goes into its scale and bias.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node, QParams
from qrt.ir.attrs import AttrReader
from qrt.passes.batchnorm import gain_and_shift
from qrt.passes.recognise import nbits
from qrt.passes.recognise.product import Product, Weights, per_channel
from qrt.passes.recognise.views import Codes, Fixed, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.passes.recognise.wide import Wide, WideProduct
from qrt.passes.recognise.windows import window_attrs
from qrt.quant.affine import S8, U8, Array, spread
from qrt.quant.products import same_scale, signed_weights

MAX_SPATIAL = 3  # axes that a convolution slides over


def conv(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Conv (opset 1 to 22): one to three spatial axes, constant weights."""
    x = _left(walk, node, views[0])
    if x is None:
        return "its input is not a quantized tensor"
    weights = _weights(views[1], axis=0)
    if isinstance(weights, str):
        return weights
    assert weights.q is not None
    kernel = list(weights.q.shape[2:])
    if not 1 <= len(kernel) <= MAX_SPATIAL:
        return f"it slides over {len(kernel)} axes, qrt over 1 to {MAX_SPATIAL}"
    reader = AttrReader(node)
    attrs = window_attrs(reader, kernel)
    attrs["group"] = reader.int("group", 1)
    reader.done()
    channels, depth = weights.q.shape[0], math.prod(weights.q.shape[1:])
    product = _product(views[0], node, "Conv", *x, x[1].scale, weights, channels, depth, attrs)
    bias = node.input(2)
    if bias is not None and bias.shape is not None and bias.shape != (channels,):
        raise ModelError(f"{node.where}: bias must have shape [{channels}], got {list(bias.shape)}")
    return _finish(product, views[2] if len(views) > 2 else None, rank=1)


def batchnorm(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """BatchNormalization of a Conv or Gemm whose weights are quantized."""
    factors, x = gain_and_shift(node), views[0]
    if not isinstance(x, Product):
        return "its input is not a product"
    if factors is None or factors[0].size != x.channels:
        return "its parameters are not constant"
    return x.scaled(*factors)


def matmul(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """MatMul: NumPy broadcasting; the right operand may be an activation."""
    packed = nbits.matmul(walk, node, views)
    if packed is not None:
        return packed
    x = _left(walk, node, views[0])
    if x is None:
        return "its left operand is not a quantized tensor"
    return _matmul(walk, node, views[0], x, views[1], None, x[1].scale)


def gemm(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Gemm: alpha * a @ b + beta * c; alpha goes into a's scale, beta into a float c."""
    packed = nbits.gemm(walk, node, views)
    if packed is not None:
        return packed
    x = _left(walk, node, views[0])
    if x is None:
        return "its left operand is not a quantized tensor"
    attrs = AttrReader(node)
    trans_a, trans_b = attrs.bool("transA", False), attrs.bool("transB", False)
    alpha, beta = (np.float32(attrs.float(name, 1.0)) for name in ("alpha", "beta"))
    attrs.done()
    if trans_a:
        if isinstance(views[0], Wide):
            return "its left operand has 16 bits and is transposed"
        x = _transposed(walk, node, x[0]), x[1]
    b = views[1]
    if trans_b:
        if not isinstance(b, Fixed):
            return "its right operand is transposed and not constant"
        axis = None if b.qparams.axis is None else 1 - b.qparams.axis
        b = Fixed(np.ascontiguousarray(b.q.T), replace(b.qparams, axis=axis))
    c = views[2] if len(views) > 2 else None
    if c is not None and beta != 1:
        floats = walk.array(node.input(2))
        if floats is None:
            return "its bias is not constant"
        c = Plain(walk.constant(beta * floats.astype(np.float32), node.required(2)))
    if alpha == 0 or not np.isfinite(alpha):
        return f"its alpha is {alpha}"
    return _matmul(walk, node, views[0], x, b, c, np.asarray(alpha * x[1].scale))


def _left(walk: Walk, node: Node, view: View | None) -> tuple[Codes, QParams] | None:
    """The left operand of a product: 8-bit codes, or the low bytes of 16 bits."""
    if isinstance(view, Wide):
        return view.split(walk)[1], view.zero_points()[1]
    return walk.quantized(view, node.required(0))


def _product(
    view: View | None,
    node: Node,
    op: str,
    x: Codes,
    qparams: QParams,
    x_scale: Array,
    weights: Weights,
    channels: int | None,
    depth: int | None,
    attrs: dict[str, Any] | None = None,
) -> Product:
    """The product of the left operand `x` that `_left` made of `view`."""
    made = (node, op, x, qparams, x_scale, weights, channels, depth)
    if isinstance(view, Wide):
        return WideProduct(*made, attrs=attrs or {}, wide=view)
    return Product(*made, attrs=attrs or {})


def _matmul(
    walk: Walk,
    node: Node,
    view: View | None,
    x: tuple[Codes, QParams],
    b: View | None,
    c: View | None,
    x_scale: Array,
) -> Outcome:
    if isinstance(b, Fixed):
        if b.q.ndim < 2:
            return "its right operand is a vector"
        weights = _weights(b, axis=-1)
        if isinstance(weights, str):
            return weights
        assert weights.q is not None
        depth, channels = weights.q.shape[-2], weights.q.shape[-1]
    else:
        rhs = walk.quantized(b, node.required(1))
        shape = node.required(1).shape
        if rhs is None:
            return "its right operand is not a quantized tensor"
        if shape is None or len(shape) < 2:
            return "the rank of its right operand is not known"
        # lengths that are not known yet are proved when shapes are bound (`resolve`)
        depth, channels = (d if isinstance(d, int) else None for d in shape[-2:])
        if c is not None and (depth is None or channels is None):
            return "the shape of its right operand is not known"
        zero = np.asarray(int(rhs[1].zero_point) - 128, np.int32)
        weights = Weights(rhs[1].scale, zero, -1, codes=rhs[0])
    product = _product(view, node, "MatMul", *x, x_scale, weights, channels, depth)
    return _finish(product, c, rank=2)


def _finish(product: Product, c: View | None, rank: int) -> Outcome:
    """Attach the bias, of up to `rank` axes: an int32 constant (QOperator) or a DequantizeLinear of
    one whose scale is x_scale * w_scale counts steps, anything else is real."""
    if c is not None:
        bias = c.q if isinstance(c, Fixed) else c.value.data if isinstance(c, Plain) else None
        if bias is None:
            return "its bias is not constant"
        assert product.channels is not None
        vector = per_channel(bias, rank, -1, product.channels)
        if vector is None and bias.ndim == rank == 2 and bias.shape[1] in (1, product.channels):
            vector = bias  # one per output channel and row
        if vector is None:
            return f"its bias of shape {list(bias.shape)} does not broadcast to its result"
        if isinstance(c, Plain) and bias.dtype == np.int32:
            product = replace(product, bias=vector.astype(np.int64))
        elif isinstance(c, Fixed) and bias.dtype == np.int32 and _counts_steps(c, product):
            centered = vector.astype(np.int64) - c.qparams.zero_point.astype(np.int64)
            product = replace(product, bias=centered)
        else:
            real = (c.floats() if isinstance(c, Fixed) else bias).reshape(vector.shape)
            if real.dtype != np.float32:
                return f"its bias is {real.dtype}"
            product = replace(product, float_bias=real)
    return product.overflow() or product


def _counts_steps(bias: Fixed, product: Product) -> bool:
    scale = product.weights.scale.reshape(-1)
    return same_scale(bias.qparams.scale, product.x_scale, scale)


def _weights(view: View | None, axis: int) -> Weights | str:
    """Constant 8-bit weights with one scale, or one per output channel (`axis`)."""
    if not isinstance(view, Fixed):
        return "its weights are not quantized constants"
    if axis not in view.weights:
        view.weights[axis] = _signed(view, axis)
    made: Weights | str = view.weights[axis]
    return made


def _signed(view: Fixed, axis: int) -> Weights | str:
    q, qparams = view.q, view.qparams
    if q.dtype not in (U8, S8):
        return f"its weights are {q.dtype}"
    scale, zero_point = qparams.scale, qparams.zero_point
    if qparams.axis is not None and qparams.axis % q.ndim != axis % q.ndim:
        if not ((scale == scale[0]).all() and (zero_point == zero_point[0]).all()):
            return "the scale of its weights varies along an axis that is summed"
        scale, zero_point = scale[0].reshape(()), zero_point[0].reshape(())
    along = None if zero_point.ndim == 0 else axis % q.ndim
    signed, zero = signed_weights(q, spread(zero_point, q.ndim, along))
    if zero.ndim:
        zero = zero.reshape(-1)
    return Weights(scale, zero, axis, signed)


def _transposed(walk: Walk, node: Node, codes: Codes) -> Codes:
    """The left operand of a Gemm with transA."""
    like = node.required(0)
    shape = None if like.shape is None else tuple(reversed(like.shape))
    out = walk.result(node.outputs[0], U8, shape)
    moved = walk.emit("Transpose", [codes.root], {"perm": [1, 0]}, out, node, domain="", version=13)
    return Codes(moved, codes.table)
