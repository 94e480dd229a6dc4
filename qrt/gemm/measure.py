"""Time kernels that could run the same row, on scratch memory: once per CPU, then from disk.

Whoever wins, the result has the same bits: what is measured decides about speed only.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from qrt.jit.declare import HEADER, Kernel
from qrt.jit.load import kernel_addresses
from qrt.jit.target import Target, target_for
from qrt.jit.timings import read_timing, timing_key, write_timing

BUDGET = 2_000_000  # ns for all kernels of one row, compiling them aside
TURN = 20_000  # ns of calls at a time: the clock and the call through ctypes vanish in it
MAX_CALLS = 64
ALIGNMENT = 64  # of every operand, as in a program
SLACK = 64  # bytes that kernels may read behind an operand
MAX_NBYTES = 64 << 20  # of scratch memory
_ENTRY = ctypes.CFUNCTYPE(
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
)


class Bound(NamedTuple):
    """A native call, and the arrays that it works on."""

    enter: Callable[[], int]
    keep: object


def measured(
    kernels: Sequence[Kernel], row: Mapping[str, int], features: frozenset[str]
) -> dict[str, int] | None:
    """Nanoseconds of `row` by kernel name, on one thread; None where its operands are too large.

    `row` holds every field but the operands, which are laid out by each kernel's extents. Compiles
    what is not compiled yet.
    """
    target = target_for(features)
    key = timing_key(kernels, target, row)
    found = read_timing(key, [k.name for k in kernels])
    if found is None:
        found = _measure(kernels, row, target)
        if found is not None:
            write_timing(key, found)
    return found


def _measure(
    kernels: Sequence[Kernel], row: Mapping[str, int], target: Target
) -> dict[str, int] | None:
    addresses = kernel_addresses(kernels, target)
    calls: dict[str, Bound] = {}
    for kernel in kernels:
        call = _bound(kernel, addresses[kernel.name], row)
        if call is None:
            return None
        calls[kernel.name] = call
    clock = time.perf_counter_ns
    start = clock()
    best: dict[str, int] = {}
    counts = dict.fromkeys(calls, 1)
    first = True
    # in turns, so that whatever else the machine does hits all alike; two at least
    while first or clock() - start < BUDGET:
        for name, (enter, _) in calls.items():
            enter()
            begin = clock()
            for _ in range(counts[name]):
                enter()
            each = max(1, (clock() - begin) // counts[name])
            counts[name] = min(MAX_CALLS, max(counts[name], TURN // each))
            best[name] = min(best.get(name, each), each)
        first = False
    return best


def _bound(kernel: Kernel, address: int, row: Mapping[str, int]) -> Bound | None:
    """A call of the kernel on a row whose operands lie one after the other in memory of its own."""
    fields = dict.fromkeys(kernel.fields, 0) | dict(row)
    at = 0
    for name, nbytes in _operands(kernel, fields).items():
        fields[name] = at
        at += -(-(nbytes + SLACK) // ALIGNMENT) * ALIGNMENT
    if at > MAX_NBYTES:
        return None
    memory = np.full(at + ALIGNMENT, 1, np.uint8)  # written, or every page were the same one
    arena = memory.ctypes.data + -memory.ctypes.data % ALIGNMENT
    slots = np.array([0] * len(HEADER) + [fields[name] for name in kernel.fields], np.int64)
    call = partial(
        _ENTRY(address),
        ctypes.c_void_p(slots.ctypes.data),
        ctypes.c_void_p(arena),
        ctypes.c_void_p(arena),
        ctypes.c_int64(0),
        ctypes.c_int64(1),
    )
    return Bound(call, (slots, memory))


def _operands(kernel: Kernel, row: Mapping[str, int]) -> dict[str, int]:
    """Bytes of each operand."""
    needed: dict[str, int] = {}
    for extent in kernel.extents(row):
        needed[extent.field] = max(needed.get(extent.field, 0), extent.start + extent.nbytes)
    return needed
