"""Concat: movement of any dtype (ONNX), and of uint8 with a lookup table per input (qrt).

A table brings an input to the QParams of the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axis
from qrt.ops.lookup import emit_lookup
from qrt.ops.movement import emit_move, itemsize_of
from qrt.ops.nests import memory_order
from qrt.ops.spec import Array, Lowering, OpSpec


def parse(node: Node) -> int:
    """The axis, counted from 0."""
    rank = len(node.required(0).static_shape)
    if node.domain == "qrt":
        return normalized_axis(int(node.attrs["axis"]), rank)
    attrs = AttrReader(node)
    axis = attrs.int("axis")
    attrs.done()
    return normalized_axis(axis, rank)


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    axis = parse(node)
    first = node.required(0)
    shapes = [node.required(i).static_shape for i in range(len(node.inputs))]
    dtypes = [node.required(i).dtype for i in range(len(node.inputs))]
    if any(dtype != dtypes[0] for dtype in dtypes):
        raise ModelError(f"inputs must have the same type, got {list(map(str, dtypes))}")
    for shape in shapes[1:]:
        if len(shape) != len(shapes[0]) or any(
            n != m for a, (n, m) in enumerate(zip(shape, shapes[0], strict=True)) if a != axis
        ):
            raise ModelError(
                f"inputs must have equal shapes but for axis {axis},"
                f" got {[list(s) for s in shapes]}"
            )
    whole = list(shapes[0])
    whole[axis] = sum(s[axis] for s in shapes)
    return [(tuple(whole), first.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    tables = node.attrs.get("tables") or [None] * len(inputs)
    parts = []
    for x, table in zip(inputs, tables, strict=True):
        assert x is not None
        parts.append(x if table is None else table[x])
    return [np.concatenate(parts, parse(node))]


def lower(node: Node, program: Lowering) -> None:
    y = node.outputs[0]
    axis = parse(node)
    at = memory_order(y).index(axis)
    whole = y.physical_shape
    rows, inner = math.prod(whole[:at]), math.prod(whole[at + 1 :])
    row = whole[at] * inner
    itemsize = itemsize_of(y)
    tables = node.attrs.get("tables") or [None] * len(node.inputs)
    start = 0
    for i, table in enumerate(tables):
        x = node.required(i)
        run = x.static_shape[axis] * inner
        source, target = program.operand(x), program.operand(y).at(start * itemsize)
        if table is None:
            emit_move(program, source, target, itemsize, (rows, run), (run, 1), (row, 1))
        elif rows * run:
            emit_lookup(program, table, source, target, rows, run, row)
        start += run


SPEC = OpSpec("Concat", "qrt", infer, reference, lower, layout="any")
ONNX_SPEC = OpSpec("Concat", "", infer, reference, lower, layout="any")
