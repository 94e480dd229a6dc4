"""16-bit activations: what they are read as floats for, and the products that stay integers.

Equation: docs/machine.md "16-bit activations". u16 (int16 raised by 32768) = 256 * high + low; a
product of each with the 8-bit weights is exact, and so is the sum of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.ir import Node, QParams, Value
from qrt.passes.recognise.product import INT32_LIMIT, Product
from qrt.passes.recognise.views import Codes, View
from qrt.passes.recognise.walk import Walk
from qrt.quant.affine import U8
from qrt.quant.products import largest_sum

WORDS = (np.dtype(np.uint16), np.dtype(np.int16))
SIGN = 1 << 15


@dataclass(eq=False)
class Wide(View):
    """DequantizeLinear of a 16-bit tensor with one scale and zero point."""

    x: Value
    qparams: QParams
    node: Node
    halves: tuple[Codes, Codes] | None = None

    def real(self, walk: Walk, like: Value) -> Value:
        out = walk.result(like, np.dtype(np.float32))
        return walk.emit("Dequantize", [self.x], {"x": self.qparams}, out, self.node)

    def split(self, walk: Walk) -> tuple[Codes, Codes]:
        """The high and the low bytes; split once."""
        if self.halves is None:
            names = (walk.fresh_name(f"{self.x.name}/{half}") for half in ("high", "low"))
            outs = [Value(name, U8, self.x.shape) for name in names]
            node = self.node
            walk.append(
                Node("SplitBytes", [self.x], outs, {}, "qrt", node.name, node.index, 1,
                     (node.name or f"{node.op}#{node.index}",), onnx_op=node.op)
            )  # fmt: skip
            self.halves = Codes(outs[0]), Codes(outs[1])
        return self.halves

    def zero_points(self) -> tuple[QParams, QParams]:
        """Parameters of both halves, in steps of the whole."""
        zero = int(self.qparams.zero_point) + (SIGN if self.qparams.dtype == np.int16 else 0)
        high, low = (
            QParams(self.qparams.scale, np.array(part, np.uint8), U8) for part in divmod(zero, 256)
        )
        return high, low


@dataclass(eq=False)
class WideProduct(Product):
    """A product of the low bytes, `x`, and of the high bytes of 16-bit activations."""

    wide: Wide | None = None

    def overflow(self) -> str | None:
        """Why the sums of one half may pass int32, or why it has no kernel; or None."""
        assert self.wide is not None
        if any(a is not None and a.ndim > 1 for a in (self.bias, self.float_bias)):
            return "its bias differs from row to row"
        if self.weights.q is None:
            worst = (self.depth or 0) * 255 * 255
        else:
            q, zero = self.weights.q, self.weights.zero_point
            worst = max(
                int(largest_sum(q, zero, half, self.weights.axis).max(initial=0))
                for half in self.wide.zero_points()
            )
        if self.depth is None or worst >= INT32_LIMIT:
            return f"its sums may reach {worst}, more than int32 holds"
        return None

    def emit(self, walk: Walk, like: Value, y: QParams | None, qmin: int, qmax: int) -> Value:
        assert self.wide is not None
        node = self.node
        weights = self.weights.value(walk, node.required(1))
        sums = []
        for codes, qparams in zip(self.wide.split(walk), self.wide.zero_points(), strict=True):
            attrs: dict[str, Any] = {
                **self.attrs,
                "x": qparams,
                "w_zero_point": self.weights.zero_point.astype(np.int32),
                "scale": self.scale,
                "y": None,
                "sums": True,
            }
            out = Value(walk.fresh_name(like.name), np.dtype(np.int32), node.outputs[0].shape)
            inputs = [codes.root, weights, None, None]
            sums.append(walk.emit(self.op, inputs, attrs, out, node))
        bias = self.bias if y is None else self.steps()
        added = None if y is not None or self.float_bias is None else self.float_bias
        parts = [None if a is None else walk.constant(a.reshape(-1), like) for a in (bias, added)]
        attrs = {
            "axis": 1 if self.op == "Conv" else -1,
            "scale": self.scale,
            "y": y,
            "qmin": qmin,
            "qmax": qmax,
        }
        result = walk.result(like, np.dtype(np.float32) if y is None else y.dtype)
        return walk.emit("JoinSums", [*sums, *parts], attrs, result, node)
