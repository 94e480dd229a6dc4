"""Where threads that walk the rows together must meet."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from qrt.jit.declare import HEADER, Kernel
from qrt.ops.jumps import JUMPS
from qrt.program.touches import Touch

_TARGETS = {kernel.name: len(HEADER) + kernel.fields.index("target") for kernel in JUMPS}


def jump_targets(kernels: Sequence[Kernel], rows: Sequence[Sequence[int]]) -> dict[int, int]:
    """Where rows may jump to, by row; `kernels` are those of the rows."""
    return {
        i: int(row[_TARGETS[kernel.name]])
        for i, (kernel, row) in enumerate(zip(kernels, rows, strict=True))
        if kernel.name in _TARGETS
    }


def needed_barriers(
    touched: Sequence[Sequence[Touch]], targets: Collection[int] = ()
) -> list[bool]:
    """For each row: must all threads have finished the rows before it?

    True when it touches bytes that a row since the last barrier touches, and one of them writes;
    and for rows in `targets`, which others than the row before may lead to.
    A thread does its share of each row, so the row itself needs no barrier.
    """
    flags: list[bool] = []
    open_touches: list[Touch] = []
    for i, row in enumerate(touched):
        conflict = i in targets or _conflicts(row, open_touches)
        if conflict:
            open_touches = []
        open_touches.extend(row)
        flags.append(conflict)
    return flags


def missing_barriers(touched: Sequence[Sequence[Touch]], flags: Sequence[bool]) -> Iterator[int]:
    """Rows that conflict with a row since the last barrier although theirs is not set."""
    open_touches: list[Touch] = []
    for i, (row, flag) in enumerate(zip(touched, flags, strict=True)):
        if flag:
            open_touches = []
        elif _conflicts(row, open_touches):
            yield i
        open_touches.extend(row)


def _conflicts(row: Sequence[Touch], others: Sequence[Touch]) -> bool:
    return any(a.conflicts(b) for b in others for a in row)
