"""The interpreter: a native function that walks rows and calls the kernel each one names.

It is declared and compiled like a kernel, so one signature serves all: its "row" is a call block
(see `state`). `vm_run` is the caller's thread; `vm_serve` is a worker of a pool, which waits for
call blocks in its mailbox.
"""

from __future__ import annotations

from collections.abc import Mapping

from qrt.jit.declare import Extent, helper, kernel
from qrt.program.program import BARRIER, KERNEL
from qrt.simd.memory import address_of, as_i64, as_u8
from qrt.vm.atomics import (
    atomic_add,
    atomic_claim,
    atomic_load,
    atomic_store,
    atomic_swap,
    call_kernel,
    clock_gettime,
    cond_signal,
    cond_wait,
    mutex_lock,
    mutex_unlock,
    pause,
    sched_yield,
)
from qrt.vm.state import (
    ARENA,
    ARRIVED,
    ASLEEP,
    BOX_WORDS,
    BOXES,
    BUSY,
    CLOCK,
    CONDITION,
    CONSTANTS,
    DONE,
    EMPTY,
    FAILURE,
    MAIL,
    MUTEX,
    N_ROWS,
    PASSED,
    POOL,
    POOL_CLOCK,
    ROWS,
    SECONDS,
    SPIN_NS,
    STAMPS,
    STOP,
    THREADS,
    TIME,
    WIDTH,
    WORD,
    WORKERS,
)

SPINS = 400  # pauses of about 45 ns; longer than any barrier takes when every thread has a core
LOOKS = 32  # pauses between two looks at the clock


def extents(row: Mapping[str, int]) -> list[Extent]:
    raise ValueError("the interpreter is no row")


@helper
def now_ns(clock, address):  # type: ignore[no-untyped-def]
    """Nanoseconds of `clock`; two words at `address` are overwritten."""
    clock_gettime(clock, address)
    time = as_i64(address)
    return time[0] * 1000000000 + time[1]


@helper
def relax(spins):  # type: ignore[no-untyped-def]
    """Wait a moment: first by spinning, later by giving the core away."""
    if spins < SPINS:
        pause()
    else:
        sched_yield()
    return spins + 1


@helper
def meet(call, met, threads):  # type: ignore[no-untyped-def]
    """Wait until all threads came to barrier number `met` (from 1); 1 when the run has failed."""
    if atomic_add(call + WORD * ARRIVED, 1) + 1 == met * threads:
        atomic_store(call + WORD * PASSED, met)
        return 0
    spins = 0
    while atomic_load(call + WORD * PASSED) < met:
        if atomic_load(call + WORD * FAILURE) != 0:
            return 1
        spins = relax(spins)
    return 0


@helper
def walk(call, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Walk the rows as one of `threads`; a status that is not zero stops all of them."""
    block = as_i64(call)
    row = block[ROWS]
    stamps = block[STAMPS]
    met = 0
    for r in range(block[N_ROWS]):
        slots = as_i64(row)
        if threads > 1 and slots[BARRIER] != 0:
            met += 1
            if meet(call, met, threads) != 0:
                return 0
        if stamps != 0 and thread == 0:
            as_i64(stamps)[r] = now_ns(block[CLOCK], call + WORD * SECONDS)
        status = call_kernel(slots[KERNEL], row, arena, constants, thread, threads)
        if status != 0:
            failure = ((r + 1) << 32) | (status & 0xFFFFFFFF)
            atomic_claim(call + WORD * FAILURE, 0, failure)
            return 0
        row += WORD * block[WIDTH]
    return 0


@helper
def post(box, mail):  # type: ignore[no-untyped-def]
    """Put `mail` into a worker's box, and wake it when it sleeps."""
    if atomic_swap(box + WORD * MAIL, mail) == ASLEEP:
        mutex_lock(box + WORD * MUTEX)
        cond_signal(box + WORD * CONDITION)
        mutex_unlock(box + WORD * MUTEX)
    return 0


@helper
def receive(box, clock, spin_ns):  # type: ignore[no-untyped-def]
    """The next mail of a worker: spins for `spin_ns`, then sleeps."""
    mail = box + WORD * MAIL
    deadline = now_ns(clock, box + WORD * TIME) + spin_ns
    looks = 0
    while atomic_load(mail) == EMPTY:
        pause()
        looks += 1
        if looks < LOOKS:
            continue
        looks = 0
        if now_ns(clock, box + WORD * TIME) < deadline:
            sched_yield()
            continue
        if atomic_claim(mail, EMPTY, ASLEEP) != 0:
            mutex_lock(box + WORD * MUTEX)
            while atomic_load(mail) == ASLEEP:
                cond_wait(box + WORD * CONDITION, box + WORD * MUTEX)
            mutex_unlock(box + WORD * MUTEX)
    return atomic_load(mail)


@kernel("vm_run", (), extents, family="vm")
def run_kernel(call_block, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Run a call block, with the pool's workers when nobody else has them; returns the failure."""
    call = address_of(call_block)
    pool = call_block[POOL]
    atomic_store(call + WORD * ARRIVED, 0)
    atomic_store(call + WORD * PASSED, 0)
    atomic_store(call + WORD * FAILURE, 0)
    atomic_store(call + WORD * DONE, 0)
    team = 1
    if threads > 1 and pool != 0 and atomic_claim(pool + WORD * BUSY, 0, 1) != 0:
        team = min(threads, as_i64(pool)[WORKERS] + 1)
        call_block[THREADS] = team
        for worker in range(team - 1):
            post(pool + WORD * (BOXES + worker * BOX_WORDS), call)
        walk(call, arena, constants, 0, team)
        spins = 0
        while atomic_load(call + WORD * DONE) < team - 1:
            spins = relax(spins)
        atomic_store(pool + WORD * BUSY, 0)
    else:
        walk(call, arena, constants, 0, 1)
    stamps = call_block[STAMPS]
    if stamps != 0:
        as_i64(stamps)[call_block[N_ROWS]] = now_ns(call_block[CLOCK], call + WORD * SECONDS)
    return atomic_load(call + WORD * FAILURE)


@kernel("vm_serve", (), extents, family="vm")
def serve_kernel(pool_block, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Worker `thread` (from 1) of a pool: run the call blocks that are posted, until STOP."""
    pool = address_of(pool_block)
    box = pool + WORD * (BOXES + (thread - 1) * BOX_WORDS)
    while True:
        call = receive(box, pool_block[POOL_CLOCK], pool_block[SPIN_NS])
        if call == STOP:
            return 0
        block = as_i64(call)
        team = block[THREADS]
        arena_of_call = as_u8(block[ARENA])
        constants_of_call = as_u8(block[CONSTANTS])
        # the box is empty before DONE tells the caller so, who may then post again
        atomic_store(box + WORD * MAIL, EMPTY)
        walk(call, arena_of_call, constants_of_call, thread, team)
        atomic_add(call + WORD * DONE, 1)


@kernel("vm_stop", (), extents, family="vm")
def stop_kernel(pool_block, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Tell worker `thread` (from 1) of a pool to leave."""
    post(address_of(pool_block) + WORD * (BOXES + (thread - 1) * BOX_WORDS), STOP)
    return 0
