"""The memory plan: no two live buffers overlap, whatever the live ranges."""

from __future__ import annotations

import numpy as np
import pytest

from qrt.program.memory import check_plan, peak_lower_bound, plan_memory
from qrt.program.places import ALIGNMENT, Buffer


def random_buffers(rng: np.random.Generator) -> list[Buffer]:
    rows = int(rng.integers(1, 40))
    buffers = []
    for i in range(int(rng.integers(0, 60))):
        first, last = sorted(rng.integers(-1, rows + 1, 2).tolist())
        nbytes = int(rng.integers(0, 5)) * int(rng.integers(0, 3000))
        buffers.append(Buffer(nbytes, f"b{i}", first, last))
    return buffers


@pytest.mark.parametrize("seed", range(60))
def test_random_live_ranges_never_overlap(seed: int) -> None:
    buffers = random_buffers(np.random.default_rng(seed))
    arena_nbytes = plan_memory(buffers)
    check_plan(buffers, arena_nbytes)
    owner = np.full((42, arena_nbytes // ALIGNMENT + 1), -1)
    for i, b in enumerate(buffers):
        lines = slice(b.offset // ALIGNMENT, -(-(b.offset + b.nbytes) // ALIGNMENT))
        for row in range(b.first, b.last + 1):
            assert (owner[row + 1, lines] == -1).all(), f"seed {seed}: {b} overlaps"
            owner[row + 1, lines] = i
    assert arena_nbytes >= peak_lower_bound(buffers)


def test_a_chain_needs_two_buffers() -> None:
    buffers = [Buffer(1000, f"b{i}", i, i + 1) for i in range(50)]
    assert plan_memory(buffers) == 2 * 1024 == peak_lower_bound(buffers)


def test_buffers_without_rows_get_no_place() -> None:
    unused = Buffer(1 << 40, "unused")
    assert plan_memory([unused, Buffer(64, "b", 0, 0)]) == 64
    assert unused.offset == -1


def test_check_plan_sees_an_overlap() -> None:
    a, b = Buffer(100, "a", 0, 3), Buffer(100, "b", 3, 5)
    nbytes = plan_memory([a, b])
    b.offset = a.offset + 64
    with pytest.raises(AssertionError, match="overlap"):
        check_plan([a, b], nbytes)


@pytest.mark.parametrize("offset, reason", [(1, "aligned"), (1 << 20, "outside"), (-64, "outside")])
def test_check_plan_sees_a_bad_offset(offset: int, reason: str) -> None:
    a = Buffer(100, "a", 0, 3)
    nbytes = plan_memory([a]) + 64
    a.offset = offset
    with pytest.raises(AssertionError, match=reason):
        check_plan([a], nbytes)
