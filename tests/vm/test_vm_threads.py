"""Threads that walk the rows together: same answers, no deadlock, gone when nobody needs them."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from qrt.errors import KernelError
from qrt.simd.features import active_features
from qrt.vm import Executor
from qrt.vm.native import machine
from qrt.vm.threads import SPIN, WorkerPool, worker_pool
from tests.machine.graphs import failing_graph, rotated, rotating_chain
from tests.vm.test_vm_executor import executor_of

ROOT = Path(__file__).resolve().parents[2]
PREAMBLE = """
import faulthandler, os, signal, sys, threading, time
faulthandler.dump_traceback_later(60, exit=True)
# a shell's background jobs ignore SIGINT, and their children with them
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from tests.machine.graphs import *
from tests.vm.test_vm_executor import executor_of
executor = executor_of(rotating_chain(20, 20_000), threads=2)
x = np.ones(20_000, np.float32)
expected = rotated(x, 20)
def check():
    assert np.array_equal(executor.run([x])[0], expected)
check()
assert executor.threads == 2
"""


def run_python(code: str, timeout: float = 100) -> str:
    """Run PREAMBLE and `code` in a process of its own; its stdout."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("qrt-")]


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_give_the_same_answer(threads: int) -> None:
    n = 17_001
    x = np.random.default_rng(0).integers(-100, 100, n).astype(np.float32)
    alone = executor_of(rotating_chain(50, n)).run([x])[0]
    np.testing.assert_array_equal(alone, rotated(x, 50))
    executor = executor_of(rotating_chain(50, n), threads=threads)
    assert executor.threads == threads
    for trial in range(40):
        np.testing.assert_array_equal(executor.run([x])[0], alone, err_msg=f"trial {trial}")


def test_workers_wake_from_sleep_and_from_spinning() -> None:
    executor = executor_of(rotating_chain(10, 20_000), threads=2)
    x = np.ones(20_000, np.float32)
    expected = rotated(x, 10)
    for pause in (0, 0, SPIN / 1e9, 0.01, 0, SPIN / 2e9, 0.05, 0):
        time.sleep(pause)
        np.testing.assert_array_equal(executor.run([x])[0], expected)


def test_small_programs_stay_on_one_thread() -> None:
    executor = executor_of(rotating_chain(3, 16), threads=2)
    assert executor.threads == 1
    assert executor.program.threads == 2


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("who", [0, 1, 4])
def test_a_failing_thread_stops_all(threads: int, who: int) -> None:
    executor = executor_of(failing_graph(3, who), threads=threads)
    x = np.ones(20_000, np.float32)
    for trial in range(30):
        with pytest.raises(KernelError, match="status 3"):
            executor.run([x, np.array([1])])
        (y, _) = executor.run([x, np.array([0])])
        assert (y == 6).all(), f"trial {trial}"


def test_a_call_that_finds_the_workers_busy_runs_alone() -> None:
    executor = executor_of(rotating_chain(30, 20_000), threads=2)
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.full(20_000, seed, np.float32)
        expected = rotated(x, 30)
        for _ in range(40):
            if not np.array_equal(executor.run([x])[0], expected):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive(), "deadlock"
    assert not wrong


def test_sessions_share_workers_which_end_with_the_last() -> None:
    gc.collect()
    deadline = time.monotonic() + 10
    while workers() and time.monotonic() < deadline:
        time.sleep(0.01)
    x = np.ones(20_000, np.float32)
    one = executor_of(rotating_chain(5, 20_000), threads=3)
    two = executor_of(rotating_chain(6, 20_000), threads=3)
    one.run([x])
    two.run([x])
    assert len(workers()) == 2
    assert all(t.daemon for t in workers())
    del one
    gc.collect()
    two.run([x])
    assert len(workers()) == 2
    del two
    gc.collect()
    deadline = time.monotonic() + 10
    while workers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not workers()


def test_a_pool_that_cannot_start_threads_works_with_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = WorkerPool(machine(active_features()), 4)
    start, started = WorkerPool._start, []

    def stingy(self: WorkerPool, worker: int) -> None:
        if worker > 1:
            raise RuntimeError("can't start new thread")
        started.append(worker)
        start(self, worker)

    monkeypatch.setattr(WorkerPool, "_start", stingy)
    monkeypatch.setattr("qrt.vm.executor.worker_pool", lambda machine, threads: pool)
    executor = executor_of(rotating_chain(10, 20_000), threads=4)
    x = np.ones(20_000, np.float32)
    np.testing.assert_array_equal(executor.run([x])[0], rotated(x, 10))
    assert started == [1]


def test_pools_are_shared_by_count() -> None:
    one, two = (worker_pool(machine(active_features()), n) for n in (2, 3))
    assert worker_pool(machine(active_features()), 2) is one is not two


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_workers_of_its_own() -> None:
    run_python(
        """
for i in range(5):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        for _ in range(20):
            check()
        assert sum(t.name.startswith("qrt-") for t in threading.enumerate()) == 1
        os._exit(0)
    for _ in range(20):
        check()
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
"""
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork_while_another_thread_runs() -> None:
    run_python(
        """
stop = False
def work():
    while not stop:
        check()
t = threading.Thread(target=work)
t.start()
for i in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        check()
        check()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, (i, status)
stop = True
t.join()
"""
    )


def test_exit_does_not_hang() -> None:
    run_python("print('done')", timeout=60)
    run_python("time.sleep(0.05)", timeout=60)  # workers asleep
    run_python("threading.Thread(target=lambda: [check() for _ in range(200)]).start()", timeout=60)


def test_interrupts_arrive_between_runs() -> None:
    out = run_python(
        """
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    while time.monotonic() - start < 30:
        check()
except KeyboardInterrupt:
    for _ in range(50):
        check()
    print("interrupted", time.monotonic() - start < 10)
"""
    )
    assert out.split() == ["interrupted", "True"]


def test_many_interrupts_leave_a_working_pool() -> None:
    run_python(
        """
seen, armed = 0, False
def stop(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
end = time.monotonic() + 2
while time.monotonic() < end:
    try:
        armed = True
        while armed:
            executor.run([x])
            armed = time.monotonic() < end
    except KeyboardInterrupt:
        seen += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert seen > 20, seen
for _ in range(20):
    check()
assert len(executor._free) <= 2
"""
    )


def test_busy_python_threads_do_not_delay_workers() -> None:
    """A worker wakes and works without the GIL: a spinning Python thread cannot stop it."""
    executor: Executor = executor_of(rotating_chain(10, 20_000), threads=2)
    x = np.ones(20_000, np.float32)
    expected = rotated(x, 10)
    stop = threading.Event()

    def hog() -> None:
        while not stop.is_set():
            pass

    hogs = [threading.Thread(target=hog) for _ in range(2)]
    for t in hogs:
        t.start()
    try:
        for _ in range(10):
            time.sleep(0.002)
            np.testing.assert_array_equal(executor.run([x])[0], expected)
    finally:
        stop.set()
        for t in hogs:
            t.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_multiprocessing_by_fork_with_a_pool_alive() -> None:
    run_python(
        """
import multiprocessing
context = multiprocessing.get_context("fork")
def work(_):
    for _ in range(10):
        check()
    return sum(t.name.startswith("qrt-") for t in threading.enumerate())
with context.Pool(3) as processes:
    assert processes.map(work, range(12)) == [1] * 12
check()
"""
    )


@pytest.mark.parametrize("times", [1, 2])
def test_sigint_ends_a_loop_of_runs(times: int) -> None:
    """From outside, with workers alive: Python's own traceback and exit, no hang, no crash."""
    code = PREAMBLE + "print('running', flush=True)\nwhile True:\n    check()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130), stderr
    assert "KeyboardInterrupt" in stderr


def test_one_session_from_many_python_threads() -> None:
    run_python(
        """
failures = []
def work():
    try:
        for _ in range(30):
            check()
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=work) for _ in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
assert not failures, failures
"""
    )


def test_many_threads_that_come_and_go() -> None:
    """More threads than CPUs, and pauses about as long as idle workers stay awake."""
    run_python(
        """
import random
from qrt.vm.state import SPIN_NS
random.seed(0)
executor = executor_of(rotating_chain(12, 6_000), threads=4)
x = np.ones(6_000, np.float32)
expected = rotated(x, 12)
check()
executor._pool._block[SPIN_NS] = 20_000
for _ in range(4_000):
    if random.random() < 0.05:
        time.sleep(random.random() * 4e-4)
    executor.run([x])
check()
"""
    )
