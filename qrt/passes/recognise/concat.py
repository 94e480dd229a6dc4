"""Concat: integers when all parts come to one scale, each through a table of its own.

Equation: Q(concat(a, b)) = concat(Q(a), Q(b)).
"""

from __future__ import annotations

from dataclasses import dataclass

from qrt.ir import Node, QParams, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.recognise.views import Codes, Mapped, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.quant.affine import U8


def concat(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Concat of float tensors some of which are not plain, or of 8-bit integers."""
    values = [v for v in node.inputs if v is not None]
    parts = [walk.view(v) for v in values]
    codes = [walk.as_codes(p, v) for p, v in zip(parts, values, strict=True)]
    integers = [c for c in codes if c is not None]
    if len(integers) == len(parts) and not all(c.root.is_constant for c in integers):
        return Codes(_emit(walk, node, integers, node.outputs[0]), dtype=integers[0].dtype)
    if all(isinstance(p, Plain) for p in parts):
        return ""
    pairs = [walk.quantized(p, v) for p, v in zip(parts, values, strict=True)]
    known = [pair for pair in pairs if pair is not None]
    if len(known) == len(parts) and all(q.same_as(known[0][1]) for _, q in known):
        joined = _emit(walk, node, [c for c, _ in known], node.outputs[0])
        return Mapped.dequantized(Codes(joined), known[0][1], node)
    return Joined(parts, node)


@dataclass(eq=False)
class Joined(View):
    """Concat of tensors of several scales, waiting for the one of its output."""

    parts: list[View]
    node: Node

    def real(self, walk: Walk, like: Value) -> Value:
        return walk.emit_onnx(self.node, walk.reals(self.node), [like])[0]

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        codes = [
            walk.quantize(part, y, value, qmin, qmax)
            for part, value in zip(self.parts, self.node.inputs, strict=True)
            if value is not None
        ]
        return Codes(_emit(walk, self.node, codes, like))


def _emit(walk: Walk, node: Node, parts: list[Codes], like: Value) -> Value:
    """qrt.Concat; what is still to be looked up in a part is looked up on the way."""
    done = [walk.has_lookup(c) for c in parts]
    inputs: list[Value | None] = [
        walk.codes(c, like) if is_there else c.root for c, is_there in zip(parts, done, strict=True)
    ]
    tables = [None if is_there else c.table for c, is_there in zip(parts, done, strict=True)]
    axis = AttrReader(node).int("axis")
    attrs = {"axis": axis, "tables": tables}
    return walk.emit("Concat", inputs, attrs, walk.result(like, U8), node)
