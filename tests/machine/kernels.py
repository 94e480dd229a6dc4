"""Kernels that only tests use, in a module that compile workers can import."""

from __future__ import annotations

from collections.abc import Mapping

from qrt.jit.declare import Extent, kernel, slots
from qrt.simd.memory import as_f32, as_i64, operand
from qrt.simd.scalar import share

ADD_FIELDS = ("x", "y", "out", "n")
X, Y, OUT, N = slots(ADD_FIELDS)


def add_extents(row: Mapping[str, int]) -> list[Extent]:
    nbytes = 4 * row["n"]
    return [Extent("x", nbytes), Extent("y", nbytes), Extent("out", nbytes, writes=True)]


@kernel("test_add", ADD_FIELDS, add_extents, family="test")
def add_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """out = x + y, float32."""
    x = as_f32(operand(row, X, arena, constants))
    y = as_f32(operand(row, Y, arena, constants))
    out = as_f32(operand(row, OUT, arena, constants))
    start, stop = share(row[N], thread, threads, 1)
    for i in range(start, stop):
        out[i] = x[i] + y[i]
    return 0


@kernel("test_rotate", ADD_FIELDS, add_extents, family="test")
def rotate_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """out[i] = x[n - 1 - i] + y[i]: reads what another thread wrote in the row before."""
    x = as_f32(operand(row, X, arena, constants))
    y = as_f32(operand(row, Y, arena, constants))
    out = as_f32(operand(row, OUT, arena, constants))
    n = row[N]
    start, stop = share(n, thread, threads, 1)
    for i in range(start, stop):
        out[i] = x[n - 1 - i] + y[i]
    return 0


FAIL_FIELDS = ("trigger", "status", "thread")
TRIGGER, STATUS, THREAD = slots(FAIL_FIELDS)


def fail_extents(row: Mapping[str, int]) -> list[Extent]:
    return [Extent("trigger", 8, writes=True)]


@kernel("test_fail", FAIL_FIELDS, fail_extents, family="test")
def fail_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Thread `thread` (the last one at most) answers `status` when the trigger is not zero."""
    trigger = as_i64(operand(row, TRIGGER, arena, constants))
    if trigger[0] != 0 and thread == min(row[THREAD], threads - 1):
        return row[STATUS]
    return 0
