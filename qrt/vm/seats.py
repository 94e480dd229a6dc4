"""Which CPU each thread of a team sits on: two on one CPU wait for each other at every barrier.

A system may keep threads that spend part of their time waiting on one CPU for many milliseconds,
thousands of runs of a small model. So a worker that finds itself where another thread of its run
sits moves itself away, to a CPU that the caller's own affinity mask (and therefore its cpuset)
allows now. The caller's thread belongs to the user and is never moved.
"""

from __future__ import annotations

from qrt.jit.declare import helper
from qrt.simd.memory import as_i64
from qrt.vm.atomics import (
    atomic_load,
    atomic_store,
    getaffinity,
    sched_getcpu,
    sched_setaffinity,
)
from qrt.vm.state import BOX_WORDS, BOXES, LEADER, MASK, MASK_WORDS, SEAT, WORD, WORKERS


@helper
def box_of(pool, thread):  # type: ignore[no-untyped-def]
    """Address of the box of a pool's thread; 0 is the caller's."""
    return pool + WORD * (BOXES + thread * BOX_WORDS)


@helper
def sit(pool, box):  # type: ignore[no-untyped-def]
    """Note this thread's CPU in its box; returns 1 + CPU, 0 when the system does not tell."""
    seat = sched_getcpu() + 1
    # other threads read the word often: write only what is new
    if atomic_load(box + WORD * SEAT) != seat:
        atomic_store(box + WORD * SEAT, seat)
    return seat


@helper
def is_shared(pool, thread, others):  # type: ignore[no-untyped-def]
    """1 when one of the first `others` threads of the pool sits where this one does."""
    box = box_of(pool, thread)
    seat = sit(pool, box)
    if seat == 0:
        return 0
    for other in range(others):
        if other != thread and atomic_load(box_of(pool, other) + WORD * SEAT) == seat:
            return 1
    return 0


@helper
def without(mask, seat):  # type: ignore[no-untyped-def]
    """Take the CPU of a seat out of a set."""
    if seat > 0 and seat <= MASK_WORDS * 64:
        words = as_i64(mask)
        words[(seat - 1) // 64] &= ~(1 << ((seat - 1) % 64))
    return 0


@helper
def move(pool, thread, others):  # type: ignore[no-untyped-def]
    """Let this worker run where the caller may, but not where the first `others` threads sit.

    Returns 1 when there is such a CPU. The caller takes part in the run: its thread is alive.
    """
    box = box_of(pool, thread)
    mask = box + WORD * MASK
    if getaffinity(as_i64(pool)[LEADER], MASK_WORDS * WORD, mask) != 0:
        return 0
    for other in range(others):
        if other != thread:
            without(mask, atomic_load(box_of(pool, other) + WORD * SEAT))
    left = 0
    for i in range(MASK_WORDS):
        left |= as_i64(mask)[i]
    if left == 0 or sched_setaffinity(0, MASK_WORDS * WORD, mask) != 0:
        return 0
    sit(pool, box)
    return 1


@helper
def keep_apart(pool, thread):  # type: ignore[no-untyped-def]
    """Move this thread off a CPU that it shares; returns 1 when it still shares one.

    Of two workers the later moves: away from all others if it can, else from those before it.
    """
    everybody = as_i64(pool)[WORKERS] + 1
    if thread == 0:
        return is_shared(pool, 0, everybody)
    if is_shared(pool, thread, thread) == 0:
        return 0
    if move(pool, thread, everybody) != 0:
        return 0
    if move(pool, thread, thread) != 0:
        return 0
    return 1 - move(pool, thread, 1)
