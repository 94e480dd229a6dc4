"""Plan the arena: give every buffer an offset so that no two live ones share a byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qrt.program.places import Buffer, aligned


def plan_memory(buffers: Sequence[Buffer], apart: int = 0) -> int:
    """Set `offset` of every live buffer (64-byte aligned); returns the arena's nbytes.

    At least `apart` bytes behind each buffer are no other live one's.
    Greedy by size: the largest first, each into the smallest gap that fits among the buffers placed
    before whose live ranges meet its own (Pisarchyk and Lee 2020, "Efficient memory management for
    deep neural net inference").
    """
    live = [b for b in buffers if b.is_live]
    live.sort(key=lambda b: (-b.nbytes, b.first, b.last))
    n = len(live)
    starts, stops, firsts, lasts = (np.zeros(n, np.int64) for _ in range(4))
    peak = 0
    for i, buffer in enumerate(live):
        nbytes = aligned(max(buffer.nbytes, 1) + apart)
        meets = (firsts[:i] <= buffer.last) & (lasts[:i] >= buffer.first)
        start = _smallest_gap(starts[:i][meets], stops[:i][meets], nbytes)
        buffer.offset = start
        starts[i], stops[i], firsts[i], lasts[i] = start, start + nbytes, buffer.first, buffer.last
        peak = max(peak, start + nbytes)
    return peak


def check_plan(buffers: Sequence[Buffer], arena_nbytes: int) -> None:
    """Prove that the plan holds: inside the arena, and no two live buffers overlap.

    Raises AssertionError, since a plan that fails is our own mistake. Independent of the planner.
    """
    live = [b for b in buffers if b.is_live]
    for i, a in enumerate(live):
        assert a.offset >= 0 and a.offset + a.nbytes <= arena_nbytes, f"{a} is outside the arena"
        assert a.offset == aligned(a.offset), f"{a} is not aligned"
        _check_against(a, live[i + 1 :])


def peak_lower_bound(buffers: Sequence[Buffer]) -> int:
    """Bytes that are live at the busiest row: no plan can be smaller."""
    live = [b for b in buffers if b.is_live]
    rows = {b.first for b in live}
    return max(
        (sum(aligned(b.nbytes) for b in live if b.first <= row <= b.last) for row in rows),
        default=0,
    )


def _smallest_gap(starts: np.ndarray, stops: np.ndarray, nbytes: int) -> int:
    if not starts.size:
        return 0
    order = np.argsort(starts)
    tops = np.maximum.accumulate(stops[order])
    floors = np.concatenate(([0], tops[:-1]))
    gaps = starts[order] - floors
    gaps[gaps < nbytes] = np.iinfo(np.int64).max
    best = int(np.argmin(gaps))
    return int(floors[best]) if gaps[best] < np.iinfo(np.int64).max else int(tops[-1])


def _check_against(a: Buffer, others: Sequence[Buffer]) -> None:
    for b in others:
        in_time = a.first <= b.last and b.first <= a.last
        in_space = a.offset < b.offset + b.nbytes and b.offset < a.offset + a.nbytes
        assert not (in_time and in_space), f"{a} and {b} overlap"
