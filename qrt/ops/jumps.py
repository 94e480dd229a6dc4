"""Rows that say which row comes next: the condition of a branch, and the way around the other one.

They compute nothing: their status names a row of the program, and the interpreter goes on there.
Every thread reads the same condition, so all take the same way; a row that others jump to begins
with a barrier (`program.verify`), so that what lies between two of them is a straight line.
"""

from __future__ import annotations

from collections.abc import Mapping

from qrt.jit.declare import Extent, kernel, slots
from qrt.simd.memory import as_u8, operand

JUMP = 1 << 40  # a status of JUMP + r goes on with row r; failures are 32 bits

UNLESS_FIELDS = ("condition", "target")
CONDITION, UNLESS_TARGET = slots(UNLESS_FIELDS)
JUMP_FIELDS = ("target",)
(JUMP_TARGET,) = slots(JUMP_FIELDS)


def unless_extents(row: Mapping[str, int]) -> list[Extent]:
    """One bool."""
    return [Extent("condition", 1)]


def jump_extents(row: Mapping[str, int]) -> list[Extent]:
    """Nothing but the row itself."""
    return []


@kernel("jump_unless", UNLESS_FIELDS, unless_extents, family="jumps")
def jump_unless(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    if as_u8(operand(row, CONDITION, arena, constants))[0] != 0:
        return 0
    return JUMP + row[UNLESS_TARGET]


@kernel("jump", JUMP_FIELDS, jump_extents, family="jumps")
def jump(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    return JUMP + row[JUMP_TARGET]


# each has a field `target`
JUMPS = (jump_unless, jump)
