"""What each row may touch, for kernels that check it (`QRT_BOUNDS=check`, `qrt.jit.bounds`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from qrt.jit.bounds import ARENA, CONSTANTS, HEAD, ROW, SPAN, TABLE
from qrt.program.host import HOSTS
from qrt.program.program import Program
from qrt.program.touches import Touch, touches

Array = np.ndarray[Any, Any]
SLACK = 64  # bytes that a kernel may read behind an operand (program.places)


class RowBounds:
    """A block per row of `program`; holds the memory that bound rows point to."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._blocks: dict[int, Array] = {}
        for i, row in enumerate(program.rows.tolist()):
            kernel = program.kernel(i)
            if kernel not in HOSTS:
                self._blocks[i] = bounds_block(touches(kernel, row), 8 * len(row))

    def bind(self, rows: Array) -> None:
        """Let each of the bound `rows` point to its block."""
        for i, block in self._blocks.items():
            rows[i, TABLE] = block.ctypes.data

    def refused(self, row: int) -> str:
        """The first access of `row` that was refused, in words."""
        return refused_access(self._blocks[row], self._program.arena_nbytes)


def bounds_block(touched: Sequence[Touch], row_nbytes: int) -> Array:
    """int64 words as `qrt.jit.bounds` reads them: a row touches `touched`, and reads itself."""
    spans = [(ROW, 0, row_nbytes, 0)]
    for constant in (False, True):
        origin = CONSTANTS if constant else ARENA
        there = [t for t in touched if t.constant is constant and t.stop > t.start]
        # what is written may be read back
        reads = _merged((t.start, t.stop + SLACK) for t in there)
        writes = _merged((t.start, t.stop) for t in there if t.writes)
        spans += [(origin, *span, 0) for span in reads] + [(origin, *span, 1) for span in writes]
    words = np.zeros(HEAD + SPAN * len(spans), np.int64)
    words[0] = len(spans)
    words[HEAD:] = np.array(spans, np.int64).reshape(-1)
    return words


def refused_access(block: Array, arena_nbytes: int) -> str:
    """The first access that a block's row was refused, in words."""
    of_arena, of_constants, nbytes, writes = (int(word) for word in block[1:HEAD])
    if nbytes == 0:
        return "its bounds are unknown"
    near = abs(of_arena) <= abs(of_constants) or 0 <= of_arena <= arena_nbytes
    origin, start = (ARENA, of_arena) if near else (CONSTANTS, of_constants)
    spans = block[HEAD:].reshape(-1, SPAN).tolist()
    allowed = [f"{a} to {b}" for where, a, b, kind in spans if (where, kind) == (origin, writes)]
    place = ("arena", "constants")[origin]
    return (
        f"it {'writes' if writes else 'reads'} {nbytes} bytes at {start} of the {place}, where"
        f" it may touch {', '.join(allowed) or 'nothing'}"
    )


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order; those that meet are one."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found
