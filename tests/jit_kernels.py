"""Small kernels for the tests of qrt.jit: compiled by workers, which import this module by name."""

from __future__ import annotations

from collections.abc import Mapping

from qrt.jit.declare import Extent, helper, kernel
from qrt.simd.memory import as_i64

STEP = 3


@helper
def doubled(v):  # type: ignore[no-untyped-def]
    """2 * v."""
    return v + v


def nothing(row: Mapping[str, int]) -> list[Extent]:
    """No operand."""
    return []


@kernel("test_jit_add", ("a", "b"), nothing)
def add_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    return doubled(row[3]) + row[4] + STEP


@kernel("test_jit_wrong", ("a",), nothing)
def wrong_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    return as_i64("text")[0]
