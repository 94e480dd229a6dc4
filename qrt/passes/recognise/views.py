"""Views: what a tensor of the ONNX graph is, before anyone has asked for its elements.

A float tensor between DequantizeLinear and QuantizeLinear is a formula over 8-bit tensors: a
function of one (`Mapped`), a constant (`Fixed`), or an operator that waits to learn its output's
scale (`Pending`). Whoever needs the tensor asks its view, and only then a machine node is emitted:
`real` gives the ONNX tensor itself, `quantize` the integers of the QuantizeLinear that follows.
All 8-bit tensors are uint8 codes here; int8 is stored as q + 128 with its zero point raised alike.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qrt.ir import Node, QParams, Value
from qrt.quant.affine import S8, U8, Array, dequantize, flip, quantize, unsigned
from qrt.quant.coded import Coded, code_constant
from qrt.quant.tables import (
    clamp_table,
    compose,
    dequantize_table,
    is_identity,
    quantize_table,
)

if TYPE_CHECKING:
    from qrt.passes.recognise.walk import Walk


@dataclass(eq=False)
class View:
    """`like` is the ONNX value a result stands for; it lends its name and shape."""

    @abstractmethod
    def real(self, walk: Walk, like: Value) -> Value:
        """The ONNX tensor itself."""

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        """Its codes under `y` (per_tensor uint8), clamped to qmin..qmax."""
        x = walk.real(self, like)
        out = walk.emit("Quantize", [x], {"y": y}, walk.result(like, U8))
        return Codes(out).clamped(qmin, qmax)


@dataclass(eq=False)
class Plain(View):
    """A tensor about which nothing more is known; a constant too."""

    value: Value

    def real(self, walk: Walk, like: Value) -> Value:
        return self.value


@dataclass(eq=False)
class Codes(View):
    """An 8-bit tensor: table[root] (None: root itself), whose ONNX type is `dtype`.

    `node` is the ONNX node that a Lookup of the table stands for.
    """

    root: Value
    table: Array | None = None
    dtype: np.dtype[Any] = field(default=U8)
    node: Node | None = None

    def then(self, table: Array) -> Codes:
        """table[self], a chain of tables being one."""
        composed = compose(self.table, table)
        return replace(self, table=None if is_identity(composed) else composed)

    def clamped(self, qmin: int, qmax: int) -> Codes:
        """min(max(self, qmin), qmax)."""
        return self if (qmin, qmax) == (0, 255) else self.then(clamp_table(qmin, qmax))

    def real(self, walk: Walk, like: Value) -> Value:
        if self.dtype == U8:
            return walk.codes(self, like)
        table = flip(np.arange(256, dtype=np.uint8) if self.table is None else self.table)
        return walk.lookup(self.root, table, like, self.node)


@dataclass(eq=False)
class Mapped(View):
    """A float function of one 8-bit tensor: reals[root].

    `qparams` (uint8) are those of the DequantizeLinear it began with; `codes` is set while it is
    that DequantizeLinear and nothing else. `node` is the ONNX node that made it.
    """

    root: Value
    reals: Array
    qparams: QParams
    node: Node
    codes: Codes | None = None

    @classmethod
    def dequantized(cls, codes: Codes, x: QParams, node: Node) -> Mapped:
        """DequantizeLinear of `codes` with `x` (per_tensor, of the ONNX type)."""
        x = unsigned(x)
        reals = dequantize_table(x)
        if codes.table is not None:
            reals = reals[codes.table]
        return cls(codes.root, reals, x, node, codes)

    def mapped(self, reals: Array, node: Node) -> Mapped:
        """Another function of the same tensor, that of `node`."""
        return Mapped(self.root, reals, self.qparams, node)

    def quantized(self) -> tuple[Codes, QParams] | None:
        """Codes and parameters of which this is exactly the DequantizeLinear, or None.

        Relu and Clip of a dequantized tensor are again dequantized ones, with the same scale.
        """
        if self.codes is not None:
            return self.codes, self.qparams
        table = quantize_table(self.reals, self.qparams)
        if np.array_equal(dequantize_table(self.qparams)[table], self.reals):
            codes = Codes(self.root, None if is_identity(table) else table, node=self.node)
            return codes, self.qparams
        return None

    def real(self, walk: Walk, like: Value) -> Value:
        if self.codes is None or self.codes.table is not None or self.root.is_constant:
            return walk.lookup(self.root, self.reals, like, self.node)
        out = walk.result(like, np.dtype(np.float32))
        attrs = {"x": self.qparams}
        return walk.emit("Dequantize", [walk.codes(self.codes, like)], attrs, out, self.node)

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        return Codes(self.root).then(quantize_table(self.reals, y)).clamped(qmin, qmax)


@dataclass(eq=False)
class Fixed(View):
    """DequantizeLinear of a constant: weights, biases, and operands that never change.

    `bits` are those of the stored type: `q` of int4 and kin is widened to int8.
    """

    q: Array
    qparams: QParams
    bits: int = 8
    # what a product made of it, per axis of the output channels: shared weights stay shared
    weights: dict[int, Any] = field(default_factory=dict)

    def floats(self) -> Array:
        """float32 elements."""
        return dequantize(self.q, self.qparams)

    def quantized(self, walk: Walk, like: Value) -> tuple[Codes, QParams] | None:
        """As an 8-bit operand, when one scale serves all of it."""
        if self.q.dtype not in (U8, S8) or not self.qparams.per_tensor:
            return None
        codes = self.q if self.q.dtype == U8 else flip(self.q)
        return Codes(walk.constant(codes, like)), unsigned(self.qparams)

    def coded(self) -> Coded | None:
        """As codes; None for what has no such form."""
        bits = 8 * self.q.dtype.itemsize if self.q.dtype.itemsize > 1 else self.bits
        if not self.q.size:
            return None
        unsigned = self.q.dtype.kind == "u" or int(self.q.max()) >= 1 << bits - 1
        if self.q.dtype.kind not in "iu" or bits > 16:
            return None
        name = f"{'u' if unsigned else ''}int{bits}"
        q = self.qparams
        return code_constant(self.q, q.scale, q.zero_point, q.axis or 0, name=name)

    def real(self, walk: Walk, like: Value) -> Value:
        # products of floats are faster with floats than with bytes
        bytes_ = self.q.dtype.itemsize == 1 and self.bits == 8
        coded = None if bytes_ else self.coded()
        return walk.constant(self.floats(), like) if coded is None else walk.deferred(coded, like)

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        return Codes(walk.constant(quantize(self.floats(), y), like)).clamped(qmin, qmax)


@dataclass(eq=False)
class Kept(View):
    """DequantizeLinear of a constant that has no form in integers of 8 bits: small floats, blocks
    of 16 bits, blocks whose axes have moved."""

    source: Coded

    def floats(self) -> Array:
        """float32 elements."""
        return self.source.floats()

    def coded(self) -> Coded:
        """As codes."""
        return self.source

    def real(self, walk: Walk, like: Value) -> Value:
        return walk.deferred(self.source, like)

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        return Codes(walk.constant(quantize(self.floats(), y), like)).clamped(qmin, qmax)


@dataclass(eq=False)
class Blocked(View):
    """DequantizeLinear of a constant with a scale for every `block` elements along `axis`.

    `q` is int8 or uint8, integers of `bits`; `scale` float32 and `zero_point` (None: 0) are as long
    as there are blocks along the axis.
    """

    q: Array
    scale: Array
    zero_point: Array | None
    axis: int
    block: int
    bits: int

    def floats(self) -> Array:
        """(float32(q) - zero_point) * scale, each rounded."""
        length = self.q.shape[self.axis]

        def spread(parameter: Array) -> Array:
            repeated = np.repeat(parameter, self.block, self.axis)
            return np.take(repeated, range(length), self.axis)

        real = self.q.astype(np.float32)
        if self.zero_point is not None:
            real = real - spread(self.zero_point.astype(np.float32))
        return real * spread(self.scale)

    def coded(self) -> Coded | None:
        """As codes."""
        name = f"{'u' if self.q.dtype == U8 else ''}int{self.bits}"
        return code_constant(
            self.q, self.scale, self.zero_point, self.axis, self.block, name
        )

    def real(self, walk: Walk, like: Value) -> Value:
        coded = self.coded()
        return walk.constant(self.floats(), like) if coded is None else walk.deferred(coded, like)

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        return Codes(walk.constant(quantize(self.floats(), y), like)).clamped(qmin, qmax)


@dataclass(eq=False)
class Pending(View):
    """An operator on quantized operands whose node waits for the parameters of its output."""

    node: Node

    @abstractmethod
    def emit(self, walk: Walk, like: Value, y: QParams | None, qmin: int, qmax: int) -> Value:
        """The machine node that gives codes of `y`, or float32 when `y` is None."""

    def real(self, walk: Walk, like: Value) -> Value:
        return self.emit(walk, like, None, 0, 255)

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        return Codes(self.emit(walk, like, y, qmin, qmax))


@dataclass(eq=False)
class Clipped(View):
    """Relu or Clip of a view that is not quantized yet.

    Q(clip(x, low, high)) = clamp(Q(x), Q(low), Q(high)), since Q never decreases.
    """

    inner: View
    node: Node
    low: np.float32
    high: np.float32

    def real(self, walk: Walk, like: Value) -> Value:
        x = walk.real(self.inner, self.node.required(0))
        return walk.emit_onnx(self.node, [x, *walk.reals(self.node, 1)], [like])[0]

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        walk.absorbed.append(self.node)
        bounds = quantize(np.array([self.low, self.high], np.float32), y)
        low, high = (int(np.clip(b, qmin, qmax)) for b in (min(bounds), bounds[1]))
        return walk.quantize(self.inner, y, like, low, high)
