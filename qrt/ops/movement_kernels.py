"""Kernels that move elements between two strided nests: runs of bytes, elements, transpositions.

All strides are in bytes. Sources and targets never overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.nests import names, numbered, reach
from qrt.ops.sizes import within
from qrt.simd.memory import as_i32, as_i64, as_u8, as_u16, operand
from qrt.simd.scalar import share
from qrt.simd.transpose import transpose_u8_16x16, transpose_u32_8x8
from qrt.simd.vectors import copy_bytes

RANK = 5  # loops around a run
ROW_FIELDS = (
    "x", "y", *names("n", RANK), *names("x_stride", RANK), *names("y_stride", RANK), "nbytes",
)  # fmt: skip
(
    X, Y, N0, N1, N2, N3, N4, XS0, XS1, XS2, XS3, XS4, YS0, YS1, YS2, YS3, YS4, NBYTES,
) = slots(ROW_FIELDS)  # fmt: skip
# as ROW_FIELDS, but a run is `count` elements with a step of their own
STRIDED_FIELDS = (*ROW_FIELDS[:-1], "count", "x_step", "y_step")
COUNT, X_STEP, Y_STEP = slots(STRIDED_FIELDS)[-3:]
BATCH_RANK = 3
# y[q + y_p * p] = x[p + x_q * q]: p is contiguous in x, q in y
TRANSPOSE_FIELDS = (
    "x", "y", *names("n", BATCH_RANK), *names("x_stride", BATCH_RANK),
    *names("y_stride", BATCH_RANK), "p", "q", "x_q", "y_p",
)  # fmt: skip
TX, TY, TN0, TN1, TN2, TXS0, TXS1, TXS2, TYS0, TYS1, TYS2, P, Q, X_Q, Y_P = slots(TRANSPOSE_FIELDS)
RUN_GRAIN = 4096  # bytes of a single run that are worth a second thread

AS_ITEM = {1: as_u8, 2: as_u16, 4: as_i32, 8: as_i64}
ITEMSIZES = tuple(AS_ITEM)


def row_extents(row: Mapping[str, int]) -> list[Extent]:
    nbytes = within(row, "nbytes", 0, 1 << 62)
    return _moved(row, RANK, (nbytes, 1, 1), 1)


def _moved(row: Mapping[str, int], rank: int, *loops: tuple[int, int, int] | int) -> list[Extent]:
    """Extents of x and y: the n loops, more `loops` (size, x stride, y stride), item bytes last."""
    inner, itemsize = [v for v in loops if isinstance(v, tuple)], loops[-1]
    assert isinstance(itemsize, int)
    sizes = [*numbered(row, "n", rank), *(v[0] for v in inner)]
    found = []
    for k, name in enumerate("xy", 1):
        strides = [*numbered(row, f"{name}_stride", rank), *(v[k] for v in inner)]
        if name == "y" and any(n > 1 and s == 0 for n, s in zip(sizes, strides, strict=True)):
            raise ValueError("y is written again and again at the same place")  # without an end
        low, high = reach(sizes, strides)
        nbytes = high - low + itemsize - 1 if math.prod(sizes) else 0
        found.append(Extent(name, nbytes, writes=name == "y", start=low))
    return found


@kernel("copy_rows", ROW_FIELDS, row_extents)
def copy_rows(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = operand(row, X, arena, constants)
    y = operand(row, Y, arena, constants)
    outer = row[N0] * row[N1] * row[N2] * row[N3]
    o0, o1, r0, r1, b0, b1 = _shares(outer, row[N4], row[NBYTES], RUN_GRAIN, thread, threads)
    for o in range(o0, o1):
        i3 = o % row[N3]
        i2 = o // row[N3] % row[N2]
        i1 = o // row[N3] // row[N2] % row[N1]
        i0 = o // row[N3] // row[N2] // row[N1]
        source = x + i0 * row[XS0] + i1 * row[XS1] + i2 * row[XS2] + i3 * row[XS3] + b0
        target = y + i0 * row[YS0] + i1 * row[YS1] + i2 * row[YS2] + i3 * row[YS3] + b0
        for r in range(r0, r1):
            copy_bytes(source + r * row[XS4], target + r * row[YS4], b1 - b0)
    return 0


@helper
def _shares(outer, rows, run, grain, thread, threads):  # type: ignore[no-untyped-def]
    """This thread's part of outer x rows x run: split where there is most to split."""
    o0, o1 = outer * 0, outer
    r0, r1 = rows * 0, rows
    b0, b1 = run * 0, run
    if outer >= threads:
        o0, o1 = share(outer, thread, threads, 1)
    elif rows >= threads:
        r0, r1 = share(rows, thread, threads, 1)
    else:
        b0, b1 = share(run, thread, threads, grain)
    return o0, o1, r0, r1, b0, b1


def _declare_strided(itemsize: int, as_item: Any) -> Kernel:
    def extents(row: Mapping[str, int]) -> list[Extent]:
        return _moved(row, RANK, (row["count"], row["x_step"], row["y_step"]), itemsize)

    @kernel(f"copy_strided_{itemsize}", STRIDED_FIELDS, extents, family="copy_strided")
    def copy_strided(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        outer = row[N0] * row[N1] * row[N2] * row[N3]
        x_step = row[X_STEP]
        y_step = row[Y_STEP]
        o0, o1, r0, r1, b0, b1 = _shares(outer, row[N4], row[COUNT], RUN_GRAIN, thread, threads)
        for o in range(o0, o1):
            i3 = o % row[N3]
            i2 = o // row[N3] % row[N2]
            i1 = o // row[N3] // row[N2] % row[N1]
            i0 = o // row[N3] // row[N2] // row[N1]
            source = x + i0 * row[XS0] + i1 * row[XS1] + i2 * row[XS2] + i3 * row[XS3]
            target = y + i0 * row[YS0] + i1 * row[YS1] + i2 * row[YS2] + i3 * row[YS3]
            for r in range(r0, r1):
                at_x = source + r * row[XS4]
                at_y = target + r * row[YS4]
                if x_step == 0 and y_step == itemsize:
                    item = as_item(at_x)[0]
                    for b in range(b0, b1):
                        as_item(at_y)[b] = item
                else:
                    for b in range(b0, b1):
                        as_item(at_y + b * y_step)[0] = as_item(at_x + b * x_step)[0]
        return 0

    return copy_strided


@helper
def _tile_u8(x, x_q, y, y_p):  # type: ignore[no-untyped-def]
    transpose_u8_16x16(x, x_q, y, y_p)


@helper
def _tile_u32(x, x_q, y, y_p):  # type: ignore[no-untyped-def]
    transpose_u32_8x8(x, x_q, y, y_p)


def _declare_transpose(itemsize: int, as_item: Any) -> Kernel:
    # bytes and words have a tile in registers; others go element by element in cache-sized tiles
    tiled = itemsize in (1, 4)
    tile = 16 if itemsize == 1 else 8
    transpose_tile = _tile_u8 if itemsize == 1 else _tile_u32

    def extents(row: Mapping[str, int]) -> list[Extent]:
        loops = ((row["p"], itemsize, row["y_p"]), (row["q"], row["x_q"], itemsize))
        return _moved(row, BATCH_RANK, *loops, itemsize)

    @helper
    def block(x, x_q, y, y_p, p, q):  # type: ignore[no-untyped-def]
        """Transpose p x q elements; tiles at the edges overlap their neighbours."""
        if tiled and p >= tile and q >= tile:
            i = 0
            while i < p:
                at_p = min(i, p - tile)
                j = 0
                while j < q:
                    at_q = min(j, q - tile)
                    transpose_tile(
                        x + at_p * itemsize + at_q * x_q, x_q, y + at_p * y_p + at_q * itemsize, y_p
                    )
                    j += tile
                i += tile
            return
        for i in range(p):
            for j in range(q):
                as_item(y + i * y_p)[j] = as_item(x + j * x_q)[i]

    @helper
    def interleave(x, x_q, y, p, q):  # type: ignore[no-untyped-def]
        """Few contiguous rows of x to pixels of q elements: colours of an image."""
        x0 = as_item(x)
        x1 = as_item(x + x_q)
        out = as_item(y)
        if q == 3:
            x2 = as_item(x + 2 * x_q)
            for i in range(p):
                out[3 * i] = x0[i]
                out[3 * i + 1] = x1[i]
                out[3 * i + 2] = x2[i]
        else:
            for i in range(p):
                out[2 * i] = x0[i]
                out[2 * i + 1] = x1[i]

    @kernel(f"transpose_{itemsize}", TRANSPOSE_FIELDS, extents, family="transpose")
    def transpose(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, TX, arena, constants)
        y = operand(row, TY, arena, constants)
        outer = row[TN0] * row[TN1] * row[TN2]
        q = row[Q]
        o0, o1 = np.int64(0), outer
        p0, p1 = np.int64(0), row[P]
        if outer >= threads:
            o0, o1 = share(outer, thread, threads, 1)
        else:
            p0, p1 = share(row[P], thread, threads, 64)
        for o in range(o0, o1):
            i2 = o % row[TN2]
            i1 = o // row[TN2] % row[TN1]
            i0 = o // row[TN2] // row[TN1]
            source = x + i0 * row[TXS0] + i1 * row[TXS1] + i2 * row[TXS2] + p0 * itemsize
            target = y + i0 * row[TYS0] + i1 * row[TYS1] + i2 * row[TYS2] + p0 * row[Y_P]
            if (q == 2 or q == 3) and row[Y_P] == q * itemsize:
                interleave(source, row[X_Q], target, p1 - p0, q)
            else:
                block(source, row[X_Q], target, row[Y_P], p1 - p0, q)
        return 0

    return transpose


STRIDED_KERNELS = {n: _declare_strided(n, as_item) for n, as_item in AS_ITEM.items()}
TRANSPOSE_KERNELS = {n: _declare_transpose(n, as_item) for n, as_item in AS_ITEM.items()}
