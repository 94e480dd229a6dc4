"""Products of few-bit weights in blocks: rows of activations, and the loops around the tiles."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from qrt.gemm.extents import LIMIT, check_alignment
from qrt.gemm.nbits_table import BLOCK_UNIT, NBITS_TILES, NBitsTile, block_nbytes, panels_of
from qrt.gemm.nbits_tiles import nbits_tiles
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.quant.nbits import LEAST
from qrt.simd.memory import as_f32, as_i8, as_i32, operand
from qrt.simd.scalar import add32, bits_f32, round_i32, share
from qrt.simd.vectors import (
    add_i32x16,
    and_i32x16,
    i32x16_to_u8x16,
    load_f32x16,
    load_i32x16,
    max_i32x16,
    max_lanes_i32x16,
    mul_f32x16,
    round_i32x16,
    splat_f32x16,
    splat_i32x16,
    store_u8x16,
    sum_lanes_i32x16,
)

FIELDS = (
    "x",  # float32 (m, k), or what `quantize_rows_kernel` makes of it: int8 (m, blocks * block)
    "x_scales",  # float32 (m, blocks)
    "x_sums",  # int32 (m, blocks), negated
    "y",  # float32 (m, n)
    "panels",
    "zero_points",  # [panel][block][column]: uint8 for integers, float32 for floats
    "bias",  # float32, padded to whole panels
    "has_zero_points",
    "m",
    "n",
    "k",
    "block",  # weights of a block
    "at_once",  # panels that stay in L2 while the rows go by
    "max_threads",
)
(
    X, X_SCALES, X_SUMS, Y, PANELS, ZERO_POINTS, BIAS, HAS_ZERO_POINTS, M, N, K, BLOCK, AT_ONCE,
    MAX_THREADS,
) = slots(FIELDS)  # fmt: skip

ROW_FIELDS = ("x", "q", "scales", "sums", "m", "k", "block")
RX, RQ, R_SCALES, R_SUMS, RM, RK, R_BLOCK = slots(ROW_FIELDS)
MAGNITUDE = np.int32(0x7FFFFFFF)
INFINITE = np.int32(0x7F800000)
LEAST_BITS = np.int32(LEAST.view(np.int32))
NOT_A_NUMBER = np.int32(0x7FC00000)
STEPS = np.float32(127)


def make_kernel(tile: NBitsTile) -> Kernel:
    """The product kernel of a table row."""
    mr, nr, bits = tile.mr, tile.nr, tile.bits
    heights, integers = tile.heights, tile.types == "s8"
    zero_nbytes = 1 if integers else 4
    run_tile = nbits_tiles(tile)

    def product(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        threads = min(threads, row[MAX_THREADS])
        if thread >= threads:
            return 0
        m_total, n, k, block = row[M], row[N], row[K], row[BLOCK]
        x = operand(row, X, arena, constants)
        x_scales = operand(row, X_SCALES, arena, constants)
        x_sums = operand(row, X_SUMS, arena, constants)
        y = operand(row, Y, arena, constants)
        panels0 = operand(row, PANELS, arena, constants)
        zero_points0 = operand(row, ZERO_POINTS, arena, constants)
        bias = operand(row, BIAS, arena, constants)
        blocks = (k + block - 1) // block
        x_step = blocks * block if integers else k * 4
        panel_nbytes = blocks * (block * nr * bits // 8 + 4 * nr)
        panels = (n + nr - 1) // nr
        m_tiles = (m_total + mr - 1) // mr
        last_m = m_total - (m_tiles - 1) * mr
        last_height = mr
        for height in heights:
            if height >= last_m:
                last_height = height
        # split by the dimension whose largest share, in tiles, is the smaller
        by_rows = (m_tiles + threads - 1) // threads * panels
        by_panels = (panels + threads - 1) // threads * m_tiles
        if by_rows < by_panels:
            t0, t1 = m_tiles * thread // threads, m_tiles * (thread + 1) // threads
            p0, p1 = 0, panels
        else:
            t0, t1 = 0, m_tiles
            p0, p1 = panels * thread // threads, panels * (thread + 1) // threads
        for jc in range(p0, p1, row[AT_ONCE]):
            for t in range(t0, t1):
                m0 = t * mr
                m = min(mr, m_total - m0)
                height = mr if m == mr else last_height
                for j in range(jc, min(jc + row[AT_ONCE], p1)):
                    zero_points = 0
                    if row[HAS_ZERO_POINTS] != 0:
                        zero_points = zero_points0 + j * blocks * nr * zero_nbytes
                    run_tile(height, x + m0 * x_step, x_step, x_scales + m0 * blocks * 4,
                             x_sums + m0 * blocks * 4, panels0 + j * panel_nbytes, zero_points,
                             bias + j * nr * 4, y + (m0 * n + j * nr) * 4, n * 4, m,
                             min(nr, n - j * nr), blocks, block, k)  # fmt: skip
        return 0

    return kernel(
        tile.kernel_name,
        FIELDS,
        partial(extents, tile),
        family="nbits",
        features=tile.features,
    )(product)


def _check(row: Mapping[str, int], positive: tuple[str, ...]) -> int:
    """Number of blocks; raises ValueError when a row's numbers contradict each other."""
    for name in positive:
        if not 0 < row[name] < LIMIT:
            raise ValueError(f"{name} must be positive, got {row[name]}")
    if not 0 <= row["k"] < LIMIT:
        raise ValueError(f"k must not be negative, got {row['k']}")
    if row["block"] % BLOCK_UNIT:
        raise ValueError(f"block must be a multiple of {BLOCK_UNIT}, got {row['block']}")
    return -(-row["k"] // row["block"])


def extents(tile: NBitsTile, row: Mapping[str, int]) -> list[Extent]:
    """Extents of a product by `tile`."""
    blocks = _check(row, ("m", "n", "block", "at_once", "max_threads"))
    if tile.family != "portable":
        check_alignment(row, "panels", 64)  # tiles load weights with aligned instructions
    m, n, k = row["m"], row["n"], row["k"]
    panels = panels_of(n, tile)
    integers = tile.types == "s8"
    found = [
        Extent("x", m * blocks * row["block"] if integers else 4 * m * k),
        Extent("y", 4 * m * n, writes=True),
        Extent("panels", panels * blocks * block_nbytes(row["block"], tile)),
        Extent("bias", 4 * panels * tile.nr),
    ]
    if integers:
        found += [Extent("x_scales", 4 * m * blocks), Extent("x_sums", 4 * m * blocks)]
    if row["has_zero_points"]:
        nbytes = panels * blocks * tile.nr * (1 if integers else 4)
        found.append(Extent("zero_points", nbytes))
    return found


def rows_extents(row: Mapping[str, int]) -> list[Extent]:
    """x in full; int8, scales and sums of every block."""
    blocks = _check(row, ("m", "block"))
    m = row["m"]
    return [
        Extent("x", 4 * m * row["k"]),
        Extent("q", m * blocks * row["block"], writes=True),
        Extent("scales", 4 * m * blocks, writes=True),
        Extent("sums", 4 * m * blocks, writes=True),
    ]


@kernel("quantize_rows_f32_s8", ROW_FIELDS, rows_extents, family="nbits_rows")
def quantize_rows_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """`quant.nbits.quantize_rows`, and the negated sum of every block."""
    x0 = operand(row, RX, arena, constants)
    q0 = operand(row, RQ, arena, constants)
    scales = as_f32(operand(row, R_SCALES, arena, constants))
    sums = as_i32(operand(row, R_SUMS, arena, constants))
    k, block = row[RK], row[R_BLOCK]
    blocks = (k + block - 1) // block
    start, stop = share(row[RM] * blocks, thread, threads, 1)
    for i in range(start, stop):
        r = i // blocks
        first = (i - r * blocks) * block
        count = min(block, k - first)
        whole = count // 16 * 16
        x = x0 + (r * k + first) * 4
        q = q0 + i * block
        # magnitudes of floats compare as their bits do; NaN is above infinity
        most = splat_i32x16(np.int32(0))
        for j in range(0, whole, 16):
            magnitude = and_i32x16(load_i32x16(x + 4 * j), splat_i32x16(MAGNITUDE))
            most = max_i32x16(most, magnitude)
        high = max_lanes_i32x16(most)
        for j in range(whole, count):
            magnitude1 = np.int32(as_i32(x)[j] & MAGNITUDE)
            high = magnitude1 if magnitude1 > high else high
        if high < LEAST_BITS or high >= INFINITE:
            scales[i] = np.float32(0) if high < LEAST_BITS else bits_f32(NOT_A_NUMBER)
            sums[i] = np.int32(0)
            for j in range(block):
                as_i8(q)[j] = np.int8(0)
            continue
        inverse = STEPS / bits_f32(high)
        scales[i] = bits_f32(high) / STEPS
        total = splat_i32x16(np.int32(0))
        for j in range(0, whole, 16):
            integers = round_i32x16(mul_f32x16(load_f32x16(x + 4 * j), splat_f32x16(inverse)))
            total = add_i32x16(total, integers)
            store_u8x16(q + j, i32x16_to_u8x16(integers))
        taken = sum_lanes_i32x16(total)
        for j in range(whole, count):
            integer = round_i32(as_f32(x)[j] * inverse)
            taken = add32(taken, integer)
            as_i8(q)[j] = np.int8(integer)
        for j in range(count, block):
            as_i8(q)[j] = np.int8(0)
        sums[i] = np.int32(-taken)
    return 0


NBITS_PRODUCTS: dict[NBitsTile, Any] = {tile: make_kernel(tile) for tile in NBITS_TILES}
