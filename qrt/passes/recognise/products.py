"""Conv, MatMul and Gemm of quantized operands become the machine's Conv and MatMul.

Equation: docs/machine.md "Products". Weights leave as int8 with their zero point folded where it
fits; a bias leaves as int32 steps of x_scale * w_scale, or as float32 behind a float result.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qrt.ir import Node, QParams, Value
from qrt.passes.recognise.views import Codes, Fixed, Pending, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.passes.recognise.windows import window_attrs
from qrt.quant.affine import S8, U8, Array, flip, spread
from qrt.quant.products import largest_sum, quantize_bias, same_scale, signed_weights
from qrt.quant.tables import CODES

INT32_LIMIT = 2**31
MAX_SPATIAL = 2  # axes that the Conv kernel slides over


@dataclass(eq=False)
class Weights:
    """The right operand: an int8 constant, or codes of an activation; (K, N) or (O, I, k...).

    `axis` is that of the output channels, which `scale` and `zero_point` are per, or scalars.
    """

    scale: Array
    zero_point: Array
    axis: int
    q: Array | None = None
    codes: Codes | None = None

    def value(self, walk: Walk, like: Value) -> Value:
        """int8."""
        if self.q is not None:
            return walk.constant(self.q, like)
        assert self.codes is not None
        # the product wants int8: q - 128, the same bits but for the first
        table = CODES if self.codes.table is None else self.codes.table
        return walk.lookup(self.codes.root, flip(table), like)


@dataclass(eq=False)
class Product(Pending):
    """Exact sums that wait for the scale of their output.

    `x_scale` has Gemm's alpha in it. `bias` int64 counts steps of x_scale * w_scale; `float_bias`
    is real; each (channels) or scalar.
    """

    op: str
    x: Codes
    qparams: QParams
    x_scale: Array
    weights: Weights
    channels: int
    bias: Array | None = None
    float_bias: Array | None = None
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def scale(self) -> Array:
        """float32 (channels): x_scale * w_scale."""
        scale = np.float32(self.x_scale) * self.weights.scale
        return np.ascontiguousarray(np.broadcast_to(scale.reshape(-1), (self.channels,)))

    def steps(self) -> Array | None:
        """int64 bias in steps of x_scale * w_scale, as a QuantizeLinear after it sees it."""
        parts = [] if self.bias is None else [self.bias]
        if self.float_bias is not None:
            parts.append(quantize_bias(self.float_bias, self.x_scale, self.weights.scale.reshape(-1)))
        return sum(parts[1:], parts[0]) if parts else None

    def overflow(self, depth: int | None) -> str | None:
        """Why the sums may pass int32, or None: proved from the weights."""
        if self.weights.q is not None:
            sums = largest_sum(
                self.weights.q, self.weights.zero_point, self.qparams, self.weights.axis
            )
        elif depth is None:
            return "the number of products in a sum is not known"
        else:
            sums = np.array([depth * 255 * 255])
        steps = self.steps()
        worst = int((sums + (0 if steps is None else np.abs(steps))).max(initial=0))
        return None if worst < INT32_LIMIT else f"its sums may reach {worst}, more than int32 holds"

    def with_bias(self, walk: Walk, bias: Array) -> Outcome:
        """Add of a constant per output channel: the bias of a product that has none."""
        axis = 1 if self.op == "Conv" else -1
        shape = self.node.outputs[0].shape
        vector = None if shape is None else per_channel(bias, len(shape), axis, self.channels)
        if vector is None or self.bias is not None or self.float_bias is not None:
            return "a constant that is not a bias is added to a product"
        product = replace(self, float_bias=vector.astype(np.float32))
        return product.overflow(None) or product

    def emit(self, walk: Walk, like: Value, y: QParams | None, qmin: int, qmax: int) -> Value:
        node, bias, float_bias = self.node, self.bias, None
        if y is not None:
            bias = self.steps()
        elif self.float_bias is not None:
            float_bias = self._column(walk, self.float_bias.astype(np.float32))
        inputs = [
            walk.codes(self.x, node.required(0)),
            self.weights.value(walk, node.required(1)),
            None if bias is None else self._column(walk, bias.astype(np.int32)),
            float_bias,
        ]
        attrs = {
            **self.attrs,
            "x": self.qparams,
            "w_zero_point": self.weights.zero_point.astype(np.int32),
            "scale": self.scale,
            "y": y,
            "qmin": qmin,
            "qmax": qmax,
        }
        out = walk.result(like, np.dtype(np.float32) if y is None else U8)
        return walk.emit(self.op, inputs, attrs, out, node)

    def _column(self, walk: Walk, bias: Array) -> Value:
        like = self.node.input(2) or self.node.outputs[0]
        return walk.constant(np.broadcast_to(bias.reshape(-1), (self.channels,)), like)


def conv(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Conv (opset 1 to 22): one or two spatial axes, constant weights."""
    x = walk.quantized(views[0], node.required(0))
    if x is None:
        return "its input is not a quantized tensor"
    weights = _weights(views[1], axis=0)
    if isinstance(weights, str):
        return weights
    assert weights.q is not None
    kernel = list(weights.q.shape[2:])
    if not 1 <= len(kernel) <= MAX_SPATIAL:
        return f"it slides over {len(kernel)} axes, the kernel over 1 or 2"
    attrs = window_attrs(node, kernel)
    attrs["group"] = int(node.attrs.get("group", 1))
    product = _product(node, "Conv", x, weights, weights.q.shape[0], attrs=attrs)
    return _finish(walk, product, views[2] if len(views) > 2 else None, 1, weights.q[0].size)


def matmul(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """MatMul: NumPy broadcasting; the right operand may be an activation."""
    x = walk.quantized(views[0], node.required(0))
    if x is None:
        return "its left operand is not a quantized tensor"
    return _matmul(walk, node, x, views[1], None, x[1].scale)


def gemm(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Gemm: alpha * a @ b + beta * c; alpha goes into a's scale, beta into a float c."""
    x = walk.quantized(views[0], node.required(0))
    if x is None:
        return "its left operand is not a quantized tensor"
    if node.attrs.get("transA", 0):
        x = _transposed(walk, node, x[0]), x[1]
    b = views[1]
    if node.attrs.get("transB", 0):
        if not isinstance(b, Fixed):
            return "its right operand is transposed and not constant"
        axis = None if b.qparams.axis is None else 1 - b.qparams.axis
        b = Fixed(np.ascontiguousarray(b.q.T), replace(b.qparams, axis=axis))
    c = views[2] if len(views) > 2 else None
    beta = np.float32(node.attrs.get("beta", 1.0))
    if c is not None and beta != 1:
        floats = walk.array(node.input(2))
        if floats is None:
            return "its bias is not constant"
        c = Plain(walk.constant(beta * floats.astype(np.float32), node.required(2)))
    alpha = np.float32(node.attrs.get("alpha", 1.0))
    return _matmul(walk, node, x, b, c, np.asarray(alpha * x[1].scale))


def per_channel(array: Array, rank: int, axis: int, channels: int) -> Array | None:
    """A constant that broadcasts along all axes of `rank` but `axis`, as (channels,) or (1,)."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    others = [n for i, n in enumerate(shape) if i != axis % rank]
    if any(n != 1 for n in others) or shape[axis] not in (1, channels):
        return None
    return array.reshape(-1)


def _matmul(
    walk: Walk,
    node: Node,
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
        if shape is None or len(shape) < 2 or not isinstance(shape[-1], int):
            return "the columns of its right operand are not known"
        if not isinstance(shape[-2], int):
            return "the number of products in a sum is not known"
        depth, channels = shape[-2], shape[-1]
        zero = np.asarray(int(rhs[1].zero_point) - 128, np.int32)
        weights = Weights(rhs[1].scale, zero, -1, codes=rhs[0])
    return _finish(
        walk, _product(node, "MatMul", x, weights, channels, x_scale), c, -1, depth
    )


def _product(
    node: Node,
    op: str,
    x: tuple[Codes, QParams],
    weights: Weights,
    channels: int,
    x_scale: Array | None = None,
    attrs: dict[str, Any] | None = None,
) -> Product:
    scale = x[1].scale if x_scale is None else x_scale
    return Product(node, op, *x, np.asarray(scale), weights, channels, attrs=attrs or {})


def _finish(walk: Walk, product: Product, c: View | None, axis: int, depth: int) -> Outcome:
    """Attach the bias: an int32 constant (QOperator) or a DequantizeLinear of one whose scale is
    x_scale * w_scale counts steps, anything else is real."""
    if c is not None:
        bias = c.q if isinstance(c, Fixed) else c.value.data if isinstance(c, Plain) else None
        if bias is None:
            return "its bias is not constant"
        vector = per_channel(bias, 1 if axis == 1 else 2, -1, product.channels)
        if vector is None:
            return f"its bias of shape {list(bias.shape)} is not one number per output channel"
        if isinstance(c, Plain) and bias.dtype == np.int32:
            product = replace(product, bias=vector.astype(np.int64))
        elif isinstance(c, Fixed) and bias.dtype == np.int32 and _counts_steps(c, product):
            centered = vector.astype(np.int64) - c.qparams.zero_point.astype(np.int64)
            product = replace(product, bias=centered)
        else:
            real = (c.floats() if isinstance(c, Fixed) else bias).reshape(-1)
            if real.dtype != np.float32:
                return f"its bias is {real.dtype}"
            product = replace(product, float_bias=real)
    return product.overflow(depth) or product


def _counts_steps(bias: Fixed, product: Product) -> bool:
    scale = product.weights.scale.reshape(-1)
    return same_scale(bias.qparams.scale, product.x_scale, scale)


def _weights(view: View | None, axis: int) -> Weights | str:
    """Constant 8-bit weights with one scale, or one per output channel (`axis`)."""
    if not isinstance(view, Fixed):
        return "its weights are not quantized constants"
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
    moved = walk.emit(
        "Transpose", [codes.root], {"perm": [1, 0]}, out, node, domain="", version=13
    )
    return Codes(moved, codes.table)
