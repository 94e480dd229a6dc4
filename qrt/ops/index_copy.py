"""y[i, j, ...] = x[tables[0][i], tables[1][j], ...]: nearest Resize, Pad by reflection, Gather.

Axes that keep their index need no table: neighbours merge, and those at the end of memory become
one run of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.movement_kernels import AS_ITEM
from qrt.ops.nests import names, numbered
from qrt.ops.sizes import product, within
from qrt.ops.spec import Array, Lowering, Operand
from qrt.simd.memory import as_i32, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import copy_bytes

RANK = 4  # axes with an index table; the last one is the inner loop
FIELDS = (
    "x", "y", *names("table", RANK), *names("n", RANK), *names("m", RANK), "nbytes",
)  # fmt: skip
X, Y, T0, T1, T2, T3, N0, N1, N2, N3, M0, M1, M2, M3, NBYTES = slots(FIELDS)
BAD_INDEX = 1  # status


def emit_index_copy(
    program: Lowering,
    x: Operand,
    y: Operand,
    itemsize: int,
    sizes: Sequence[int],
    indices: Sequence[Array | None],
) -> None:
    """`sizes` of x and what each axis is indexed with (None: as it is), in the order of memory."""
    merged: list[tuple[int, Array | None]] = []
    for size, index in zip(sizes, indices, strict=True):
        if index is not None and np.array_equal(index, np.arange(size)):
            index = None
        if index is None and merged and merged[-1][1] is None:
            merged[-1] = merged[-1][0] * size, None
        elif index is not None or size != 1:
            merged.append((size, index))
    run = itemsize
    if merged and merged[-1][1] is None:
        run *= merged.pop()[0]
    if len(merged) > RANK:
        raise UnsupportedError(f"indices along {len(merged)} axes, at most {RANK} are supported")
    merged = [(1, None)] * (RANK - len(merged)) + merged
    tables = [np.arange(m) if index is None else index for m, index in merged]
    for (m, _), table in zip(merged, tables, strict=True):
        assert table.size == 0 or (table.min() >= 0 and table.max() < m), (m, table)
    if run * math.prod(t.size for t in tables) == 0:
        return
    items = run in AS_ITEM and run == itemsize
    program.emit(
        ITEM_KERNELS[run] if items else index_copy_rows,
        x=x,
        y=y,
        **{f"table{i}": program.constant(t.astype(np.int32)) for i, t in enumerate(tables)},
        **{f"n{i}": t.size for i, t in enumerate(tables)},
        **{f"m{i}": m for i, (m, _) in enumerate(merged)},
        nbytes=run,
    )


def extents(row: Mapping[str, int]) -> list[Extent]:
    run = within(row, "nbytes", 0, 1 << 40)
    m = [within(row, f"m{i}", 0, 1 << 31) for i in range(RANK)]
    outputs = product(row, *names("n", RANK))
    tables = [Extent(f"table{i}", 4 * n) for i, n in enumerate(numbered(row, "n", RANK))]
    return [
        Extent("x", run * math.prod(m)),
        Extent("y", run * outputs, writes=True),
        *tables,
    ]


@helper
def _fits(table, n, m):  # type: ignore[no-untyped-def]
    """True when every index is one of an axis of size m: tables are data, a file may hold any."""
    lowest, highest = np.int64(0), np.int64(0)
    for i in range(n):
        lowest = min(lowest, np.int64(table[i]))
        highest = max(highest, np.int64(table[i]))
    return n == 0 or (lowest >= 0 and highest < m)


@helper
def _all_fit(row, arena, constants):  # type: ignore[no-untyped-def]
    return (
        _fits(as_i32(operand(row, T0, arena, constants)), row[N0], row[M0])
        and _fits(as_i32(operand(row, T1, arena, constants)), row[N1], row[M1])
        and _fits(as_i32(operand(row, T2, arena, constants)), row[N2], row[M2])
        and _fits(as_i32(operand(row, T3, arena, constants)), row[N3], row[M3])
    )


@helper
def _source_line(o, row, arena, constants):  # type: ignore[no-untyped-def]
    """Index in x of line `o` of the outer three axes of y, in units of (m3, run)."""
    t0 = as_i32(operand(row, T0, arena, constants))
    t1 = as_i32(operand(row, T1, arena, constants))
    t2 = as_i32(operand(row, T2, arena, constants))
    i2 = np.int64(t2[o % row[N2]])
    i1 = np.int64(t1[o // row[N2] % row[N1]])
    i0 = np.int64(t0[o // row[N2] // row[N1]])
    return (i0 * row[M1] + i1) * row[M2] + i2


@kernel("index_copy_rows", FIELDS, extents, family="index_copy")
def index_copy_rows(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    if not _all_fit(row, arena, constants):
        return BAD_INDEX
    x = operand(row, X, arena, constants)
    y = operand(row, Y, arena, constants)
    t3 = as_i32(operand(row, T3, arena, constants))
    run = row[NBYTES]
    n = row[N3]
    lines = row[N0] * row[N1] * row[N2]
    o0, o1 = np.int64(0), lines
    i0, i1 = np.int64(0), n
    if lines >= threads:
        o0, o1 = share(lines, thread, threads, 1)
    else:
        i0, i1 = share(n, thread, threads, 1)
    for o in range(o0, o1):
        source = x + _source_line(o, row, arena, constants) * row[M3] * run
        for i in range(i0, i1):
            copy_bytes(source + np.int64(t3[i]) * run, y + (o * n + i) * run, run)
    return 0


def _declare_items(itemsize: int, as_item: Any) -> Kernel:
    def item_extents(row: Mapping[str, int]) -> list[Extent]:
        within(row, "nbytes", itemsize, itemsize)
        return extents(row)

    @kernel(f"index_copy_{itemsize}", FIELDS, item_extents, family="index_copy")
    def index_copy(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        if not _all_fit(row, arena, constants):
            return BAD_INDEX
        x = operand(row, X, arena, constants)
        y = as_item(operand(row, Y, arena, constants))
        t3 = as_i32(operand(row, T3, arena, constants))
        n = row[N3]
        lines = row[N0] * row[N1] * row[N2]
        o0, o1 = np.int64(0), lines
        i0, i1 = np.int64(0), n
        if lines >= threads:
            o0, o1 = share(lines, thread, threads, 1)
        else:
            i0, i1 = share(n, thread, threads, 256)
        for o in range(o0, o1):
            source = as_item(x + _source_line(o, row, arena, constants) * row[M3] * itemsize)
            for i in range(i0, i1):
                y[o * n + i] = source[t3[i]]
        return 0

    return index_copy


ITEM_KERNELS = {n: _declare_items(n, as_item) for n, as_item in AS_ITEM.items()}
