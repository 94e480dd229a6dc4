"""qrt.Lookup: a byte through a table of 256 entries, to 8 bits or float32.

Any function of one quantized tensor (an activation with its QuantizeLinear, a requantization) is
such a table, exact by construction. An int8 tensor is looked up by its byte (-1 at 255). A table
that is a line between two clamps, as a requantization's, is computed where that is faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.dispatch import best_kernel, usable_kernel
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, Operand, OpSpec
from qrt.quant.lines import line_of
from qrt.simd.lines import (
    LINES,
    NBYTES,
    WIDTH,
    line_parameters,
)
from qrt.simd.memory import as_f32, as_i32, as_u8, bits_f32, operand
from qrt.simd.scalar import share
from qrt.simd.tables import (
    lookup_f32x64_vbmi,
    lookup_some_u8x64_vbmi,
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
    is_float = table.dtype == np.float32
    kernel = best_kernel(FLOAT_KERNELS if is_float else KERNELS, program.features)
    encoded = table
    if kernel.name in PLANES:
        encoded = table.view(np.uint8).reshape(256, -1).T
    elif not is_float and kernel is not KERNELS[0]:
        line = line_of(table) if usable_kernel(LINE_KERNELS, program.features) else None
        if line is not None:
            kernel = best_kernel(LINE_KERNELS, program.features, {WHOLE: int(line.is_whole)})
            encoded = line_parameters(line)
    program.emit(
        kernel,
        x=x,
        table=program.constant(encoded),
        y=y,
        rows=rows,
        n=n,
        y_stride=y_stride,
    )


def _extents(itemsize: int, table_nbytes: int) -> Any:
    def extents(row: Mapping[str, int]) -> list[Extent]:
        elements = product(row, "rows", "n")
        reach = (row["rows"] - 1) * product(row, "y_stride") + row["n"] if elements else 0
        return [
            Extent("x", elements),
            Extent("table", table_nbytes),
            Extent("y", reach * itemsize, writes=True),
        ]

    return extents


def _declare(
    name: str,
    family: str,
    width: int,
    block: Any,
    features: tuple[str, ...],
    *,
    single: Any = None,
    some: Any = None,
    itemsize: int = 1,
    table_nbytes: int = 0,
    preconditions: Mapping[str, int] | None = None,
) -> Kernel:
    """`block(x, table, y)` looks up `width` bytes, `single(table, code)` one; entries of `itemsize`
    bytes, all of them in `table_nbytes`. `some(x, table, y, count)` reads as many as `block`."""
    as_entry = as_u8 if itemsize == 1 else as_f32
    single = single or (_byte if itemsize == 1 else _float)

    @helper
    def one_by_one(x, table, y, count):  # type: ignore[no-untyped-def]
        for i in range(count):
            as_entry(y)[i] = single(table, as_u8(x)[i])

    rest = some or one_by_one

    @kernel(
        name,
        FIELDS,
        _extents(itemsize, table_nbytes or 256 * itemsize),
        family=family,
        features=features,
        preconditions=preconditions,
    )
    def lookup_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        table = operand(row, TABLE, arena, constants)
        n = row[COUNT]
        start, stop = share(row[ROWS] * n, thread, threads, GRAIN)
        if start >= stop:
            return 0
        y = operand(row, Y, arena, constants)
        # what lies between rows of y, from the row of `start` on
        gap = (row[Y_STRIDE] - n) * itemsize
        y += start // n * gap
        end = min(stop, start - start % n + n)
        i = start
        while i < stop:
            first = i
            while i < end and first + width <= end:
                at = min(i, end - width)  # the last block may overlap
                block(x + at, table, y + itemsize * at)
                i += width
            if i < end:
                rest(x + i, table, y + itemsize * i, end - i)
            i = end
            end = min(stop, end + n)
            y += gap
        return 0

    return lookup_kernel


@helper
def _byte(table, code):  # type: ignore[no-untyped-def]
    return as_u8(table)[code]


@helper
def _float(table, code):  # type: ignore[no-untyped-def]
    return as_f32(table)[code]


@helper
def _of_planes(table, code):  # type: ignore[no-untyped-def]
    bits = np.int64(0)
    for k in range(4):
        bits |= np.int64(as_u8(table)[256 * k + code]) << 8 * k
    return bits_f32(np.int32(bits))


@helper
def _of_line(table, code):  # type: ignore[no-untyped-def]
    p = as_i32(table)
    product = (256 * np.int64(code) + p[1]) * p[0] >> 16
    q = np.int64(np.int16(product + p[2])) >> p[3]
    return np.uint8(min(max(q, 0), np.int64(p[4])) + p[5])


@helper
def _eight_bytes(x, table, y):  # type: ignore[no-untyped-def]
    for i in range(8):
        as_u8(y)[i] = as_u8(table)[as_u8(x)[i]]


@helper
def _eight_floats(x, table, y):  # type: ignore[no-untyped-def]
    for i in range(8):
        as_f32(y)[i] = as_f32(table)[as_u8(x)[i]]


_VBMI = ("avx512", "avx512vbmi")
KERNELS = (
    _declare(
        "lookup_u8_avx512vbmi", "lookup_u8", 64, lookup_u8x64_vbmi, _VBMI,
        some=lookup_some_u8x64_vbmi,
    ),
    _declare("lookup_u8_avx512", "lookup_u8", 64, lookup_u8x64_avx512, ("avx512",)),
    _declare("lookup_u8_avx2", "lookup_u8", 32, lookup_u8x32_avx2, ("avx2",)),
    _declare("lookup_u8_sse41", "lookup_u8", 16, lookup_u8x16_sse41, ("sse41",)),
    _declare("lookup_u8_neon", "lookup_u8", 64, lookup_u8x64_neon, ("neon",)),
    _declare("lookup_u8", "lookup_u8", 8, _eight_bytes, ()),
)


def _declare_line(isa: str, block: Any, *, is_whole: bool) -> Kernel:
    return _declare(
        f"lookup_{'whole_' if is_whole else ''}line_{isa}", "lookup_line", WIDTH, block, (isa,),
        single=_of_line, table_nbytes=NBYTES, preconditions={WHOLE: 1} if is_whole else None,
    )  # fmt: skip


WHOLE = "whole"  # the precondition of lines that only end where bytes do
# for tables that are lines, where nothing looks up 64 bytes at once
LINE_KERNELS = tuple(
    _declare_line(isa, block, is_whole=is_whole)
    for isa, (clamped, whole) in LINES.items()
    for block, is_whole in ((whole, True), (clamped, False))
)
PLANES = ("lookup_u8_f32_avx512vbmi",)  # kernels that take the bytes of a table's entries apart
FLOAT_KERNELS = (
    _declare(
        "lookup_u8_f32_avx512vbmi", "lookup_u8_f32", 64, lookup_f32x64_vbmi, _VBMI,
        single=_of_planes, itemsize=4,
    ),
    _declare("lookup_u8_f32", "lookup_u8_f32", 8, _eight_floats, (), itemsize=4),
)  # fmt: skip

SPEC = OpSpec("Lookup", "qrt", infer, reference, lower, layout="any")
