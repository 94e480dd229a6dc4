"""Column parameters that wait for the data: x_scale and x_zero_point of dynamic quantization.

A product's columns are packed when the program is made, as for a zero point of 0 and a scale of 1.
What the data then says goes into them before the product runs, in one pass over n columns:

    bias - x_zero_point * slope        slope: the sum of the column's weights, zero points taken off
    scale * x_scale                    where the slope is SCALED

and so does the row that the padding reads, which is x_zero_point throughout.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.jit.declare import Extent, kernel, slots
from qrt.simd.memory import as_f32, as_i32, as_u8, operand
from qrt.simd.scalar import mul32, share, sub32

FIELDS = (
    "template",  # int32 or float32 [count]
    "slopes",  # int32 [count]
    "x_scale",  # float32
    "x_zero_point",  # uint8
    "columns",  # the result: int32 or float32 [count]
    "pad",  # the result: uint8 [pad_nbytes]
    "count",
    "pad_nbytes",
)
TEMPLATE, SLOPES, X_SCALE, X_ZERO_POINT, COLUMNS, PAD, COUNT, PAD_NBYTES = slots(FIELDS)
SCALED = -(2**31)  # no sum of weights: one that large could make a product's sums pass int32
SCALED_F32 = np.asarray(-0.0, np.float32)  # the same bits
GRAIN = 16384  # columns; below this a second thread costs more than it saves
LIMIT = 2**40


def extents(row: Mapping[str, int]) -> list[Extent]:
    """Every array in full."""
    for name in ("count", "pad_nbytes"):
        if not 0 <= row[name] < LIMIT:
            raise ValueError(f"{name} must not be negative, got {row[name]}")
    return [
        Extent("template", 4 * row["count"]),
        Extent("slopes", 4 * row["count"]),
        Extent("x_scale", 4),
        Extent("x_zero_point", 1),
        Extent("columns", 4 * row["count"], writes=True),
        Extent("pad", row["pad_nbytes"], writes=True),
    ]


@kernel("run_time_columns", FIELDS, extents, family="gemm_columns")
def run_time_columns_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    template = operand(row, TEMPLATE, arena, constants)
    slopes = as_i32(operand(row, SLOPES, arena, constants))
    columns = as_i32(operand(row, COLUMNS, arena, constants))
    reals = as_f32(operand(row, COLUMNS, arena, constants))
    scale = as_f32(operand(row, X_SCALE, arena, constants))[0]
    code = as_u8(operand(row, X_ZERO_POINT, arena, constants))[0]
    start, stop = share(row[COUNT], thread, threads, GRAIN)
    for i in range(start, stop):
        if slopes[i] == SCALED:
            reals[i] = as_f32(template)[i] * scale
        else:
            columns[i] = sub32(as_i32(template)[i], mul32(np.int32(code), slopes[i]))
    if thread == 0:
        pad = as_u8(operand(row, PAD, arena, constants))
        for i in range(row[PAD_NBYTES]):
            pad[i] = code
    return 0
