"""qrt.Lookup: a byte through a table of 256 entries, to 8 bits or float32.

Any function of one quantized tensor (an activation with its QuantizeLinear, a requantization) is
such a table, exact by construction. An int8 tensor is looked up by its byte (-1 at 255).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.jit.declare import Extent, kernel, slots
from qrt.ops.dispatch import best_kernel
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, Operand, OpSpec
from qrt.simd.memory import as_f32, as_u8, operand
from qrt.simd.scalar import share
from qrt.simd.tables import lookup_u8x32_avx2, lookup_u8x64_avx512, lookup_u8x64_vbmi

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
    program.emit(
        best_kernel(kernels, program.features),
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


@kernel("lookup_u8", FIELDS, extents, family="lookup_u8")
def lookup_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = as_u8(operand(row, X, arena, constants))
    table = as_u8(operand(row, TABLE, arena, constants))
    y = as_u8(operand(row, Y, arena, constants))
    n = row[COUNT]
    start, stop = share(row[ROWS] * n, thread, threads, GRAIN)
    i = start
    while i < stop:
        shift = i // n * (row[Y_STRIDE] - n)
        end = min(stop, i - i % n + n)
        for k in range(i, end):
            y[k + shift] = table[x[k]]
        i = end
    return 0


@kernel("lookup_u8_avx2", FIELDS, extents, family="lookup_u8", features=("avx2",))
def lookup_avx2_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = operand(row, X, arena, constants)
    table = operand(row, TABLE, arena, constants)
    y = operand(row, Y, arena, constants)
    n = row[COUNT]
    start, stop = share(row[ROWS] * n, thread, threads, GRAIN)
    i = start
    while i < stop:
        target = y + i // n * (row[Y_STRIDE] - n)
        end = min(stop, i - i % n + n)
        while i + 32 <= end:
            lookup_u8x32_avx2(x + i, table, target + i)
            i += 32
        while i < end:
            as_u8(target)[i] = as_u8(table)[as_u8(x)[i]]
            i += 1
    return 0


@kernel("lookup_u8_avx512", FIELDS, extents, family="lookup_u8", features=("avx512",))
def lookup_avx512_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = operand(row, X, arena, constants)
    table = operand(row, TABLE, arena, constants)
    y = operand(row, Y, arena, constants)
    n = row[COUNT]
    start, stop = share(row[ROWS] * n, thread, threads, GRAIN)
    i = start
    while i < stop:
        target = y + i // n * (row[Y_STRIDE] - n)
        end = min(stop, i - i % n + n)
        while i + 64 <= end:
            lookup_u8x64_avx512(x + i, table, target + i)
            i += 64
        while i < end:
            as_u8(target)[i] = as_u8(table)[as_u8(x)[i]]
            i += 1
    return 0


@kernel(
    "lookup_u8_avx512vbmi", FIELDS, extents, family="lookup_u8", features=("avx512", "avx512vbmi")
)
def lookup_vbmi_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = operand(row, X, arena, constants)
    table = operand(row, TABLE, arena, constants)
    y = operand(row, Y, arena, constants)
    n = row[COUNT]
    start, stop = share(row[ROWS] * n, thread, threads, GRAIN)
    i = start
    while i < stop:
        target = y + i // n * (row[Y_STRIDE] - n)
        end = min(stop, i - i % n + n)
        while i + 64 <= end:
            lookup_u8x64_vbmi(x + i, table, target + i)
            i += 64
        while i < end:
            as_u8(target)[i] = as_u8(table)[as_u8(x)[i]]
            i += 1
    return 0


@kernel("lookup_u8_f32", FIELDS, float_extents, family="lookup_u8_f32")
def lookup_f32_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = as_u8(operand(row, X, arena, constants))
    table = as_f32(operand(row, TABLE, arena, constants))
    y = as_f32(operand(row, Y, arena, constants))
    n = row[COUNT]
    start, stop = share(row[ROWS] * n, thread, threads, GRAIN)
    i = start
    while i < stop:
        shift = i // n * (row[Y_STRIDE] - n)
        end = min(stop, i - i % n + n)
        for k in range(i, end):
            y[k + shift] = table[x[k]]
        i = end
    return 0


KERNELS = (lookup_vbmi_kernel, lookup_avx512_kernel, lookup_avx2_kernel, lookup_kernel)
FLOAT_KERNELS = (lookup_f32_kernel,)

SPEC = OpSpec("Lookup", "qrt", infer, reference, lower, layout="any")
