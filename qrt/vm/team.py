"""Who walks a run: workers are offered it, and join when they come, at a barrier at the latest.

The caller never waits long for a worker that sleeps or that the system has taken off its CPU: it
starts alone, and at every barrier admits who has become ready. What it offered and nobody took is
withdrawn at the end. So a worker costs a run nothing before it works in it.
"""

from __future__ import annotations

from qrt.jit.declare import helper
from qrt.simd.memory import as_i64
from qrt.vm.atomics import (
    atomic_claim,
    atomic_load,
    atomic_store,
    atomic_swap,
    cond_signal,
    cond_wait,
    mutex_lock,
    mutex_unlock,
    pause,
)
from qrt.vm.seats import box_of
from qrt.vm.state import (
    ADMITTED,
    ASLEEP,
    CONDITION,
    DOZING,
    EMPTY,
    MAIL,
    MUTEX,
    OFFER,
    POOL_CLOCK,
    READY,
    SPIN_NS,
    STOP,
    TICKET_CALL,
    TICKET_EXPECTED,
    TICKET_MET,
    TICKET_ROW,
    TICKET_THREAD,
    TIME,
    WAITED,
    WORD,
)
from qrt.vm.waiting import LOOKS, linger, now_ns


@helper
def rouse(box):  # type: ignore[no-untyped-def]
    """Wake the worker that sleeps at its box, whose state has just changed."""
    mutex_lock(box + WORD * MUTEX)
    cond_signal(box + WORD * CONDITION)
    mutex_unlock(box + WORD * MUTEX)
    return 0


@helper
def offer(pool, workers, wake):  # type: ignore[no-untyped-def]
    """Offer a run to the first `workers`, to those asleep only if `wake`; returns to how many."""
    offered = 0
    for worker in range(1, workers + 1):
        box = box_of(pool, worker)
        if atomic_claim(box + WORD * MAIL, EMPTY, OFFER) != 0:
            offered += 1
        elif wake != 0 and atomic_claim(box + WORD * MAIL, ASLEEP, OFFER) != 0:
            rouse(box)
            offered += 1
    return offered


@helper
def count_ready(pool, workers):  # type: ignore[no-untyped-def]
    """How many of the first `workers` are ready to join."""
    ready = 0
    for worker in range(1, workers + 1):
        state = atomic_load(box_of(pool, worker) + WORD * MAIL)
        if state in (READY, DOZING):
            ready += 1
    return ready


@helper
def await_ready(pool, workers, offered, clock, patience):  # type: ignore[no-untyped-def]
    """Wait until all who were offered the run are ready, for `patience` ns at most.

    Adds to the caller's WAITED as `wait` does.
    """
    box = box_of(pool, 0)
    start = 0
    now = 0
    looks = 0
    while count_ready(pool, workers) < offered and now - start <= patience:
        pause()
        looks += 1
        if looks < LOOKS:
            continue
        looks = 0
        now = now_ns(clock, box + WORD * TIME)
        if start == 0:
            start = now
    as_i64(box)[WAITED] += now - start
    return 0


@helper
def admit(pool, workers, call, team, row, met, expected):  # type: ignore[no-untyped-def]
    """Let workers that are ready join before `row`, after barrier `met`; returns the new team."""
    for worker in range(1, workers + 1):
        box = box_of(pool, worker)
        state = atomic_load(box + WORD * MAIL)
        if state != READY and state != DOZING:
            continue
        ticket = as_i64(box)
        ticket[TICKET_CALL] = call
        ticket[TICKET_THREAD] = team
        ticket[TICKET_ROW] = row
        ticket[TICKET_MET] = met
        ticket[TICKET_EXPECTED] = expected
        if atomic_swap(box + WORD * MAIL, ADMITTED) == DOZING:
            rouse(box)
        team += 1
    return team


@helper
def withdraw(pool, workers):  # type: ignore[no-untyped-def]
    """Take back what was offered to the first `workers` and not taken."""
    for worker in range(1, workers + 1):
        mail = box_of(pool, worker) + WORD * MAIL
        while True:
            # the worker may go from OFFER to READY to DOZING meanwhile, never back
            state = atomic_load(mail)
            if state in (OFFER, READY):
                if atomic_claim(mail, state, EMPTY) != 0:
                    break
            elif state == DOZING:
                if atomic_claim(mail, DOZING, ASLEEP) != 0:
                    break
            else:
                break
    return 0


@helper
def receive(pool, worker):  # type: ignore[no-untyped-def]
    """Wait, as a worker, until admitted to a run (ADMITTED) or told to leave (STOP)."""
    box = box_of(pool, worker)
    mail = box + WORD * MAIL
    clock, spin_ns = as_i64(pool)[POOL_CLOCK], as_i64(pool)[SPIN_NS]
    start = now_ns(clock, box + WORD * TIME)
    looks = 0
    while True:
        state = atomic_load(mail)
        if state in (ADMITTED, STOP):
            return state
        if state == OFFER:
            if atomic_claim(mail, OFFER, READY) != 0:
                start = now_ns(clock, box + WORD * TIME)
            continue
        pause()
        looks += 1
        if looks < LOOKS:
            continue
        looks = 0
        waited = now_ns(clock, box + WORD * TIME) - start
        if waited < spin_ns:
            linger(waited, 0)
            continue
        if state == EMPTY:
            atomic_claim(mail, EMPTY, ASLEEP)
        elif state == READY:
            atomic_claim(mail, READY, DOZING)
        mutex_lock(box + WORD * MUTEX)
        state = atomic_load(mail)
        while state in (ASLEEP, DOZING):
            cond_wait(box + WORD * CONDITION, box + WORD * MUTEX)
            state = atomic_load(mail)
        mutex_unlock(box + WORD * MUTEX)
        start = now_ns(clock, box + WORD * TIME)


@helper
def dismiss(pool, worker):  # type: ignore[no-untyped-def]
    """Tell a worker to leave."""
    box = box_of(pool, worker)
    state = atomic_swap(box + WORD * MAIL, STOP)
    if state in (ASLEEP, DOZING):
        rouse(box)
    return 0


@helper
def leave(pool, worker):  # type: ignore[no-untyped-def]
    """As a worker with a ticket: be free for the next offer."""
    atomic_store(box_of(pool, worker) + WORD * MAIL, EMPTY)
    return 0
