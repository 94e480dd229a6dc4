"""Tiles of float32 products: sums over k in order, one product after the other, no blocking of k.

Every output is one chain of additions whatever the tile, so bits depend on neither tile nor thread.
Columns are contiguous in b and y; blocks at the right edge overlap their left neighbour.
"""

from __future__ import annotations

import numpy as np

from qrt.jit.declare import helper
from qrt.simd.memory import as_f32
from qrt.simd.vectors import (
    add_f32x16,
    load_f32x16,
    mul_f32x16,
    splat_f32x16,
    store_f32x16,
)

ROWS = 4  # rows of a tile
COLUMNS = 32  # columns of a tile: 8 sums of 16 lanes and 2 vectors of b stay in registers


@helper
def finish(acc, c, c_step, alpha, beta):  # type: ignore[no-untyped-def]
    """acc * alpha + beta * c for 16 columns; c is a row (step 1) or one value (step 0)."""
    other = load_f32x16(c) if c_step == 1 else splat_f32x16(as_f32(c)[0])
    return add_f32x16(mul_f32x16(acc, splat_f32x16(alpha)), mul_f32x16(splat_f32x16(beta), other))


@helper
def tile_4x32(a, a_row, a_k, b, b_k, k, y, y_row, c, c_row, c_step, alpha, beta):  # type: ignore[no-untyped-def]
    """4 rows x 32 columns; strides in bytes."""
    zero = splat_f32x16(np.float32(0))
    s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = zero
    for i in range(k):
        b0 = load_f32x16(b + i * b_k)
        b1 = load_f32x16(b + i * b_k + 64)
        at = a + i * a_k
        v = splat_f32x16(as_f32(at)[0])
        s00 = add_f32x16(s00, mul_f32x16(v, b0))
        s01 = add_f32x16(s01, mul_f32x16(v, b1))
        v = splat_f32x16(as_f32(at + a_row)[0])
        s10 = add_f32x16(s10, mul_f32x16(v, b0))
        s11 = add_f32x16(s11, mul_f32x16(v, b1))
        v = splat_f32x16(as_f32(at + 2 * a_row)[0])
        s20 = add_f32x16(s20, mul_f32x16(v, b0))
        s21 = add_f32x16(s21, mul_f32x16(v, b1))
        v = splat_f32x16(as_f32(at + 3 * a_row)[0])
        s30 = add_f32x16(s30, mul_f32x16(v, b0))
        s31 = add_f32x16(s31, mul_f32x16(v, b1))
    half = 64 * c_step
    store_f32x16(y, finish(s00, c, c_step, alpha, beta))
    store_f32x16(y + 64, finish(s01, c + half, c_step, alpha, beta))
    y += y_row
    c += c_row
    store_f32x16(y, finish(s10, c, c_step, alpha, beta))
    store_f32x16(y + 64, finish(s11, c + half, c_step, alpha, beta))
    y += y_row
    c += c_row
    store_f32x16(y, finish(s20, c, c_step, alpha, beta))
    store_f32x16(y + 64, finish(s21, c + half, c_step, alpha, beta))
    y += y_row
    c += c_row
    store_f32x16(y, finish(s30, c, c_step, alpha, beta))
    store_f32x16(y + 64, finish(s31, c + half, c_step, alpha, beta))


@helper
def tile_1x64(a, a_k, b, b_k, k, y, c, c_step, alpha, beta):  # type: ignore[no-untyped-def]
    """One row x 64 columns."""
    zero = splat_f32x16(np.float32(0))
    s0 = s1 = s2 = s3 = zero
    for i in range(k):
        v = splat_f32x16(as_f32(a + i * a_k)[0])
        at = b + i * b_k
        s0 = add_f32x16(s0, mul_f32x16(v, load_f32x16(at)))
        s1 = add_f32x16(s1, mul_f32x16(v, load_f32x16(at + 64)))
        s2 = add_f32x16(s2, mul_f32x16(v, load_f32x16(at + 128)))
        s3 = add_f32x16(s3, mul_f32x16(v, load_f32x16(at + 192)))
    store_f32x16(y, finish(s0, c, c_step, alpha, beta))
    store_f32x16(y + 64, finish(s1, c + 64 * c_step, c_step, alpha, beta))
    store_f32x16(y + 128, finish(s2, c + 128 * c_step, c_step, alpha, beta))
    store_f32x16(y + 192, finish(s3, c + 192 * c_step, c_step, alpha, beta))


@helper
def tile_1x16(a, a_k, b, b_k, k, y, c, c_step, alpha, beta):  # type: ignore[no-untyped-def]
    """One row x 16 columns."""
    s = splat_f32x16(np.float32(0))
    for i in range(k):
        v = splat_f32x16(as_f32(a + i * a_k)[0])
        s = add_f32x16(s, mul_f32x16(v, load_f32x16(b + i * b_k)))
    store_f32x16(y, finish(s, c, c_step, alpha, beta))


@helper
def row_of(a, a_k, b, b_k, k, y, n, c, c_step, alpha, beta):  # type: ignore[no-untyped-def]
    """One row of n columns."""
    j = 0
    while j + 64 <= n:
        tile_1x64(
            a, a_k, b + 4 * j, b_k, k, y + 4 * j, c + 4 * j * c_step, c_step, alpha, beta
        )
        j += 64
    while j < n and n >= 16:
        at = min(j, n - 16)
        tile_1x16(
            a, a_k, b + 4 * at, b_k, k, y + 4 * at, c + 4 * at * c_step, c_step, alpha, beta
        )
        j += 16
    while j < n:
        s = np.float32(0)
        for i in range(k):
            s += as_f32(a + i * a_k)[0] * as_f32(b + i * b_k)[j]
        as_f32(y)[j] = s * alpha + beta * as_f32(c)[j * c_step]
        j += 1


@helper
def block_of(  # type: ignore[no-untyped-def]
    a, a_row, a_k, b, b_k, k, y, y_row, m, n, c, c_row, c_step, alpha, beta
):
    """m rows x n columns: a strip of columns at a time, so that its part of b stays in cache."""
    if m < ROWS or n < COLUMNS:
        for i in range(m):
            row_of(
                a + i * a_row, a_k, b, b_k, k, y + i * y_row, n, c + i * c_row, c_step, alpha, beta
            )
        return
    j = 0
    while j < n:
        at_n = min(j, n - COLUMNS)
        i = 0
        while i < m:
            at_m = min(i, m - ROWS)
            tile_4x32(
                a + at_m * a_row,
                a_row,
                a_k,
                b + 4 * at_n,
                b_k,
                k,
                y + at_m * y_row + 4 * at_n,
                y_row,
                c + at_m * c_row + 4 * at_n * c_step,
                c_row,
                c_step,
                alpha,
                beta,
            )
            i += ROWS
        j += COLUMNS
