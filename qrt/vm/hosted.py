"""A call of a program with host operators: native rows up to one, Python, and on from there.

Nothing calls Python from inside a native run: the rows are cut into parts before the first run.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import KernelError
from qrt.program.host import CALL, HOSTS
from qrt.program.program import HostCall, Program
from qrt.vm.call import Call
from qrt.vm.state import CLOCK, N_ROWS, ROWS, STAMPS, WIDTH, WORD

Array = np.ndarray[Any, Any]


class HostedCall(Call):
    """A Call whose `enter()` runs all parts; raises KernelError when a host operator fails."""

    __slots__ = ()

    def __init__(self, program: Program, rows: Array, constants: Array, *rest: Any) -> None:
        super().__init__(program, rows, constants, *rest)
        # holds nothing that holds this call: its bytes are released when the last user lets go
        self.enter = _Parts(program, self.arena, constants, self.block, self.enter)


@dataclass(frozen=True)
class HostStep:
    """One host operator over the arena of one call."""

    where: str
    function: Callable[[list[Array | None]], list[Any]]
    inputs: tuple[Array | None, ...]
    outputs: tuple[Array, ...]

    @classmethod
    def of(cls, call: HostCall, where: str, arena: Array, constants: Array) -> HostStep:
        """`call` with its operands bound."""
        inputs = [None if b is None else b.view(arena, constants) for b in call.inputs]
        for view in inputs:
            if view is not None:
                view.flags.writeable = False  # an operand of other rows, too
        outputs = tuple(b.view(arena, constants) for b in call.outputs)
        return cls(where, call.function, tuple(inputs), outputs)

    def __call__(self) -> None:
        """Evaluate and copy in; KernelError when that fails or gives another shape or dtype."""
        # row-major, as the reference expects it
        inputs = [None if v is None else np.asarray(v, order="C") for v in self.inputs]
        try:
            results = [np.asarray(result) for result in self.function(inputs)]
        except Exception as error:  # whatever a host function raises
            raise KernelError(
                f"{self.where}: on the host: {type(error).__name__}: {error}"
            ) from error
        for i, (view, result) in enumerate(zip(self.outputs, results, strict=True)):
            if result.shape != view.shape or result.dtype != view.dtype:
                raise KernelError(
                    f"{self.where}: output {i} was planned as {view.dtype}{list(view.shape)},"
                    f" it gave {result.dtype}{list(result.shape)}"
                )
            view[...] = result


class _Parts:
    """Rows start..stop natively, or one host operator; `enter` of a HostedCall."""

    def __init__(
        self,
        program: Program,
        arena: Array,
        constants: Array,
        block: Array,
        native: Callable[[], int],
    ) -> None:
        self._parts = [
            (start, stop, None if call is None else HostStep.of(call, where, arena, constants))
            for start, stop, call, where in parts(program)
        ]
        self._block = block
        self._native = native
        self._rows = int(block[ROWS])
        self._row_nbytes = int(block[WIDTH]) * WORD

    def __call__(self) -> int:
        """Run all parts; the failure of a native one, or 0."""
        block = self._block
        stamps = int(block[STAMPS])
        try:
            for start, stop, step in self._parts:
                if step is not None:
                    self._stamp(stamps, start)
                    step()
                    self._stamp(stamps, stop)
                    continue
                block[ROWS] = self._rows + start * self._row_nbytes
                block[N_ROWS] = stop - start
                block[STAMPS] = stamps + WORD * start if stamps else 0
                failure = self._native()
                if failure:
                    return failure + (start << 32)  # rows are counted from the program's first
        finally:
            block[STAMPS] = stamps
        return 0

    def _stamp(self, stamps: int, row: int) -> None:
        if stamps:
            now = time.clock_gettime_ns(int(self._block[CLOCK]))
            ctypes.c_int64.from_address(stamps + WORD * row).value = now


def parts(program: Program) -> Iterator[tuple[int, int, HostCall | None, str]]:
    """The rows from start to stop, each time up to a host row; with a call, that row alone."""
    start = 0
    for row in range(len(program.rows)):
        if program.kernel(row) not in HOSTS:
            continue
        if row > start:
            yield start, row, None, ""
        yield row, row + 1, program.hosts[int(program.rows[row, CALL])], program.where(row)
        start = row + 1
    if start < len(program.rows):
        yield start, len(program.rows), None, ""
