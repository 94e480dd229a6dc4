"""qrt.GatherNBits: rows of a packed table of 2, 4 or 8 bits, as float32.

Sources: com.microsoft GatherBlockQuantized; Gather (opset 13) behind a DequantizeLinear. An element
is (float32(q) - zero_point) * scale, each rounded. Indices are checked by the kernel: one that is
out of range ends the run with a status.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops.sizes import product, within
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant.nbits import dequantize_blocks, unpack_bits
from qrt.simd.memory import as_f32, as_i32, as_i64, as_u8, operand
from qrt.simd.scalar import share

# the table is (size, blocks, block * bits / 8), y is (n, columns)
FIELDS = (
    "table",
    "scales",  # float32 (size, blocks)
    "zero_points",  # float32 (size, blocks)
    "indices",
    "y",
    "size",
    "n",
    "columns",
    "blocks",
    "nbytes",  # of a block
    "bits",
)
TABLE, SCALES, ZERO_POINTS, INDICES, Y, SIZE, N, COLUMNS, BLOCKS, NBYTES, BITS = slots(FIELDS)
BAD_INDEX = 1  # status


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    columns = int(node.attrs["columns"])
    return [((*node.required(3).static_shape, columns), np.dtype(np.float32))]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    packed, scales, zero_points, indices = inputs
    assert packed is not None and scales is not None and indices is not None
    q = unpack_bits(packed, node.attrs["bits"])
    table = dequantize_blocks(q, scales, zero_points, node.attrs["bits"])
    rows = table.reshape(table.shape[0], -1)[:, : node.attrs["columns"]]
    return [np.take(rows, indices.astype(np.int64), 0)]


def lower(node: Node, program: Lowering) -> None:
    packed, scales, zero_points, indices = (node.input(i) for i in range(4))
    assert packed is not None and scales is not None and indices is not None
    assert packed.data is not None and scales.data is not None
    dtype = np.dtype(indices.dtype).name
    if dtype not in KERNELS:
        raise UnsupportedError(f"indices must be int32 or int64, got {dtype}")
    bits = int(node.attrs["bits"])
    zeros = np.full(scales.data.shape, 1 << bits - 1, np.float32)
    if zero_points is not None and zero_points.data is not None:
        zeros = zero_points.data.astype(np.float32)
    size, blocks, nbytes = packed.data.shape
    program.emit(
        KERNELS[dtype],
        table=program.operand(packed),
        scales=program.operand(scales),
        zero_points=program.constant(zeros),
        indices=program.operand(indices),
        y=program.operand(node.outputs[0]),
        size=size,
        n=math.prod(indices.static_shape),
        columns=int(node.attrs["columns"]),
        blocks=blocks,
        nbytes=nbytes,
        bits=bits,
    )


def _declare(dtype: str, as_index: Any) -> Kernel:
    itemsize = np.dtype(dtype).itemsize

    def extents(row: Mapping[str, int]) -> list[Extent]:
        within(row, "size", 0, 1 << 40)
        if row["bits"] not in (1, 2, 4, 8):
            raise ValueError(f"bits must divide 8, got {row['bits']}")
        rows = product(row, "size", "blocks")
        row_nbytes = product(row, "blocks", "nbytes")
        if row["columns"] * row["bits"] > row_nbytes * 8:
            raise ValueError(f"{row['columns']} columns do not fit into {row_nbytes} bytes")
        return [
            Extent("table", row["size"] * row_nbytes),
            Extent("scales", 4 * rows),
            Extent("zero_points", 4 * rows),
            Extent("indices", itemsize * product(row, "n")),
            Extent("y", 4 * product(row, "n", "columns"), writes=True),
        ]

    @kernel(f"gather_nbits_{dtype}", FIELDS, extents, family="gather")
    def gather_nbits(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        table = operand(row, TABLE, arena, constants)
        scales = as_f32(operand(row, SCALES, arena, constants))
        zero_points = as_f32(operand(row, ZERO_POINTS, arena, constants))
        indices = as_index(operand(row, INDICES, arena, constants))
        y = operand(row, Y, arena, constants)
        size, columns, bits = row[SIZE], row[COLUMNS], row[BITS]
        blocks, nbytes = row[BLOCKS], row[NBYTES]
        per_byte = 8 // bits
        block = nbytes * per_byte
        mask = (1 << bits) - 1
        start, stop = share(row[N], thread, threads, 1)
        for r in range(start, stop):
            index = np.int64(indices[r])
            if index < 0:
                index += size
            if index < 0 or index >= size:
                return BAD_INDEX
            for i in range(blocks):
                at = index * blocks + i
                scale, zero = scales[at], zero_points[at]
                q = as_u8(table + at * nbytes)
                out = as_f32(y + (r * columns + i * block) * 4)
                count = min(block, columns - i * block)
                if bits == 8:
                    for j in range(count):
                        out[j] = (np.float32(q[j]) - zero) * scale
                    continue
                for j in range(count):
                    byte = np.int64(q[j // per_byte]) >> (j % per_byte * bits)
                    out[j] = (np.float32(byte & mask) - zero) * scale
        return 0

    return gather_nbits


KERNELS = {"int32": _declare("int32", as_i32), "int64": _declare("int64", as_i64)}

SPEC = OpSpec("GatherNBits", "qrt", infer, reference, lower)
