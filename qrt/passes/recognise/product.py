"""Product: the exact sums of a Conv or MatMul, and what becomes of them.

Equation: docs/machine.md "Products". A bias leaves as int32 steps of x_scale * w_scale when a
QuantizeLinear follows, as float32 behind a float result otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qrt.ir import QParams, Value
from qrt.passes.recognise.views import Codes, Pending
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.quant.affine import U8, Array, flip
from qrt.quant.products import largest_sum, quantize_bias
from qrt.quant.tables import CODES

INT32_LIMIT = 2**31


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
    constant: Value | None = None

    def value(self, walk: Walk, like: Value) -> Value:
        """int8; a constant is one value, however many products read it."""
        if self.q is not None:
            self.constant = self.constant or walk.constant(self.q, like)
            return self.constant
        assert self.codes is not None
        # the product wants int8: q - 128, the same bits but for the first
        table = CODES if self.codes.table is None else self.codes.table
        return walk.lookup(self.codes.root, flip(table), like)


@dataclass(eq=False)
class Product(Pending):
    """Exact sums that wait for the scale of their output.

    `channels` and `depth` are None where they depend on input shapes, as in attention; such a
    product has no bias. `x_scale` has Gemm's alpha in it. `bias` int64 counts steps of x_scale *
    w_scale; `float_bias` is real; each (channels), (1), or (rows, channels) of a Gemm.
    """

    op: str
    x: Codes
    qparams: QParams
    x_scale: Array
    weights: Weights
    channels: int | None
    depth: int | None  # products in a sum
    bias: Array | None = None
    float_bias: Array | None = None
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def scale(self) -> Array:
        """float32 (channels): x_scale * w_scale; (1) where their number is not known."""
        scale = np.float32(self.x_scale) * self.weights.scale
        return np.ascontiguousarray(np.broadcast_to(scale.reshape(-1), (self.channels or 1,)))

    def steps(self) -> Array | None:
        """int64 bias in steps of x_scale * w_scale, as a QuantizeLinear after it sees it."""
        parts = [] if self.bias is None else [self.bias]
        if self.float_bias is not None:
            parts.append(
                quantize_bias(self.float_bias, self.x_scale, self.weights.scale.reshape(-1))
            )
        return sum(parts[1:], parts[0]) if parts else None

    def overflow(self) -> str | None:
        """Why the sums may pass int32, or None: proved from the weights.

        Of a depth that is not known yet, `resolve` proves it.
        """
        if self.weights.q is not None:
            sums = largest_sum(
                self.weights.q, self.weights.zero_point, self.qparams, self.weights.axis
            )
        elif self.depth is None:
            return None
        else:
            sums = np.array([self.depth * 255 * 255])
        steps = self.steps()
        worst = int((sums + (0 if steps is None else np.abs(steps))).max(initial=0))
        return None if worst < INT32_LIMIT else f"its sums may reach {worst}, more than int32 holds"

    def with_bias(self, walk: Walk, bias: Array) -> Outcome:
        """Add of a constant per output channel: the bias of a product that has none."""
        axis = 1 if self.op == "Conv" else -1
        shape = self.node.outputs[0].shape
        if shape is None or self.channels is None:
            return "a constant is added to a product of unknown columns"
        vector = per_channel(bias, len(shape), axis, self.channels)
        if vector is None or self.bias is not None or self.float_bias is not None:
            return "a constant that is not a bias is added to a product"
        product = replace(self, float_bias=vector.astype(np.float32))
        return product.overflow() or product

    def scaled(self, gain: Array, shift: Array) -> Outcome:
        """BatchNormalization, y * gain + shift per output channel: scale and bias change."""
        if (gain == 0).any() or not np.isfinite(gain).all():
            return "its BatchNormalization multiplies a channel by 0 or by no number"
        assert self.channels is not None  # BatchNormalization follows constant weights only
        real = np.zeros(self.channels) if self.float_bias is None else self.float_bias * 1.0
        if self.bias is not None:
            real = real + self.bias * self.scale.astype(np.float64)
        weights = replace(self.weights, scale=(self.weights.scale * gain).astype(np.float32))
        bias = (real * gain + shift).astype(np.float32)
        product = replace(self, weights=weights, bias=None, float_bias=bias)
        return product.overflow() or product

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
        assert self.channels is not None
        shape = (*bias.shape[:-1], self.channels)
        return walk.constant(np.broadcast_to(bias, shape), like)


def per_channel(array: Array, rank: int, axis: int, channels: int) -> Array | None:
    """A constant that broadcasts along all axes of `rank` but `axis`, as (channels,) or (1,)."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    others = [n for i, n in enumerate(shape) if i != axis % rank]
    if any(n != 1 for n in others) or shape[axis] not in (1, channels):
        return None
    return array.reshape(-1)
