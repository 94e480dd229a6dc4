"""Kernels that only tests use, in a module that compile workers can import."""

from __future__ import annotations

from collections.abc import Mapping

from qrt.jit.declare import Extent, kernel, slots
from qrt.simd.memory import address_of, as_f32, as_i64, operand
from qrt.simd.scalar import share
from qrt.vm.atomics import atomic_load, atomic_store
from qrt.vm.interpreter import judge
from qrt.vm.seats import keep_apart

ADD_FIELDS = ("x", "y", "out", "n")
X, Y, OUT, N = slots(ADD_FIELDS)


def add_extents(row: Mapping[str, int]) -> list[Extent]:
    nbytes = 4 * row["n"]
    return [Extent("x", nbytes), Extent("y", nbytes), Extent("out", nbytes, writes=True)]


@kernel("test_add", ADD_FIELDS, add_extents, family="test")
def add_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """out = x + y, float32."""
    x = as_f32(operand(row, X, arena, constants))
    y = as_f32(operand(row, Y, arena, constants))
    out = as_f32(operand(row, OUT, arena, constants))
    start, stop = share(row[N], thread, threads, 1)
    for i in range(start, stop):
        out[i] = x[i] + y[i]
    return 0


@kernel("test_rotate", ADD_FIELDS, add_extents, family="test")
def rotate_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """out[i] = x[n - 1 - i] + y[i]: reads what another thread wrote in the row before."""
    x = as_f32(operand(row, X, arena, constants))
    y = as_f32(operand(row, Y, arena, constants))
    out = as_f32(operand(row, OUT, arena, constants))
    n = row[N]
    start, stop = share(n, thread, threads, 1)
    for i in range(start, stop):
        out[i] = x[n - 1 - i] + y[i]
    return 0


FAIL_FIELDS = ("trigger", "status", "thread")
TRIGGER, STATUS, THREAD = slots(FAIL_FIELDS)


def fail_extents(row: Mapping[str, int]) -> list[Extent]:
    return [Extent("trigger", 8, writes=True)]


@kernel("test_fail", FAIL_FIELDS, fail_extents, family="test")
def fail_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Thread `thread` (the last one at most) answers `status` when the trigger is not zero."""
    trigger = as_i64(operand(row, TRIGGER, arena, constants))
    if trigger[0] != 0 and thread == min(row[THREAD], threads - 1):
        return row[STATUS]
    return 0


HOLD_FIELDS = ("orders", "census", "index")
ORDERS, CENSUS, INDEX = slots(HOLD_FIELDS)
HELD_TOO_LONG = 77  # status
HOLD_SPINS = 1 << 31  # some tens of seconds: a hang becomes a failure


def hold_extents(row: Mapping[str, int]) -> list[Extent]:
    # all of the census: each row then waits at a barrier for the one before
    return [Extent("orders", 64), Extent("census", 64, writes=True)]


@kernel("test_hold", HOLD_FIELDS, hold_extents, family="test")
def hold_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Note the team in census[index]; then one thread waits until other threads did something.

    orders: which row and thread hold, at least how many threads that takes, an address and the
    value that the word there must reach, an address at which to say so (or 0), and a status.
    """
    orders = as_i64(operand(row, ORDERS, arena, constants))
    if thread == 0:
        as_i64(operand(row, CENSUS, arena, constants))[row[INDEX]] = threads
    if orders[0] != row[INDEX] or orders[1] != thread or threads < orders[2]:
        return 0
    if orders[5] != 0:
        atomic_store(orders[5], 1)
    spins = 0
    while atomic_load(orders[3]) < orders[4]:
        spins += 1
        if spins > HOLD_SPINS:
            return HELD_TOO_LONG
    return orders[6]


APART_FIELDS = ("worker",)
(WORKER,) = slots(APART_FIELDS)


def no_extents(row: Mapping[str, int]) -> list[Extent]:
    return []


@kernel("test_apart", APART_FIELDS, no_extents, family="test")
def apart_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """`keep_apart` for a worker of the pool whose block is given as the arena."""
    return keep_apart(address_of(arena), row[WORKER])


JUDGE_FIELDS = ("team", "elapsed", "waited")
TEAM, ELAPSED, WAITED_NS = slots(JUDGE_FIELDS)


@kernel("test_judge", JUDGE_FIELDS, no_extents, family="test")
def judge_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """`judge` of a run, on the pool whose block is given as the arena."""
    return judge(address_of(arena), row[TEAM], row[ELAPSED], row[WAITED_NS])
