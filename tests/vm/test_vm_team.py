"""How workers come and go: late, asleep, never; and how threads wait for each other."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import numpy as np
import pytest

from qrt.errors import KernelError
from qrt.jit.declare import HEADER
from qrt.jit.load import kernel_addresses
from qrt.jit.target import target_for
from qrt.program.constants import aligned_bytes
from qrt.simd.features import active_features
from qrt.vm import Executor
from qrt.vm.native import machine
from qrt.vm.state import (
    ALONE,
    BOX_WORDS,
    BOXES,
    EMPTY,
    LAST_NS,
    MAIL,
    OFFER,
    PATIENCE_NS,
    PENALTY,
    READY,
    SLEEPERS,
    SPIN_NS,
    WORD,
)
from qrt.vm.threads import WorkerPool
from tests.kernel_harness import ENTRY
from tests.machine.graphs import CENSUS_ROWS, holding_graph, rotated, rotating_chain
from tests.machine.kernels import judge_kernel
from tests.vm.test_vm_executor import executor_of

N = 20_000
X = np.arange(N, dtype=np.float32)
NOBODY = -1


def orders(
    row: int = NOBODY,
    thread: int = 0,
    team: int = 1,
    word: int = 0,
    least: int = 0,
    flag: int = 0,
    status: int = 0,
) -> Any:
    """See `hold_kernel`."""
    return np.array([row, thread, team, word, least, flag, status, 0])


def census_of(executor: Executor, what: Any) -> list[int]:
    """Run `holding_graph`; the threads of each row."""
    y, census = executor.run([X, what, np.zeros(8, np.int64)])
    np.testing.assert_array_equal(y, rotated(X, 1))
    return [int(n) for n in census]


def muster(executor: Executor) -> None:
    """Let the next run (of one that ran before) wait until all workers are there."""
    assert executor._pool is not None
    executor._pool._block[ALONE] = 0
    executor._pool._block[PATIENCE_NS] = executor._free[-1].block[LAST_NS] = 10**12


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> WorkerPool:
    """A pool of one worker that does not start by itself; executors of the test use it."""
    pool = WorkerPool(machine(active_features()), 2)
    monkeypatch.setattr(WorkerPool, "_start", lambda self, worker: None)
    monkeypatch.setattr("qrt.vm.executor.worker_pool", lambda machine, threads: pool)
    return pool


def word(pool: WorkerPool, slot: int) -> int:
    """Address of a word of the pool's block."""
    return pool.address + WORD * slot


WORKER_MAIL = BOXES + BOX_WORDS + MAIL


def test_a_worker_that_never_comes_costs_nothing(pool: WorkerPool) -> None:
    executor = executor_of(holding_graph(), threads=2)
    for _ in range(20):
        assert census_of(executor, orders()) == [1] * CENSUS_ROWS
        assert pool._block[WORKER_MAIL] == EMPTY, "the offer is withdrawn"


@pytest.mark.parametrize("row", [0, 2, CENSUS_ROWS - 1])
def test_a_worker_that_comes_late_joins_at_the_next_barrier(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    executor = executor_of(holding_graph(), threads=2)
    flag = np.zeros(1, np.int64)
    seen: list[int] = []

    def start() -> None:
        while not flag[0]:
            time.sleep(0.001)
        seen.append(int(pool._block[WORKER_MAIL]))
        monkeypatch.undo()
        pool._start(1)

    late = threading.Thread(target=start)
    late.start()
    hold = orders(row, 0, 1, word(pool, WORKER_MAIL), READY, flag.ctypes.data)
    got = census_of(executor, hold)
    late.join(60)
    assert seen == [OFFER]
    assert got == [1] * (row + 1) + [2] * (CENSUS_ROWS - row - 1)
    for _ in range(50):
        assert set(census_of(executor, orders())) <= {1, 2}


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("row, who", [(3, 0), (3, 1), (CENSUS_ROWS - 1, 1)])
@pytest.mark.parametrize("status", [0, 5])
def test_threads_sleep_at_a_long_barrier_and_are_woken(
    threads: int, row: int, who: int, status: int
) -> None:
    """One thread goes on (or fails) only when all others sleep, at a barrier or at the end."""
    executor = executor_of(holding_graph(), threads=threads)
    census_of(executor, orders())
    assert executor._pool is not None
    # after the last row only the caller waits for others
    asleep = threads - 1 if row < CENSUS_ROWS - 1 else 1
    hold = orders(row, who, threads, word(executor._pool, SLEEPERS), asleep, 0, status)
    for _ in range(5):
        muster(executor)
        if status:
            with pytest.raises(KernelError, match=f"status {status}"):
                census_of(executor, hold)
        else:
            assert census_of(executor, hold) == [threads] * CENSUS_ROWS
        census_of(executor, orders())


def judged(block: Any, team: int, elapsed: int, waited: int) -> tuple[int, int]:
    """(ALONE, PENALTY) of a pool's block after `judge`."""
    address = kernel_addresses([judge_kernel], target_for(active_features()))[judge_kernel.name]
    row = np.array([0] * len(HEADER) + [team, elapsed, waited], np.int64)
    assert ENTRY(address)(row.ctypes.data, block.ctypes.data, None, 0, 1) == 0
    return int(block[ALONE]), int(block[PENALTY])


def test_runs_that_were_mostly_waiting_make_the_next_walk_alone() -> None:
    block = aligned_bytes(BOXES * WORD).view(np.int64)
    block[:] = 0
    assert judged(block, 2, 1000, 500) == (0, 0)
    for alone in (1, 3, 7, 15, 31, 31):
        assert judged(block, 2, 1000, 501) == (alone, alone)
    block[ALONE] = 0
    for penalty in (15, 7, 3, 1, 0, 0):
        assert judged(block, 2, 1000, 500) == (0, penalty)
    # alone it would have taken four times what the caller worked
    assert judged(block, 4, 1000, 750) == (0, 0)
    assert judged(block, 4, 1000, 751) == (1, 1)


def test_runs_walk_alone_when_told_to() -> None:
    executor = executor_of(holding_graph(), threads=2)
    census_of(executor, orders())
    muster(executor)
    assert executor._pool is not None
    executor._pool._block[ALONE] = 5
    for _ in range(5):
        assert census_of(executor, orders()) == [1] * CENSUS_ROWS
    muster(executor)
    assert census_of(executor, orders()) == [2] * CENSUS_ROWS


@pytest.mark.parametrize("threads", [2, 4])
def test_workers_that_sleep_at_once(threads: int) -> None:
    executor = executor_of(rotating_chain(20, N), threads=threads)
    executor.run([X])
    assert executor._pool is not None
    executor._pool._block[SPIN_NS] = 0
    for trial in range(200):
        np.testing.assert_array_equal(executor.run([X])[0], rotated(X, 20), f"trial {trial}")
    executor._pool._block[SPIN_NS] = 200_000


def test_a_pool_that_never_ran_is_let_go() -> None:
    for _ in range(5):
        # memory that is not zero: what a block starts with is the pool's to say
        junk = [np.full(1 << 14, -1, np.int64) for _ in range(20)]
        del junk
        WorkerPool(machine(active_features()), 3)._finalizer()


def test_boxes_hold_what_pthreads_need() -> None:
    """glibc's mutex and condition are 40 and 48 bytes, musl's not longer, 128 are reserved."""
    libc = ctypes.CDLL(None)
    for init in ("pthread_mutex_init", "pthread_cond_init"):
        room = np.full(64, -1, np.int64)
        getattr(libc, init)(ctypes.c_void_p(room.ctypes.data), None)
        assert (room[16:] == -1).all()
