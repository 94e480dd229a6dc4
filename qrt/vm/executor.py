"""A program bound to this CPU: kernel addresses in its rows, arenas, one native call per run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import KernelError
from qrt.gemm.ranges import NO_RECORD
from qrt.jit.bounds import OUT_OF_BOUNDS
from qrt.jit.build import Progress
from qrt.jit.target import target_for
from qrt.ops.chain import NO_FUNCTION
from qrt.program.host import NOT_NATIVE
from qrt.program.program import KERNEL, Program
from qrt.program.touches import touches
from qrt.vm.bounds import RowBounds
from qrt.vm.budget import ArenaBudget
from qrt.vm.call import Call
from qrt.vm.hosted import HostedCall
from qrt.vm.native import addresses_for, machine
from qrt.vm.threads import worker_pool

Array = np.ndarray[Any, Any]

SMALL_NBYTES = 1 << 16  # a run that touches less is over before a sleeping worker could help
STATUSES = {
    1: "an index is out of range",
    NOT_NATIVE: "it runs in Python only",
    NO_FUNCTION: "it lacks a function that it calls",
    NO_RECORD: "it is told to find a range and has no place for it",
}
WAIT = 0.001  # s between two looks for an arena, when `max_bytes` does not allow another


class Executor:
    """Runs one verified program; several threads may call `run` at once.

    Each concurrent call has an arena of its own, kept for later calls; `budget` limits their bytes,
    and a call that would exceed it waits for another to end.
    """

    def __init__(
        self,
        program: Program,
        features: frozenset[str],
        *,
        threads: int = 1,
        budget: ArenaBudget | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.program = program
        # (name, dtype, shape) of each input, which `run` takes for granted
        self.expected = tuple((b.name, b.dtype, b.shape) for b in program.inputs)
        self.threads = min(threads, program.threads)
        if self.threads > 1 and touched_nbytes(program) < SMALL_NBYTES:
            self.threads = 1
        self._rows = bound_rows(program, addresses_for(program.kernels, features, progress))
        self._bounds = RowBounds(program) if target_for(features).bounds else None
        if self._bounds is not None:
            self._bounds.bind(self._rows)
        self._machine = machine(features)
        self._pool = worker_pool(self._machine, self.threads) if self.threads > 1 else None
        self._budget = budget or ArenaBudget(None)
        self._budget.share(self)
        self._constants = program.constants.buffer
        self._call = HostedCall if program.hosts else Call
        self._free: list[Call] = []

    def run(self, inputs: Sequence[Array], which: Sequence[int] | None = None) -> list[Array]:
        """Outputs (all, or those of the indices `which`) for `inputs`, in the program's order.

        Shapes and dtypes of `inputs` are exactly the program's; the caller has checked.
        """
        call, home = self.take(inputs)
        try:
            failure = call.enter()
            if failure:
                self.fail(failure)
            views = call.outputs
            if which is not None:
                return [views[i].copy() for i in which]
            return [view.copy() for view in views]
        finally:
            home.append(call)

    def take(self, inputs: Sequence[Array]) -> tuple[Call, list[Call]]:
        """A call of one's own with `inputs` in its arena, and the list it goes back to."""
        pool = self._pool
        if pool is not None and pool.stale:
            pool.revive()
        home = self._free
        try:
            call = home.pop()
        except IndexError:
            call = self._new_call(home)
        for view, array in zip(call.inputs, inputs):  # noqa: B905 (speed; the caller checked)
            view[...] = array
        return call, home

    def fail(self, failure: int) -> None:
        """Raise KernelError for what the interpreter returned."""
        row, status = (failure >> 32) - 1, failure & 0xFFFFFFFF
        status -= (status & 0x80000000) << 1
        where, name = self.program.where(row), self.program.kernel(row).name
        meaning = f" ({STATUSES[status]})" if status in STATUSES else ""
        if self._bounds is not None and status == OUT_OF_BOUNDS:
            meaning = f" ({self._bounds.refused(row)})"
        raise KernelError(f"{where}: kernel {name} (row {row}) returned status {status}{meaning}")

    def rebase(self) -> None:
        """Use the constants' present buffer; calls that run now end on the old one."""
        buffer = self.program.constants.buffer
        if buffer.ctypes.data != self._constants.ctypes.data:
            self._constants = buffer
            self._free = []

    def drop_idle(self) -> None:
        """Free the arenas that no call uses."""
        self._free.clear()

    def _new_call(self, home: list[Call]) -> Call:
        while not self._budget.take(self.program.arena_nbytes):
            try:
                return home.pop()
            except IndexError:
                self._budget.reclaim()
                time.sleep(WAIT)
        return self._call(
            self.program,
            self._rows,
            self._constants,
            self._machine,
            self._pool,
            self.threads,
            self._budget,
        )


def bound_rows(program: Program, addresses: Mapping[str, int]) -> Array:
    """The program's rows with addresses in place of kernel indices, 0 for none; a copy."""
    rows = np.ascontiguousarray(program.rows).copy()
    table = np.array([addresses[name] for name in program.kernels], np.int64)
    if len(rows):
        rows[:, KERNEL] = table[program.rows[:, KERNEL]]
    for i in range(len(rows)):
        for slot, index in program.callees(i).items():
            rows[i, slot] = table[index] if index >= 0 else 0
    return rows


def touched_nbytes(program: Program) -> int:
    """Bytes that all rows read and write, a measure of how long a run takes."""
    return sum(
        touch.stop - touch.start
        for i, row in enumerate(program.rows.tolist())
        for touch in touches(program.kernel(i), row, program.hosts)
    )
