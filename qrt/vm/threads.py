"""Worker threads that walk rows beside the caller's thread, shared by all sessions of a process.

A worker is a Python thread that stays in native code, without the GIL: after a run it waits for
the next (`team` says how), at last asleep on a condition variable, so that a wake-up never waits
for the GIL. A run that finds the workers busy walks alone.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from typing import Any

import numpy as np

from qrt.program.constants import aligned_bytes
from qrt.vm.native import Machine
from qrt.vm.state import (
    BELL,
    BOX_WORDS,
    BOXES,
    CONDITION,
    DOOR,
    MUTEX,
    PATIENCE_NS,
    POOL_CLOCK,
    SPIN_NS,
    WORD,
    WORKERS,
)

# ns that an idle worker stays awake: a wake-up costs about 50 us, copying an image into the arena
# and the results out as much again, and it yields its CPU meanwhile
SPIN = 200_000
PATIENCE = 100_000  # ns that a run waits at its start for workers that wake up, at most

_lock = threading.Lock()
_pools: weakref.WeakValueDictionary[tuple[Machine, int], WorkerPool] = weakref.WeakValueDictionary()


def worker_pool(machine: Machine, threads: int) -> WorkerPool:
    """The process's pool of `threads` - 1 workers; it stops when nobody holds it any more."""
    with _lock:
        pool = _pools.get((machine, threads))
        if pool is None:
            pool = _pools[machine, threads] = WorkerPool(machine, threads)
        return pool


class WorkerPool:
    """`threads` - 1 workers; `address` is the block that call blocks point to.

    After a fork the child has no workers: `stale` is set, and `revive` starts new ones.
    """

    def __init__(self, machine: Machine, threads: int) -> None:
        self._machine = machine
        self._workers = threads - 1
        words = BOXES + threads * BOX_WORDS
        self._block = aligned_bytes(words * WORD).view(np.int64)
        self._block[:] = 0
        self.address = self._block.ctypes.data
        self.stale = True
        # not at exit: workers sleep in native code, and the end of the process takes them along
        self._finalizer = weakref.finalize(
            self, _stop, machine, self._block, self._workers, os.getpid()
        )
        self._finalizer.atexit = False

    def revive(self) -> None:
        """Start the workers, if this process has none yet."""
        with _lock:
            if not self.stale:
                return
            self._block[:] = 0
            self._block[POOL_CLOCK] = time.CLOCK_MONOTONIC
            self._block[SPIN_NS] = SPIN
            self._block[PATIENCE_NS] = PATIENCE
            libc = ctypes.CDLL(None)
            places = [(DOOR, BELL)]
            for thread in range(self._workers + 1):
                box = BOXES + thread * BOX_WORDS
                places.append((box + MUTEX, box + CONDITION))
            for mutex, condition in places:
                libc.pthread_mutex_init(ctypes.c_void_p(self.address + WORD * mutex), None)
                libc.pthread_cond_init(ctypes.c_void_p(self.address + WORD * condition), None)
            self._finalizer.detach()
            self._finalizer = weakref.finalize(
                self, _stop, self._machine, self._block, self._workers, os.getpid()
            )
            self._finalizer.atexit = False
            # before the threads start: an interrupt among them leaves fewer workers, not two sets
            self.stale = False
            for worker in range(1, self._workers + 1):
                try:
                    self._start(worker)
                except RuntimeError:  # the system allows no more threads: use what there is
                    break
                self._block[WORKERS] = worker

    def _start(self, worker: int) -> None:
        # the thread holds block and machine, never the pool, which can therefore be collected
        threading.Thread(
            target=_serve,
            args=(self._machine, self._block, worker),
            name=f"qrt-{worker}",
            daemon=True,
        ).start()

    def forked(self) -> None:
        """In the child of a fork: there are no workers, and the parent's locks mean nothing."""
        self._block[WORKERS] = 0
        self.stale = True


def _serve(machine: Machine, block: Any, worker: int) -> None:
    machine.serve(block.ctypes.data, None, None, worker, 0)


def _stop(machine: Machine, block: Any, workers: int, pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child: the workers are the parent's
    for worker in range(1, int(block[WORKERS]) + 1):
        machine.stop(block.ctypes.data, None, None, worker, 0)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for pool in list(_pools.values()):
        pool.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
