"""A call of a program with host operators: native rows up to one, Python, and on from there.

Nothing calls Python from inside a native run: a host row ends it, whichever way led there.
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
from qrt.vm.state import FIRST, TIMES, WORD

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
    """The host operators, and native runs up to the next; `enter` of a HostedCall."""

    def __init__(
        self,
        program: Program,
        arena: Array,
        constants: Array,
        block: Array,
        native: Callable[[], int],
    ) -> None:
        self._steps = {
            row: HostStep.of(program.hosts[call], program.where(row), arena, constants)
            for row, call in host_rows(program)
        }
        self._block = block
        self._native = native

    def __call__(self) -> int:
        """Run all rows; the failure of a native one, or 0."""
        block = self._block
        row = 0
        while True:
            while row in self._steps:
                self._host(row)
                row += 1
            block[FIRST] = row
            failure = self._native()
            row = (failure >> 32) - 1
            if failure == 0 or row not in self._steps:
                return failure

    def _host(self, row: int) -> None:
        times = int(self._block[TIMES])
        if not times:
            self._steps[row]()
            return
        start = time.perf_counter_ns()
        self._steps[row]()
        taken = time.perf_counter_ns() - start
        ctypes.c_int64.from_address(times + WORD * row).value += taken


def host_rows(program: Program) -> Iterator[tuple[int, int]]:
    """The rows that Python runs, each with its number among `program.hosts`."""
    for row in range(len(program.rows)):
        if program.kernel(row) in HOSTS:
            yield row, int(program.rows[row, CALL])
