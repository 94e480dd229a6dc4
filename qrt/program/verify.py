"""Prove that a program stays inside its arena and constants, whoever made it."""

from __future__ import annotations

from collections.abc import Sequence

from qrt.errors import ProgramError
from qrt.jit.declare import HEADER, KERNELS, Kernel
from qrt.program.barriers import jump_targets, missing_barriers
from qrt.program.host import CALL, HOSTS
from qrt.program.program import BARRIER, KERNEL, NODE, Binding, Program, callee_slots
from qrt.program.touches import Touch, touches


def verify(program: Program) -> None:
    """Raises ProgramError, naming the row, unless every row and binding keeps the rules.

    Every kernel is known, and calls only those it may; each operand's extent lies inside arena or
    constants (kernels read up to 64 bytes of slack behind it); constants are only read; what a row
    writes overlaps nothing else that it touches; barriers stand between rows that depend on each
    other; jumps go forward, to a row with a barrier; bindings lie inside; host rows make the host
    calls in order.
    The kernels are known once `qrt.ops` is imported.
    """
    if program.arena_nbytes < 0 or program.threads < 1:
        raise ProgramError(
            f"an arena of {program.arena_nbytes} bytes, {program.threads} threads: at least 0 and 1"
        )
    kernels = [_known(name) for name in program.kernels]
    rows: list[list[int]] = program.rows.tolist()
    touched = []
    for i, row in enumerate(rows):
        try:
            touched.append(_check_row(program, kernels, row))
        except ProgramError as error:
            raise ProgramError(f"row {i}: {error}") from error.__cause__
    _check_jumps([kernels[row[KERNEL]] for row in rows], rows)
    for i in missing_barriers(touched, [row[BARRIER] != 0 for row in rows]):
        raise ProgramError(f"row {i}: depends on a row before it, but has no barrier")
    _check_bindings(program, program.inputs, may_be_constant=False)
    _check_bindings(program, program.outputs, may_be_constant=True)
    _check_hosts(program, kernels, rows)


def _known(name: str) -> Kernel:
    kernel = KERNELS.get(name)
    if kernel is None:
        raise ProgramError(f"kernel {name!r} is unknown to this version of qrt")
    return kernel


def _check_row(program: Program, kernels: Sequence[Kernel], row: list[int]) -> list[Touch]:
    if not 0 <= row[KERNEL] < len(kernels):
        raise ProgramError(f"kernel index {row[KERNEL]}, expected 0 to {len(kernels) - 1}")
    if not 0 <= row[NODE] < len(program.nodes):
        raise ProgramError(f"node index {row[NODE]}, expected 0 to {len(program.nodes) - 1}")
    if row[BARRIER] not in (0, 1):
        raise ProgramError(f"barrier flag {row[BARRIER]}, expected 0 or 1")
    kernel = kernels[row[KERNEL]]
    used = len(HEADER) + len(kernel.fields)
    if used > len(row) or any(row[used:]):
        raise ProgramError(f"kernel {kernel.name} has {used} slots, the row has others")
    for slot, family in callee_slots(kernel).items():
        if row[slot] != -1 and not (
            0 <= row[slot] < len(kernels) and kernels[row[slot]].family == family
        ):
            raise ProgramError(f"kernel {kernel.name} calls kernel {row[slot]}, not of {family}")
    found = touches(kernel, row, program.hosts)
    for i, touch in enumerate(found):
        _check_touch(program, kernel, touch)
        for other in found[:i]:
            # a kernel that overwrites its own tables or inputs may go anywhere
            if touch.field != other.field and touch.conflicts(other):
                raise ProgramError(f"kernel {kernel.name}: {touch.field} and {other.field} overlap")
    return found


def _check_touch(program: Program, kernel: Kernel, touch: Touch) -> None:
    if touch.constant and touch.writes:
        raise ProgramError(f"kernel {kernel.name} writes {touch.field}, which is a constant")
    limit = program.constants.nbytes if touch.constant else program.arena_nbytes
    if touch.start < 0 or touch.stop > limit:
        room = "constants" if touch.constant else "arena"
        raise ProgramError(
            f"kernel {kernel.name} touches bytes {touch.start} to {touch.stop} of the {room} by"
            f" {touch.field}; there are {limit}"
        )


def _check_jumps(kernels: Sequence[Kernel], rows: list[list[int]]) -> None:
    """Rows jump forward, so every run ends, and to a barrier, so that between two of them rows
    follow one another."""
    for i, target in jump_targets(kernels, rows).items():
        if not i < target <= len(rows):
            raise ProgramError(f"row {i}: jumps to row {target}, expected {i + 1} to {len(rows)}")
        if target < len(rows) and not rows[target][BARRIER]:
            raise ProgramError(f"row {target}: row {i} jumps to it, but it has no barrier")


def _check_hosts(program: Program, kernels: Sequence[Kernel], rows: list[list[int]]) -> None:
    called = [row[CALL] for row in rows if kernels[row[KERNEL]] in HOSTS]
    if called != list(range(len(program.hosts))):
        raise ProgramError(f"{len(program.hosts)} host calls, the rows make {called}")
    for host in program.hosts:
        inputs = [b for b in host.inputs if b is not None]
        _check_bindings(program, inputs, may_be_constant=True)
        _check_bindings(program, host.outputs, may_be_constant=False)


def _check_bindings(program: Program, bindings: Sequence[Binding], may_be_constant: bool) -> None:
    for b in bindings:
        if b.offset < 0 and not may_be_constant:
            raise ProgramError(f"{b.name!r} is an input and lies in the constants")
        start = b.offset if b.offset >= 0 else ~b.offset
        limit = program.arena_nbytes if b.offset >= 0 else program.constants.nbytes
        if any(dim < 0 for dim in b.shape) or start + b.nbytes > limit:
            raise ProgramError(
                f"{b.name!r} of shape {b.shape} at byte {start} does not fit into {limit} bytes"
            )
        if b.layout is not None and sorted(b.layout) != list(range(len(b.shape))):
            raise ProgramError(f"{b.name!r}: {b.layout} is no order of {len(b.shape)} axes")
