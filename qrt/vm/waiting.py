"""How a thread waits: it spins while that is short, then yields its CPU, then sleeps.

All is measured in time, because a `pause` takes from 5 to 150 ns depending on the CPU. Spinning is
for a team whose threads all run; yielding lets a thread run that shares the CPU; sleeping lets the
system know that the thread has nothing to do, when another was taken off its CPU.
"""

from __future__ import annotations

from qrt.jit.declare import helper
from qrt.simd.memory import as_i64
from qrt.vm.atomics import (
    atomic_add,
    atomic_load,
    clock_gettime,
    cond_broadcast,
    cond_wait,
    mutex_lock,
    mutex_unlock,
    pause,
    sched_yield,
)
from qrt.vm.seats import box_of, keep_apart
from qrt.vm.state import BELL, DOOR, POOL_CLOCK, SLEEPERS, TIME, WAITED, WORD

LOOKS = 32  # pauses between two looks at the clock
ALONE_NS = 20_000  # spinning without a yield: the shares of a row differ by less
AWAKE_NS = 200_000  # spinning at a barrier before sleep; a wake-up costs about 50 us


@helper
def now_ns(clock, address):  # type: ignore[no-untyped-def]
    """Nanoseconds of `clock`; two words at `address` are overwritten."""
    clock_gettime(clock, address)
    time = as_i64(address)
    return time[0] * 1000000000 + time[1]


@helper
def linger(waited, shared):  # type: ignore[no-untyped-def]
    """Give the CPU away for a moment when `waited` ns were in vain, or when another needs it."""
    if shared != 0 or waited > ALONE_NS:
        sched_yield()
    return 0


@helper
def wait(pool, thread, word, least, failure):  # type: ignore[no-untyped-def]
    """Wait until the word at `word` is at least `least`, or the one at `failure` is not 0.

    Adds to the box's WAITED what took longer than a look at the clock.
    """
    clock = as_i64(pool)[POOL_CLOCK]
    box = box_of(pool, thread)
    time = box + WORD * TIME
    start = 0
    shared = 0
    looks = 0
    while atomic_load(word) < least and atomic_load(failure) == 0:
        pause()
        looks += 1
        if looks < LOOKS:
            continue
        looks = 0
        now = now_ns(clock, time)
        if start == 0:
            start = now
            shared = keep_apart(pool, thread)
        elif now - start > AWAKE_NS:
            sleep(pool, word, least, failure)
        else:
            linger(now - start, shared)
    if start != 0:
        as_i64(box)[WAITED] += now_ns(clock, time) - start
    return 0


@helper
def sleep(pool, word, least, failure):  # type: ignore[no-untyped-def]
    """`wait` asleep. Who changes one of the words calls `ring` afterwards."""
    # the sleeper announces itself, then looks; who rings has written, then looks for sleepers
    atomic_add(pool + WORD * SLEEPERS, 1)
    mutex_lock(pool + WORD * DOOR)
    while atomic_load(word) < least and atomic_load(failure) == 0:
        cond_wait(pool + WORD * BELL, pool + WORD * DOOR)
    mutex_unlock(pool + WORD * DOOR)
    atomic_add(pool + WORD * SLEEPERS, -1)
    return 0


@helper
def ring(pool):  # type: ignore[no-untyped-def]
    """Wake whoever sleeps: a word of the run has changed."""
    if atomic_load(pool + WORD * SLEEPERS) != 0:
        mutex_lock(pool + WORD * DOOR)
        cond_broadcast(pool + WORD * BELL)
        mutex_unlock(pool + WORD * DOOR)
    return 0
