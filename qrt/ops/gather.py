"""Gather (ONNX, opset 1 to 13) along one axis, row-major; indices may be data of the run.

Constant indices are checked while lowering. Indices that arrive as data are checked by the kernel:
one that is out of range ends the run with a status.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops.channels import normalized_axis
from qrt.ops.dispatch import kernel_of
from qrt.ops.gather_codes import lower_coded_gather
from qrt.ops.index_copy import emit_index_copy
from qrt.ops.movement import itemsize_of
from qrt.ops.sizes import product, within
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.memory import as_i32, as_i64, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import copy_bytes

# x is (outer, size, run bytes), y is (outer, n, run bytes)
FIELDS = ("x", "indices", "y", "outer", "size", "n", "nbytes")
X, INDICES, Y, OUTER, SIZE, N, NBYTES = slots(FIELDS)
BAD_INDEX = 1  # status


def parse(node: Node) -> int:
    """The axis, counted from 0."""
    attrs = AttrReader(node)
    axis = attrs.int("axis", 0)
    attrs.done()
    return normalized_axis(axis, len(node.required(0).static_shape))


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x, axis = node.required(0), parse(node)
    shape = x.static_shape
    return [((*shape[:axis], *node.required(1).static_shape, *shape[axis + 1 :]), x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x, indices = inputs
    assert x is not None and indices is not None
    return [np.take(x, indices.astype(np.int64), parse(node))]


def lower(node: Node, program: Lowering) -> None:
    x, indices, y = node.required(0), node.required(1), node.outputs[0]
    axis, shape = parse(node), x.static_shape
    size = shape[axis]
    if indices.data is not None:
        flat = indices.data.reshape(-1).astype(np.int64)
        if flat.size and not (-size <= flat.min() and flat.max() < size):
            raise ModelError(f"indices must be within [-{size}, {size - 1}]")
        picked: list[Array | None] = [None] * len(shape)
        picked[axis] = np.where(flat < 0, flat + size, flat)
        ends = program.operand(x), program.operand(y)
        emit_index_copy(program, *ends, itemsize_of(x), shape, picked)
        return
    if lower_coded_gather(program, x, indices, y, axis):
        return
    program.emit(
        kernel_of(KERNELS, indices.dtype, "Gather by"),
        x=program.operand(x),
        indices=program.operand(indices),
        y=program.operand(y),
        outer=math.prod(shape[:axis]),
        size=size,
        n=math.prod(indices.static_shape),
        nbytes=math.prod(shape[axis + 1 :]) * itemsize_of(x),
    )


def _declare(dtype: str, as_index: Any) -> Kernel:
    itemsize = np.dtype(dtype).itemsize

    def extents(row: Mapping[str, int]) -> list[Extent]:
        within(row, "size", 0, 1 << 40)
        return [
            Extent("x", product(row, "outer", "size", "nbytes")),
            Extent("indices", itemsize * product(row, "n")),
            Extent("y", product(row, "outer", "n", "nbytes"), writes=True),
        ]

    @kernel(f"gather_{dtype}", FIELDS, extents, family="gather")
    def gather(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        indices = as_index(operand(row, INDICES, arena, constants))
        y = operand(row, Y, arena, constants)
        n, size, run = row[N], row[SIZE], row[NBYTES]
        start, stop = share(row[OUTER] * n, thread, threads, 1)
        for r in range(start, stop):
            index = np.int64(indices[r % n])
            if index < 0:
                index += size
            if index < 0 or index >= size:
                return BAD_INDEX
            copy_bytes(x + (r // n * size + index) * run, y + r * run, run)
        return 0

    return gather


KERNELS = {"int32": _declare("int32", as_i32), "int64": _declare("int64", as_i64)}

SPEC = OpSpec("Gather", "", infer, reference, lower)
