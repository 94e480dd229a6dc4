"""The interpreter: a native function that walks rows and calls the kernel each one names.

It is declared and compiled like a kernel, so one signature serves all: its "row" is a call block or
a pool block (see `state`). `vm_run` is the caller's thread; `vm_serve` is a worker of a pool.
"""

from __future__ import annotations

from collections.abc import Mapping

from qrt.jit.declare import Extent, helper, kernel
from qrt.ops.jumps import JUMP
from qrt.program.program import BARRIER, KERNEL
from qrt.simd.calls import call_kernel
from qrt.simd.memory import address_of, as_i64, as_u8
from qrt.vm.atomics import (
    atomic_add,
    atomic_claim,
    atomic_load,
    atomic_store,
    this_thread,
)
from qrt.vm.seats import box_of, keep_apart, sit
from qrt.vm.state import (
    ALONE,
    ARENA,
    ARRIVED,
    BUSY,
    CLOCK,
    CONSTANTS,
    DONE,
    FAILURE,
    FIRST,
    LAST_END,
    LAST_NS,
    LEADER,
    N_ROWS,
    NEVER,
    NEXT_TEAM,
    PASSED,
    PATIENCE_NS,
    PENALTY,
    POOL,
    ROWS,
    SECONDS,
    SINCE,
    SPIN_NS,
    STOP,
    TEAM_BITS,
    TICKET_CALL,
    TICKET_EXPECTED,
    TICKET_MET,
    TICKET_ROW,
    TICKET_THREAD,
    TIMED,
    TIMES,
    WAITED,
    WIDTH,
    WORD,
    WORKERS,
)
from qrt.vm.team import admit, await_ready, dismiss, leave, offer, receive, withdraw
from qrt.vm.waiting import now_ns, ring, wait

PATIENCE = 16  # the caller waits for workers for this part of the time that a run takes
LEAST_PATIENCE_NS = 2_000  # a worker that is awake needs less than one
MOST_PENALTY = 31  # runs alone between two tries with workers, on a machine that stays busy
SHORT_NS = 100_000  # a run shorter than two wake-ups wakes nobody, unless runs follow closely


def extents(row: Mapping[str, int]) -> list[Extent]:
    raise ValueError("the interpreter is no row")


@helper
def meet(call, pool, worker, met, expected):  # type: ignore[no-untyped-def]
    """Wait until `expected` threads came to barrier `met` (from 1) or before; returns the team.

    0 when the run has failed.
    """
    if atomic_add(pool + WORD * ARRIVED, 1) + 1 == expected:
        team = atomic_load(pool + WORD * NEXT_TEAM)
        atomic_store(pool + WORD * PASSED, (met << TEAM_BITS) | team)
        ring(pool)
        return team
    return passed(call, pool, worker, met)


@helper
def passed(call, pool, worker, met):  # type: ignore[no-untyped-def]
    """Wait until barrier `met` was passed; returns the team that walks on, 0 after a failure."""
    wait(pool, worker, pool + WORD * PASSED, met << TEAM_BITS, call + WORD * FAILURE)
    now = atomic_load(pool + WORD * PASSED)
    if now >> TEAM_BITS < met:
        return 0
    return now & ((1 << TEAM_BITS) - 1)


@helper
def walk(  # type: ignore[no-untyped-def]
    call, pool, arena, constants, worker, thread, team, first, met, expected, pending
):
    """Walk the rows from `first`, one after the other but where one jumps, as thread `thread` of
    `team`; a failure stops all of them.

    `worker` is the thread's box in the pool. `met` barriers are behind, to which threads came
    `expected` times. The caller (thread 0) admits the `pending` workers as they become ready.
    Returns the team at the end.
    """
    block = as_i64(call)
    timed = block[TIMES] != 0 and thread == 0
    r = first
    begins = True  # whoever comes to the first row has waited for its barrier
    while r < block[N_ROWS]:
        row = block[ROWS] + r * block[WIDTH] * WORD
        slots = as_i64(row)
        if (team > 1 or pending > 0) and slots[BARRIER] != 0 and not begins:
            after = team
            if thread == 0 and pending > 0:
                workers = as_i64(pool)[WORKERS]
                after = admit(pool, workers, call, team, r, met + 1, expected + team)
                if after > team:
                    pending -= after - team
                    atomic_store(pool + WORD * NEXT_TEAM, after)
            if team > 1 or after > 1:
                met += 1
                expected += team
                now = meet(call, pool, worker, met, expected)
                if now == 0:
                    return after
                team = now
        begins = False
        if timed:
            time_row(call, r)
        status = call_kernel(slots[KERNEL], row, arena, constants, thread, team)
        r += 1
        if status >= JUMP:
            r = status - JUMP
        elif status != 0:
            failure = (r << 32) | (status & 0xFFFFFFFF)
            atomic_claim(call + WORD * FAILURE, 0, failure)
            if team > 1:
                ring(pool)
            return team
    return team


@helper
def time_row(call, row):  # type: ignore[no-untyped-def]
    """Give the time since the last of these calls to the row that ran, and begin with `row`."""
    block = as_i64(call)
    now = now_ns(block[CLOCK], call + WORD * SECONDS)
    if block[TIMED] >= 0:
        as_i64(block[TIMES])[block[TIMED]] += now - block[SINCE]
    block[TIMED] = row
    block[SINCE] = now
    return 0


@helper
def lead(call, pool, arena, constants, threads):  # type: ignore[no-untyped-def]
    """Walk a call as the caller, with the workers of a pool that is its own."""
    block, pool_block = as_i64(call), as_i64(pool)
    pool_block[LEADER] = this_thread()
    atomic_store(pool + WORD * ARRIVED, 0)
    atomic_store(pool + WORD * DONE, 0)
    atomic_store(pool + WORD * PASSED, -1)  # nobody walks before it is known how many do
    box = box_of(pool, 0)
    sit(pool, box)
    as_i64(box)[WAITED] = 0
    start = now_ns(block[CLOCK], call + WORD * SECONDS)
    workers = min(threads - 1, pool_block[WORKERS])
    last = block[LAST_NS]
    wake = last == 0 or last >= SHORT_NS or start - pool_block[LAST_END] < pool_block[SPIN_NS]
    offered = 0
    if pool_block[ALONE] > 0:
        pool_block[ALONE] -= 1
    else:
        offered = offer(pool, workers, 1 if wake else 0)
    team = 1
    if offered > 0:
        patience = pool_block[PATIENCE_NS]
        if last > 0:
            patience = min(max(last // PATIENCE, LEAST_PATIENCE_NS), patience)
        await_ready(pool, workers, offered, block[CLOCK], patience)
        team = admit(pool, workers, call, 1, block[FIRST], 0, 0)
    atomic_store(pool + WORD * NEXT_TEAM, team)
    atomic_store(pool + WORD * PASSED, team)
    if team > 1:
        ring(pool)
    pending = offered - team + 1
    team = walk(call, pool, arena, constants, 0, 0, team, block[FIRST], 0, 0, pending)
    if offered > 0:
        withdraw(pool, workers)
    wait(pool, 0, pool + WORD * DONE, team - 1, pool + WORD * NEVER)
    end = now_ns(block[CLOCK], call + WORD * SECONDS)
    block[LAST_NS] = max(end - start, 1)
    pool_block[LAST_END] = end
    if team > 1:
        judge(pool, team, end - start, as_i64(box)[WAITED])
    return 0


@helper
def judge(pool, team, elapsed, waited):  # type: ignore[no-untyped-def]
    """Walk the next runs alone when this one would have been faster so.

    Alone it would have taken `team` times what the caller worked; it waits for most of a run when
    the system gives a worker's CPU to others. Each such run doubles the number of the next.
    """
    words = as_i64(pool)
    if waited > (team - 1) * (elapsed - waited):
        words[PENALTY] = min(2 * words[PENALTY] + 1, MOST_PENALTY)
        words[ALONE] = words[PENALTY]
    else:
        words[PENALTY] //= 2
    return 0


@kernel("vm_run", (), extents, family="vm")
def run_kernel(call_block, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Run a call block from its FIRST row on, with the pool's workers when nobody else has them;
    returns the failure."""
    call = address_of(call_block)
    pool = call_block[POOL]
    call_block[TIMED] = -1
    atomic_store(call + WORD * FAILURE, 0)
    if threads > 1 and pool != 0 and atomic_claim(pool + WORD * BUSY, 0, 1) != 0:
        lead(call, pool, arena, constants, threads)
        atomic_store(pool + WORD * BUSY, 0)
    else:
        walk(call, 0, arena, constants, 0, 0, 1, call_block[FIRST], 0, 0, 0)
    if call_block[TIMES] != 0:
        time_row(call, -1)
    return atomic_load(call + WORD * FAILURE)


@kernel("vm_serve", (), extents, family="vm")
def serve_kernel(pool_block, arena, constants, worker, threads):  # type: ignore[no-untyped-def]
    """Worker `worker` (from 1) of a pool: join the runs that are offered, until STOP."""
    pool = address_of(pool_block)
    ticket = as_i64(box_of(pool, worker))
    while receive(pool, worker) != STOP:
        call = ticket[TICKET_CALL]
        thread, row, met = ticket[TICKET_THREAD], ticket[TICKET_ROW], ticket[TICKET_MET]
        expected = ticket[TICKET_EXPECTED]
        # the box is free before DONE tells the caller so, who may then offer again
        leave(pool, worker)
        keep_apart(pool, worker)
        team = passed(call, pool, worker, met)
        if team > 0:
            block = as_i64(call)
            arena_of_call, constants_of_call = as_u8(block[ARENA]), as_u8(block[CONSTANTS])
            walk(
                call, pool, arena_of_call, constants_of_call, worker, thread, team, row, met,
                expected, 0,
            )  # fmt: skip
        atomic_add(pool + WORD * DONE, 1)
        ring(pool)
    return 0


@kernel("vm_stop", (), extents, family="vm")
def stop_kernel(pool_block, arena, constants, worker, threads):  # type: ignore[no-untyped-def]
    """Tell worker `worker` (from 1) of a pool to leave."""
    dismiss(address_of(pool_block), worker)
    return 0
