"""What this machine reaches: the limit kernels of qrt, called by address and timed.

Rates are of this moment: on a machine that others use, measure them beside what they judge.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from qrt.gemm.limits import (
    DOT_KERNELS,
    GRAIN,
    OPERAND_NBYTES,
    RESULT_NBYTES,
    THREADS,
    DotLimit,
    copy_kernel,
    read_kernel,
)
from qrt.jit.declare import HEADER, Kernel
from qrt.jit.load import kernel_addresses
from qrt.jit.target import target_for
from qrt.program.constants import aligned_bytes

ENTRY = ctypes.CFUNCTYPE(  # calls through it give up the GIL
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
)
PROBE_SECONDS = 2e-5  # a run at least this long tells how many steps fill the wanted time
SECONDS = 0.002  # of one run: two threads start within a small part of it


@dataclass(frozen=True)
class Bound:
    """A limit kernel bound to one row and an arena of its own."""

    entry: Any
    row: Any
    arena: Any

    def seconds(self, threads: int = 1) -> float:
        """Wall time of one run by `threads` threads, from the first start to the last end.

        Each has a CPU of its own: this is what the machine can do, not what the system makes of it.
        """
        if threads == 1:
            return _stop(self._run(0, 1))
        spans: list[tuple[float, float]] = []
        gate = threading.Barrier(threads)
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []

        def work(thread: int) -> None:
            if cpus:
                os.sched_setaffinity(0, {cpus[thread % len(cpus)]})
            gate.wait()
            spans.append(self._run(thread, threads))

        team = [threading.Thread(target=work, args=(t,)) for t in range(threads)]
        for member in team:
            member.start()
        for member in team:
            member.join()
        return max(stop for _, stop in spans) - min(start for start, _ in spans)

    def _run(self, thread: int, threads: int) -> tuple[float, float]:
        row = ctypes.c_void_p(self.row.ctypes.data)
        arena = ctypes.c_void_p(self.arena.ctypes.data)
        start = time.perf_counter()
        status = self.entry(row, arena, arena, thread, threads)
        stop = time.perf_counter()
        assert status == 0, status
        return start, stop


def _stop(span: tuple[float, float]) -> float:
    return span[1] - span[0]


def bind(kernel: Kernel, features: frozenset[str], arena_nbytes: int, **fields: int) -> Bound:
    """The kernel, compiled for `features`, with a row of `fields` (x is at the arena's start)."""
    kernel.extents(fields)
    row = np.array([0] * len(HEADER) + [fields[name] for name in kernel.fields], np.int64)
    address = kernel_addresses([kernel], target_for(features))[kernel.name]
    arena = aligned_bytes(arena_nbytes)
    arena[:] = 1
    return Bound(ENTRY(address), row, arena)


def dot_limit(features: frozenset[str], family: str | None = None) -> DotLimit:
    """The limit of `family`, else of the newest integer family that `features` allow."""
    usable = [limit for limit in DOT_KERNELS if features.issuperset(limit.features)]
    return usable[0] if family is None else next(u for u in usable if u.family == family)


@cache
def dot_loop(features: frozenset[str], limit: DotLimit, steps: int) -> Bound:
    """The dot loop of `limit` over `steps` steps on each thread."""
    nbytes = OPERAND_NBYTES + THREADS * RESULT_NBYTES
    return bind(DOT_KERNELS[limit], features, nbytes, x=0, y=OPERAND_NBYTES, steps=steps)


@cache
def dot_steps(features: frozenset[str], limit: DotLimit, seconds: float) -> int:
    """Steps that fill `seconds` on one thread, about."""
    return _count(lambda steps: dot_loop(features, limit, steps), seconds)


def _count(bound: Callable[[int], Bound], seconds: float) -> int:
    """Repetitions that fill `seconds` on one thread, about."""
    count = 1
    while (each := min(bound(count).seconds() for _ in range(3))) < PROBE_SECONDS:
        count *= 4
    return max(1, round(count * seconds / each))


def dot_rate(
    features: frozenset[str],
    family: str | None = None,
    *,
    threads: int = 1,
    seconds: float = SECONDS,
    runs: int = 5,
) -> float:
    """GMAC/s of `threads` cores on registers alone, the best of `runs` loops of about `seconds`."""
    limit = dot_limit(features, family)
    steps = dot_steps(features, limit, seconds)
    loop = dot_loop(features, limit, steps)
    best = min(loop.seconds(threads) for _ in range(runs))
    return threads * steps * limit.macs_per_step / best / 1e9


def dot_seconds(features: frozenset[str], threads: int, seconds: float) -> float:
    """Time of one loop of about `seconds`, run by each of `threads` threads at once."""
    limit = dot_limit(features)
    return dot_loop(features, limit, dot_steps(features, limit, seconds)).seconds(threads)


def stream_rate(
    features: frozenset[str], nbytes: int, *, copies: bool, threads: int = 1, runs: int = 5
) -> float:
    """GB/s through `nbytes` of memory, the best of `runs`: read, or read and written."""
    nbytes = max(GRAIN, nbytes // GRAIN * GRAIN)
    passes = _stream_passes(features, nbytes, copies)
    stream = _stream(features, nbytes, copies, passes)
    best = min(stream.seconds(threads) for _ in range(runs))
    return passes * nbytes * (2 if copies else 1) / best / 1e9


@cache
def _stream_passes(features: frozenset[str], nbytes: int, copies: bool) -> int:
    return _count(lambda passes: _stream(features, nbytes, copies, passes), SECONDS)


@lru_cache(maxsize=4)  # one holds twice its bytes, and a case needs at most two
def _stream(features: frozenset[str], nbytes: int, copies: bool, passes: int) -> Bound:
    kernel = copy_kernel if copies else read_kernel
    room = nbytes + max(nbytes, THREADS * RESULT_NBYTES)
    return bind(kernel, features, room, x=0, y=nbytes, nbytes=nbytes, passes=passes)
