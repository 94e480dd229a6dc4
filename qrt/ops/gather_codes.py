"""Gather (opset 1 to 13) of rows of a table that stays codes, as float32.

An element is (float32(code) - zero_point) * scale, each rounded. Indices are checked by the kernel:
one that is out of range ends the run with a status.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from qrt.ir import Deferred, Value
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops.float_products import WORTH
from qrt.ops.sizes import product, within
from qrt.ops.spec import Lowering
from qrt.quant.coded import Coded, small_floats
from qrt.simd.memory import as_f32, as_i32, as_i64, as_u8, as_u16, operand
from qrt.simd.scalar import share

FIELDS = (
    "table",  # codes (size, columns), one after the other
    "values",  # float32 of every code of up to 8 bits
    "scales",  # float32 [row of blocks][block]
    "zeros",  # float32, as scales
    "indices",
    "y",  # float32 (n, columns)
    "size",
    "n",
    "columns",
    "bits",
    "row_block",  # rows and columns that share a scale
    "block",
    "usual",  # the zero point where there are none
    "has_zeros",
)
(
    TABLE, VALUES, SCALES, ZEROS, INDICES, Y, SIZE, N, COLUMNS, BITS, ROW_BLOCK, BLOCK, USUAL,
    HAS_ZEROS,
) = slots(FIELDS)  # fmt: skip
BAD_INDEX = 1  # status


def lower_coded_gather(program: Lowering, x: Value, indices: Value, y: Value, axis: int) -> bool:
    """Emit the row of a Gather of rows of a table that stays codes; False for any other."""
    dtype = np.dtype(indices.dtype).name
    if not isinstance(x, Deferred) or not isinstance(x.source, Coded) or dtype not in KERNELS:
        return False
    coded = x.source
    if axis or len(coded.shape) != 2 or coded.nbytes > WORTH * x.nbytes:
        return False
    values = np.arange(256, dtype=np.float32)
    if coded.kind is not None:
        values[: 1 << coded.bits] = small_floats(coded.kind)
    key, zero_point = (id(coded), "gather"), coded.zero_point
    zeros = None if zero_point is None else program.packed((*key, "zeros"), lambda: zero_point)
    whole = [n == 1 for n in coded.scale.shape]  # one scale along the axis
    row_block, block = (
        size if one else block
        for size, one, block in zip(coded.shape, whole, coded.blocks, strict=True)
    )
    program.note(f"its table of {coded.bits} bits stays packed, {coded.nbytes} bytes"
                 f" for {x.nbytes}")  # fmt: skip
    program.emit(
        KERNELS[dtype],
        table=program.packed((*key, "codes"), lambda: coded.packed),
        values=program.constant(values),
        scales=program.packed((*key, "scales"), lambda: coded.scale),
        zeros=0 if zeros is None else zeros,
        indices=program.operand(indices),
        y=program.operand(y),
        size=coded.shape[0],
        n=math.prod(indices.static_shape),
        columns=coded.shape[1],
        bits=coded.bits,
        row_block=row_block,
        block=block,
        usual=coded.usual,
        has_zeros=int(zeros is not None),
    )
    return True


def _declare(dtype: str, as_index: Any) -> Kernel:
    itemsize = np.dtype(dtype).itemsize

    def extents(row: Mapping[str, int]) -> list[Extent]:
        within(row, "size", 0, 1 << 40)
        for name in ("columns", "row_block", "block"):
            within(row, name, 1, 1 << 40)
        within(row, "usual", 0, 1 << 16)
        if row["bits"] not in (1, 2, 4, 8, 16):
            raise ValueError(f"bits must be 1, 2, 4, 8 or 16, got {row['bits']}")
        scales = -(-row["size"] // row["row_block"]) * -(-row["columns"] // row["block"])
        return [
            Extent("table", -(-product(row, "size", "columns") * row["bits"] // 8)),
            Extent("values", 4 * 256),
            Extent("scales", 4 * scales),
            Extent("zeros", 4 * scales if row["has_zeros"] else 0),
            Extent("indices", itemsize * product(row, "n")),
            Extent("y", 4 * product(row, "n", "columns"), writes=True),
        ]

    @kernel(f"gather_codes_{dtype}", FIELDS, extents, family="gather")
    def gather_codes(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        table = operand(row, TABLE, arena, constants)
        values = as_f32(operand(row, VALUES, arena, constants))
        scales = as_f32(operand(row, SCALES, arena, constants))
        zeros = as_f32(operand(row, ZEROS, arena, constants))
        indices = as_index(operand(row, INDICES, arena, constants))
        y = operand(row, Y, arena, constants)
        size, columns, bits, block = row[SIZE], row[COLUMNS], row[BITS], row[BLOCK]
        mask = (1 << bits) - 1
        blocks = (columns + block - 1) // block
        start, stop = share(row[N], thread, threads, 1)
        for r in range(start, stop):
            index = np.int64(indices[r])
            if index < 0:
                index += size
            if index < 0 or index >= size:
                return BAD_INDEX
            out = as_f32(y + r * columns * 4)
            at_scale = index // row[ROW_BLOCK] * blocks
            for i in range(blocks):
                scale = scales[at_scale + i]
                zero = np.float32(row[USUAL])
                if row[HAS_ZEROS] != 0:
                    zero = zeros[at_scale + i]
                first, last = i * block, min((i + 1) * block, columns)
                if bits == 16:
                    words = as_u16(table + index * columns * 2)
                    for j in range(first, last):
                        out[j] = (np.float32(words[j]) - zero) * scale
                    continue
                for j in range(first, last):
                    bit = (index * columns + j) * bits
                    code = np.int64(as_u8(table)[bit >> 3]) >> (bit & 7) & mask
                    out[j] = (values[code] - zero) * scale
        return 0

    return gather_codes


KERNELS = {"int32": _declare("int32", as_i32), "int64": _declare("int64", as_i64)}

