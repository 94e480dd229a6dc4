"""Kernels that touch what they must not, for the test of `QRT_BOUNDS=check`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.jit.declare import Extent, kernel, slots
from qrt.simd.memory import as_f32, as_u8, operand
from qrt.simd.vectors import load_u8x64, store_u8x64

FIELDS = ("x", "y", "n", "by")
X, Y, N, BY = slots(FIELDS)


def extents(row: Mapping[str, int]) -> list[Extent]:
    """Honest about n bytes, silent about the `by` bytes more."""
    return [Extent("x", row["n"]), Extent("y", row["n"], writes=True)]


@kernel("test_bounds_copy", FIELDS, extents)
def copy_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """A loop that LLVM vectorizes or makes a memcpy; writes `by` bytes behind y."""
    x = as_u8(operand(row, X, arena, constants))
    y = as_u8(operand(row, Y, arena, constants))
    for i in range(row[N] + row[BY]):
        y[i] = x[i]
    return 0


@kernel("test_bounds_fill", FIELDS, extents)
def fill_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """A loop that LLVM makes a memset; writes `by` bytes behind y."""
    y = as_u8(operand(row, Y, arena, constants))
    for i in range(row[N] + row[BY]):
        y[i] = np.uint8(7)
    return 0


@kernel("test_bounds_vector", FIELDS, extents)
def vector_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """A whole vector, `by` bytes after y begins."""
    x = operand(row, X, arena, constants)
    y = operand(row, Y, arena, constants)
    store_u8x64(y + row[BY], load_u8x64(x))
    return 0


@kernel("test_bounds_read", FIELDS, extents)
def read_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Reads the byte `by` after x ends, or before it begins when n + by is negative."""
    x = as_u8(operand(row, X, arena, constants))
    y = as_u8(operand(row, Y, arena, constants))
    y[0] = x[row[N] + row[BY]]
    return 0


@kernel("test_bounds_masked", FIELDS, extents)
def masked_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Writes only where x is not negative, which vector code does by masks."""
    x = as_f32(operand(row, X, arena, constants))
    y = as_f32(operand(row, Y, arena, constants))
    for i in range((row[N] + row[BY]) // 4):
        if not x[i] < np.float32(0):
            y[i] = x[i] + np.float32(1)
    return 0
