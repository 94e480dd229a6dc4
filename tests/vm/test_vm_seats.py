"""Placement: workers leave a CPU that another thread of the run uses, within what is allowed."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qrt.jit.declare import HEADER
from qrt.jit.load import kernel_addresses
from qrt.jit.target import target_for
from qrt.program.constants import aligned_bytes
from qrt.simd.features import active_features
from qrt.vm.state import BOX_WORDS, BOXES, LEADER, SEAT, WORD, WORKERS
from tests.kernel_harness import ENTRY
from tests.machine.kernels import apart_kernel
from tests.vm.test_vm_threads import run_python

ALLOWED = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
pytestmark = pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two CPUs")

SHOW = """
def masks():
    return {frozenset(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")}
"""


def pool_block(workers: int, seats: dict[int, int]) -> Any:
    """A pool's block as of a run led by this thread; `seats` are the CPUs of its threads."""
    block = aligned_bytes((BOXES + (workers + 1) * BOX_WORDS) * WORD).view(np.int64)
    block[:] = 0
    libc = ctypes.CDLL(None)
    libc.pthread_self.restype = ctypes.c_ulong
    block[LEADER] = libc.pthread_self()
    block[WORKERS] = workers
    for thread, cpu in seats.items():
        block[BOXES + thread * BOX_WORDS + SEAT] = cpu + 1
    return block


def keep_apart(block: Any, worker: int) -> int:
    """Call the helper on this thread."""
    address = kernel_addresses([apart_kernel], target_for(active_features()))[apart_kernel.name]
    row = np.array([0] * len(HEADER) + [worker], np.int64)
    return int(ENTRY(address)(row.ctypes.data, block.ctypes.data, None, 0, 1))


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns on a thread of its own, whose affinity may change."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(60)
    assert found, "the thread failed"
    return found[0]


def placed(block: Any, worker: int, cpus: set[int]) -> tuple[int, set[int]]:
    """(still shared, affinity) after `keep_apart` of a worker that may use `cpus`."""

    def work() -> tuple[int, set[int]]:
        os.sched_setaffinity(0, cpus)
        shared = keep_apart(block, worker)
        return shared, os.sched_getaffinity(0)

    result: tuple[int, set[int]] = in_thread(work)
    return result


def test_a_worker_leaves_the_callers_cpu() -> None:
    for cpu in ALLOWED[:4]:
        shared, mask = placed(pool_block(1, {0: cpu}), 1, {cpu})
        assert (shared, mask) == (0, set(ALLOWED) - {cpu})


def test_a_worker_with_a_cpu_of_its_own_stays() -> None:
    a, b = ALLOWED[:2]
    assert placed(pool_block(1, {0: a}), 1, {b}) == (0, {b})


def test_the_later_of_two_workers_moves() -> None:
    a, b = ALLOWED[:2]
    assert placed(pool_block(2, {0: b, 1: a, 2: a}), 1, {a}) == (0, {a})
    away = set(ALLOWED) - {a, b} or set(ALLOWED) - {b}
    assert placed(pool_block(2, {0: b, 1: a, 2: a}), 2, {a})[1] == away


def test_nobody_goes_where_the_caller_may_not() -> None:
    a = ALLOWED[0]

    def limited() -> tuple[int, set[int]]:
        os.sched_setaffinity(0, {a})
        block = pool_block(1, {0: a})  # led by this thread
        return placed(block, 1, {a})

    assert in_thread(limited) == (1, {a})


def test_workers_keep_the_mask_of_the_process() -> None:
    run_python(
        SHOW
        + f"""
os.sched_setaffinity(0, {{{ALLOWED[0]}}})
executor = executor_of(rotating_chain(20, 20_000), threads=3)
for _ in range(100):
    check()
for t in os.listdir("/proc/self/task"):
    os.sched_setaffinity(int(t), {{{ALLOWED[0]}}})
for _ in range(300):
    check()
assert masks() == {{frozenset({{{ALLOWED[0]}}})}}, masks()
"""
    )


def test_runs_do_not_touch_the_callers_mask() -> None:
    run_python(
        SHOW
        + f"""
allowed = os.sched_getaffinity(0)
for _ in range(500):
    check()
assert os.sched_getaffinity(0) == allowed == {set(ALLOWED)}
assert all(mask <= allowed for mask in masks())
"""
    )
