"""One call in flight: an arena, a call block, and arguments for the interpreter made in advance."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qrt.errors import MemoryLimitError
from qrt.program.constants import aligned_bytes
from qrt.program.places import SLACK
from qrt.program.program import Program
from qrt.vm.budget import ArenaBudget
from qrt.vm.native import Machine
from qrt.vm.state import (
    ARENA,
    CALL_WORDS,
    CLOCK,
    CONSTANTS,
    N_ROWS,
    POOL,
    ROWS,
    TIMES,
    WIDTH,
    WORD,
)
from qrt.vm.threads import WorkerPool

Array = np.ndarray[Any, Any]


class Call:
    """`inputs`, `outputs` are views of the arena; `enter()` runs the rows, returns the failure.

    Not thread-safe: a call belongs to one thread at a time.
    """

    __slots__ = ("_budget", "_keep", "arena", "block", "enter", "inputs", "nbytes", "outputs")
    enter: Callable[[], int]

    def __init__(
        self,
        program: Program,
        rows: Array,
        constants: Array,
        machine: Machine,
        pool: WorkerPool | None,
        threads: int,
        budget: ArenaBudget,
    ) -> None:
        self.nbytes = program.arena_nbytes
        self._budget = budget
        try:
            arena = aligned_bytes(program.arena_nbytes + SLACK)
        except MemoryError as error:
            raise MemoryLimitError(
                f"an arena of {program.arena_nbytes} bytes cannot be allocated"
            ) from error
        block = aligned_bytes(CALL_WORDS * WORD).view(np.int64)
        block[:] = 0
        block[ROWS] = rows.ctypes.data
        block[N_ROWS], block[WIDTH] = rows.shape
        block[ARENA] = arena.ctypes.data
        block[CONSTANTS] = constants.ctypes.data
        block[POOL] = pool.address if pool is not None else 0
        block[CLOCK] = time.CLOCK_MONOTONIC
        self.arena, self.block = arena, block
        self.inputs = tuple(b.view(arena, constants) for b in program.inputs)
        self.outputs = tuple(b.view(arena, constants) for b in program.outputs)
        self._keep = (rows, constants, pool)
        self.enter = partial(
            machine.run,
            ctypes.c_void_p(block.ctypes.data),
            ctypes.c_void_p(arena.ctypes.data),
            ctypes.c_void_p(constants.ctypes.data),
            ctypes.c_int64(0),
            ctypes.c_int64(threads),
        )

    def time(self, times: Array | None) -> None:
        """Add the ns that each row takes to `times`, int64 (rows,), from now on; None: no more."""
        self.block[TIMES] = 0 if times is None else times.ctypes.data

    def __del__(self) -> None:
        self._budget.release(self.nbytes)
