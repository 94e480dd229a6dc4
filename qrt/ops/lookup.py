"""qrt.Lookup: a byte through a table of 256 entries, to 8 bits or float32.

Any function of one quantized tensor (an activation with its QuantizeLinear, a requantization) is
such a table, exact by construction. An int8 tensor is looked up by its byte (-1 at 255).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.dispatch import best_kernel
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, Operand, OpSpec
from qrt.simd.memory import as_f32, as_u8, bits_f32, operand
from qrt.simd.scalar import share
from qrt.simd.tables import (
    lookup_f32x64_vbmi,
    lookup_u8x16_sse41,
    lookup_u8x32_avx2,
    lookup_u8x64_avx512,
    lookup_u8x64_neon,
    lookup_u8x64_vbmi,
)

# `rows` of `n` elements each; x is contiguous, rows of y are `y_stride` elements apart
FIELDS = ("x", "table", "y", "rows", "n", "y_stride")
X, TABLE, Y, ROWS, COUNT, Y_STRIDE = slots(FIELDS)
GRAIN = 4096  # elements; below this a second thread costs more than it saves


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    return [(node.required(0).static_shape, node.attrs["table"].dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    return [node.attrs["table"][x.view(np.uint8)]]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    n = int(np.prod(x.static_shape))
    if x.dtype not in (np.uint8, np.int8):
        raise UnsupportedError(f"Lookup of {x.dtype} is not supported, only uint8 and int8")
    emit_lookup(program, node.attrs["table"], program.operand(x), program.operand(y), 1, n, n)


def emit_lookup(
    program: Lowering, table: Array, x: Operand, y: Operand, rows: int, n: int, y_stride: int
) -> None:
    """Rows of `n` elements of x through `table` to rows of y that are `y_stride` elements apart."""
    if table.shape != (256,) or table.dtype not in (np.uint8, np.int8, np.float32):
        raise UnsupportedError(
            f"a lookup table must be 256 of 8 bits or float32, got {table.dtype}{list(table.shape)}"
        )
    if rows > 1 and n == y_stride:
        rows, n, y_stride = 1, rows * n, rows * n
    kernels = FLOAT_KERNELS if table.dtype == np.float32 else KERNELS
    kernel = best_kernel(kernels, program.features)
    if kernel.name in PLANES:
        table = table.view(np.uint8).reshape(256, -1).T
    program.emit(
        kernel,
        x=x,
        table=program.constant(table),
        y=y,
        rows=rows,
        n=n,
        y_stride=y_stride,
    )


def _extents(row: Mapping[str, int], itemsize: int) -> list[Extent]:
    elements = product(row, "rows", "n")
    reach = (row["rows"] - 1) * product(row, "y_stride") + row["n"] if elements else 0
    return [
        Extent("x", elements),
        Extent("table", 256 * itemsize),
        Extent("y", reach * itemsize, writes=True),
    ]


def extents(row: Mapping[str, int]) -> list[Extent]:
    return _extents(row, 1)


def float_extents(row: Mapping[str, int]) -> list[Extent]:
    return _extents(row, 4)


def _declare(
    name: str, family: str, itemsize: int, width: int, block: Any, features: tuple[str, ...]
) -> Kernel:
    """`block(x, table, y)` looks up `width` bytes; entries of `itemsize` bytes."""
    as_entry = as_u8 if itemsize == 1 else as_f32
    planes = name in PLANES

    @helper
    def single(table, code):  # type: ignore[no-untyped-def]
        if planes:
            bits = np.int64(0)
            for k in range(itemsize):
                bits |= np.int64(as_u8(table)[256 * k + code]) << 8 * k
            return bits_f32(np.int32(bits))
        return as_entry(table)[code]

    @kernel(
        name,
        FIELDS,
        extents if itemsize == 1 else float_extents,
        family=family,
        features=features,
    )
    def lookup_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        table = operand(row, TABLE, arena, constants)
        y = operand(row, Y, arena, constants)
        n = row[COUNT]
        gap = row[Y_STRIDE] - n
        start, stop = share(row[ROWS] * n, thread, threads, GRAIN)
        i = start
        while i < stop:
            target = y + itemsize * (i // n * gap)
            end = min(stop, i - i % n + n)
            while i + width <= end:
                block(x + i, table, target + itemsize * i)
                i += width
            while i < end:
                as_entry(target)[i] = single(table, as_u8(x)[i])
                i += 1
        return 0

    return lookup_kernel


@helper
def _eight_bytes(x, table, y):  # type: ignore[no-untyped-def]
    for i in range(8):
        as_u8(y)[i] = as_u8(table)[as_u8(x)[i]]


@helper
def _eight_floats(x, table, y):  # type: ignore[no-untyped-def]
    for i in range(8):
        as_f32(y)[i] = as_f32(table)[as_u8(x)[i]]


PLANES = ("lookup_u8_f32_avx512vbmi",)  # kernels that take the bytes of a table's entries apart
_VBMI = ("avx512", "avx512vbmi")
KERNELS = (
    _declare("lookup_u8_avx512vbmi", "lookup_u8", 1, 64, lookup_u8x64_vbmi, _VBMI),
    _declare("lookup_u8_avx512", "lookup_u8", 1, 64, lookup_u8x64_avx512, ("avx512",)),
    _declare("lookup_u8_avx2", "lookup_u8", 1, 32, lookup_u8x32_avx2, ("avx2",)),
    _declare("lookup_u8_sse41", "lookup_u8", 1, 16, lookup_u8x16_sse41, ("sse41",)),
    _declare("lookup_u8_neon", "lookup_u8", 1, 64, lookup_u8x64_neon, ("neon",)),
    _declare("lookup_u8", "lookup_u8", 1, 8, _eight_bytes, ()),
)
FLOAT_KERNELS = (
    _declare("lookup_u8_f32_avx512vbmi", "lookup_u8_f32", 4, 64, lookup_f32x64_vbmi, _VBMI),
    _declare("lookup_u8_f32", "lookup_u8_f32", 4, 8, _eight_floats, ()),
)

SPEC = OpSpec("Lookup", "qrt", infer, reference, lower, layout="any")
