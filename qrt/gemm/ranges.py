"""Ranges that kernels find while they write: what dynamic quantization asks of a tensor.

A record per thread, all of a value's one after the other, RECORD_NBYTES each:

    header      what an epilogue quantizes by, and whether it has anything to do (`HEADER`)
    low         float32[16] at LOW_AT: each lane the least that it has seen, at most 0
    high        float32[16] at HIGH_AT: the same of what is largest, at least 0

A kernel of fewer lanes leaves the others at 0. NaN is no part of a range. Which part of a tensor a
lane has seen may differ from CPU to CPU; the range of all lanes and threads does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qrt.gemm.table import CODES
from qrt.jit.declare import Extent, helper, kernel, slots
from qrt.simd.memory import as_f32, as_i32, operand
from qrt.simd.scalar import quantize_u8
from qrt.simd.vectors import (
    copy_bytes,
    load_f32x16,
    max_f32x16,
    max_lanes_f32x16,
    min_f32x16,
    min_lanes_f32x16,
    splat_f32x16,
    store_f32x16,
)

Array = np.ndarray[Any, Any]

# float32 scale, its factor and rest (`quant/division.py`); int32: something to do, and whether
# the products are proved to round as the quotient does
HEADER = ("scale", "factor", "rest", "run", "multiplies")
SCALE, FACTOR, REST, RUN, MULTIPLIES = range(len(HEADER))
LOW_AT, HIGH_AT, RECORD_NBYTES = 64, 128, 192
NO_RECORD = 4  # the status of a product that is told to find a range and given no place for it
PARTS = 64  # threads that a range may come from: kernels that find one use no more
ZERO, MOST = np.float32(0), np.float32(255)

FIELDS = ("template", "ranges", "parts")
TEMPLATE, RANGES, N_PARTS = slots(FIELDS)


def record(
    scale: np.float32 = ZERO, factors: tuple[np.float32, np.float32] | None = None
) -> Array:
    """A record in front of its first run, uint8 (RECORD_NBYTES,)."""
    made = np.zeros(RECORD_NBYTES // 4, np.int32)
    factor, rest = factors or (ZERO, ZERO)
    made[: RUN].view(np.float32)[:] = scale, factor, rest
    made[RUN], made[MULTIPLIES] = 1, factors is not None
    return made.view(np.uint8)


def extents(row: Mapping[str, int]) -> list[Extent]:
    return [
        Extent("template", RECORD_NBYTES),
        Extent("ranges", ranges_nbytes(row["parts"]), writes=True),
    ]


def ranges_nbytes(parts: int) -> int:
    """Bytes of the records of `parts` threads; ValueError where they are too many."""
    if not 1 <= parts <= PARTS:
        raise ValueError(f"ranges have 1 to {PARTS} parts, got {parts}")
    return parts * RECORD_NBYTES


def limits_extent(row: Mapping[str, int], epilogue: str) -> Extent:
    """What the epilogue of a product reads at `limits`: four numbers, or a record per thread."""
    if row["limits_step"] == 0 and epilogue != CODES:
        return Extent("limits", 16)
    if row["limits_step"] != RECORD_NBYTES:
        raise ValueError(f"limits_step must be {RECORD_NBYTES}, got {row['limits_step']}")
    return Extent("limits", ranges_nbytes(row["max_threads"]), writes=True)


@helper
def is_no_record(step, limits):  # type: ignore[no-untyped-def]
    """True where the four numbers of a row that finds no range (`step` 0) ask for one: a tile
    would write behind them."""
    return step == 0 and as_i32(limits)[RUN] != 0


@kernel("open_ranges", FIELDS, extents, family="gemm_columns")
def open_ranges_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Every record as the template."""
    template = operand(row, TEMPLATE, arena, constants)
    ranges = operand(row, RANGES, arena, constants)
    for part in range(thread, row[N_PARTS], threads):
        copy_bytes(template, ranges + part * RECORD_NBYTES, RECORD_NBYTES)
    return 0


@helper
def found_range(ranges, parts):  # type: ignore[no-untyped-def]
    """(low, high) of all records."""
    low = high = splat_f32x16(ZERO)
    for part in range(parts):
        at = ranges + part * RECORD_NBYTES
        low = min_f32x16(load_f32x16(at + LOW_AT), low)
        high = max_f32x16(load_f32x16(at + HIGH_AT), high)
    return min_lanes_f32x16(low), max_lanes_f32x16(high)


@helper
def clear_ranges(ranges, parts, thread, threads):  # type: ignore[no-untyped-def]
    """Empty this thread's record, and those of parts that have no thread."""
    for part in range(thread, parts, threads):
        at = ranges + part * RECORD_NBYTES
        store_f32x16(at + LOW_AT, splat_f32x16(ZERO))
        store_f32x16(at + HIGH_AT, splat_f32x16(ZERO))


@helper
def widen_range_by(record, x, n):  # type: ignore[no-untyped-def]
    """Take n float32 at x into the range at `record`."""
    low0 = low1 = high0 = high1 = splat_f32x16(ZERO)  # two chains hide the latency
    i = 0
    while i + 32 <= n:
        v0 = load_f32x16(x + 4 * i)
        v1 = load_f32x16(x + 4 * i + 64)
        low0 = min_f32x16(v0, low0)
        low1 = min_f32x16(v1, low1)
        high0 = max_f32x16(v0, high0)
        high1 = max_f32x16(v1, high1)
        i += 32
    low0 = min_f32x16(load_f32x16(record + LOW_AT), low0)
    high0 = max_f32x16(load_f32x16(record + HIGH_AT), high0)
    store_f32x16(record + LOW_AT, min_f32x16(low0, low1))
    store_f32x16(record + HIGH_AT, max_f32x16(high0, high1))
    while i < n:
        widen_range(record, as_f32(x)[i])
        i += 1


@helper
def quotient_code(x, step):  # type: ignore[no-untyped-def]
    """The code of x in steps of `step`, from 0 to 255."""
    return quantize_u8(x / step, ZERO, MOST, np.int32(0))


@helper
def widen_range(record, x):  # type: ignore[no-untyped-def]
    """Take x, one float32, into the range at `record`."""
    low, high = as_f32(record + LOW_AT), as_f32(record + HIGH_AT)
    low[0] = x if x < low[0] else low[0]
    high[0] = x if x > high[0] else high[0]
