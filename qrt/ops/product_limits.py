"""The row of a product with what its epilogue asks for: limits, the range that it finds, or both.

Codes of a float result y, clipped to [0, highest], need its largest element before the first can be
made. But a clip is there to be reached, so the product guesses that it was: it quantizes by
highest / 255 and finds the largest element on the way. `settle_range` then knows the scale. Where
the guess was wrong, and only there, the same row runs once more by the right one; that is no more
than the sums twice, and floats are never in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.gemm.ranges import (
    FACTOR,
    MULTIPLIES,
    PARTS,
    RECORD_NBYTES,
    REST,
    RUN,
    found_range,
    open_ranges_kernel,
    ranges_nbytes,
    record,
)
from qrt.gemm.ranges import SCALE as STEP
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops.dynamic_quantize import LONG, STEPS, ZERO, reciprocal, round_alike
from qrt.ops.product import Product
from qrt.ops.sizes import product as items
from qrt.ops.spec import Lowering, Operand
from qrt.quant.division import LARGEST, SMALLEST, division_factors
from qrt.simd.memory import as_f32, as_i32, as_u8, operand, row_f32

LARGEST_CODE = np.float32(2**22)  # times highest: a code of 255 times as much still fits int32

FIELDS = ("ranges", "scale", "zero_point", "n", "parts", "highest")
RANGES, SCALE, ZERO_POINT, N, N_PARTS, HIGHEST = slots(FIELDS)


def emit_with_limits(
    program: Lowering,
    kernel: Kernel,
    product: Product,
    **fields: int | Operand,
) -> None:
    """Emit the row of `kernel`, and those in front of and behind it where it finds a range."""
    highest = product.highest
    if len(product.outputs) < 2:
        y_zero_point = 0 if product.y is None else int(product.y.zero_point)
        limits = np.array([y_zero_point, product.qmin, product.qmax, 0], np.int32)
        program.emit(kernel, **fields, limits=program.constant(limits), limits_step=0)
        return
    parts = min(program.threads(), PARTS)
    guess, factors = np.float32(0), None
    if highest is None:
        ranges = program.operand(product.outputs[1])
    else:
        ranges = program.scratch(ranges_nbytes(parts))
        guess = np.float32(highest / STEPS)
        factors = division_factors(float(guess), 0, 255)
    ends: dict[str, int | Operand] = {"ranges": ranges, "parts": parts}
    template = program.constant(record(guess, factors))
    program.emit(open_ranges_kernel, template=template, **ends)
    threads = fields["max_threads"]
    assert isinstance(threads, int)
    row = fields | {"limits": ranges, "limits_step": RECORD_NBYTES}
    row["max_threads"] = min(threads, parts)
    program.emit(kernel, **row)
    if highest is None:
        return
    y, scale, zero_point = product.outputs
    program.emit(
        settle_range_kernel,
        **ends,
        scale=program.operand(scale),
        zero_point=program.operand(zero_point),
        n=y.nbytes,
        highest=highest,
    )
    program.emit(kernel, **row)


def extents(row: Mapping[str, int]) -> list[Extent]:
    items(row, "n")
    return [
        Extent("ranges", ranges_nbytes(row["parts"]), writes=True),
        Extent("scale", 4, writes=True),
        Extent("zero_point", 1, writes=True),
    ]


@kernel("settle_range", FIELDS, extents, family="gemm_columns")
def settle_range_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """The scale of n codes, and what the records say to a second run."""
    if thread != 0:
        return 0
    ranges = operand(row, RANGES, arena, constants)
    highest = row_f32(row, HIGHEST)
    high = found_range(ranges, row[N_PARTS])[1]
    clips = high >= highest
    # codes of a row that multiplies must fit int32
    is_right = clips and high < LARGEST_CODE * highest
    high = highest if clips else high
    scale = high / STEPS if high > ZERO else np.float32(1)
    as_f32(operand(row, SCALE, arena, constants))[0] = scale
    as_u8(operand(row, ZERO_POINT, arena, constants))[0] = np.uint8(0)
    factor = rest = ZERO
    multiplies = not clips and row[N] >= LONG and scale >= SMALLEST and scale <= LARGEST
    if multiplies:
        factor, rest = reciprocal(scale)
        multiplies = round_alike(scale, factor, rest, np.int32(0))
    for part in range(row[N_PARTS]):
        at = ranges + part * RECORD_NBYTES
        reals, integers = as_f32(at), as_i32(at)
        reals[STEP] = scale
        reals[FACTOR] = factor
        reals[REST] = rest
        integers[RUN] = 0 if is_right else 1
        integers[MULTIPLIES] = 1 if multiplies else 0
    return 0
