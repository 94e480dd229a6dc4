"""Where threads that walk the rows together must meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qrt.program.touches import Touch


def needed_barriers(touched: Sequence[Sequence[Touch]]) -> list[bool]:
    """For each row: must all threads have finished the rows before it?

    True when it touches bytes that a row since the last barrier touches, and one of them writes.
    A thread does its share of each row, so the row itself needs no barrier.
    """
    flags: list[bool] = []
    open_touches: list[Touch] = []
    for row in touched:
        conflict = _conflicts(row, open_touches)
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
