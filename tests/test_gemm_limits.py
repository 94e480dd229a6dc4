"""The kernels that benches divide by do the work that they claim."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np
import pytest
from kernel_harness import ENTRY
from product_cases import level_of, runnable

from qrt.gemm.limits import (
    DOT_KERNELS,
    FACTOR_NBYTES,
    GRAIN,
    OPERAND_NBYTES,
    RESULT_NBYTES,
    THREADS,
    DotLimit,
    copy_kernel,
    read_kernel,
)
from qrt.gemm.table import FLOAT_TILES, TILES
from qrt.jit.declare import HEADER, Kernel
from qrt.jit.load import kernel_addresses
from qrt.jit.target import target_for
from qrt.program.constants import aligned_bytes
from qrt.simd.features import active_features

LIMITS = [pytest.param(limit, id=limit.family) for limit in DOT_KERNELS]


def entry_of(kernel: Kernel, spec: str = "") -> Any:
    """The kernel as something to call with addresses."""
    target = target_for(active_features(spec))
    return ENTRY(kernel_addresses([kernel], target)[kernel.name])


def run(kernel: Kernel, row: dict[str, int], arena: Any, thread: int = 0, threads: int = 1,
        spec: str = "") -> None:  # fmt: skip
    """One thread's share of one row."""
    slots = np.array([0] * len(HEADER) + [row[name] for name in kernel.fields], np.int64)
    call = entry_of(kernel, spec)
    place = ctypes.c_void_p(arena.ctypes.data)
    assert call(ctypes.c_void_p(slots.ctypes.data), place, place, thread, threads) == 0


def one_step(limit: DotLimit, x: Any) -> Any:
    """What one step adds, summed over the accumulators, per lane; from the bytes of `x` alone."""
    used = limit.lanes * limit.macs_per_lane * np.dtype(limit.types[0]).itemsize
    room = x.reshape(-1, FACTOR_NBYTES)[:, :used]
    factors, weights = room[: limit.factors], room[limit.factors :]
    total = np.zeros(limit.lanes, np.float64 if limit.is_float else np.int64)
    for i in range(limit.accumulators):
        pair = (factors[i % limit.factors], weights[i // limit.factors % limit.weights])
        a, w = (
            v.view(t).astype(total.dtype).reshape(limit.lanes, limit.macs_per_lane)
            for v, t in zip(pair, limit.types, strict=True)
        )
        total += (a * w).sum(1)
    return total


@pytest.mark.parametrize("limit", LIMITS)
def test_dots(limit: DotLimit) -> None:
    """`steps` steps add up to as many dot products, on every thread, in its own place."""
    kernel = DOT_KERNELS[limit]
    if not runnable(limit.features, kernel.name):
        pytest.skip(f"{kernel.name} cannot run here")
    rng = np.random.default_rng(701)
    for steps, thread in ((1, 0), (2, 0), (1001, 1), (7, 2)):
        arena = aligned_bytes(OPERAND_NBYTES + THREADS * RESULT_NBYTES)
        arena[:] = rng.integers(0, 256, arena.size, dtype=np.uint8)
        if limit.is_float:
            small = rng.integers(-8, 9, OPERAND_NBYTES // 4)
            arena[:OPERAND_NBYTES].view(np.float32)[:] = small
        elif limit.lanes == 1:
            arena[:OPERAND_NBYTES].view(np.int32)[:] %= 256  # keeps the test's own sum small
        row = {"x": 0, "y": OPERAND_NBYTES, "steps": steps}
        kernel.extents(row)
        before = arena.copy()
        run(kernel, row, arena, thread, 3, level_of(limit.features))
        at = OPERAND_NBYTES + thread * RESULT_NBYTES
        got = arena[at : at + 4 * limit.lanes]
        want = one_step(limit, before[:OPERAND_NBYTES]) * steps
        if limit.is_float:  # whole numbers that float32 holds
            np.testing.assert_array_equal(got.view(np.float32), want)
        else:
            np.testing.assert_array_equal(got.view(np.uint32), want.astype(np.uint64) % 2**32)
        arena[at : at + RESULT_NBYTES] = before[at : at + RESULT_NBYTES]
        np.testing.assert_array_equal(arena, before, "wrote outside its place")


@pytest.mark.parametrize("limit", LIMITS)
def test_no_step_is_optimised_away(limit: DotLimit) -> None:
    """Ten times the steps take about ten times as long, and a step takes longer than a cycle."""
    kernel = DOT_KERNELS[limit]
    if not runnable(limit.features, kernel.name):
        pytest.skip(f"{kernel.name} cannot run here")
    arena = aligned_bytes(OPERAND_NBYTES + THREADS * RESULT_NBYTES)
    arena[:] = 1
    seconds = {}
    for steps in (20_000, 200_000):
        row = {"x": 0, "y": OPERAND_NBYTES, "steps": steps}
        seconds[steps] = min(_timed(kernel, row, arena, level_of(limit.features)) for _ in range(7))
    assert seconds[200_000] > 4 * seconds[20_000]
    # at most two multiplies a cycle, at 6 GHz at most
    assert seconds[200_000] / 200_000 > limit.accumulators / 2 / 6e9


def _timed(kernel: Kernel, row: dict[str, int], arena: Any, spec: str) -> float:
    start = time.perf_counter()
    run(kernel, row, arena, spec=spec)
    return time.perf_counter() - start


def test_every_family_has_a_limit() -> None:
    """A new family of tiles needs a peak to be measured against."""
    families = {tile.family for tile in (*TILES, *FLOAT_TILES)}
    assert families <= {limit.family for limit in DOT_KERNELS}


@pytest.mark.parametrize("threads", (1, 2, 3))
def test_streams(threads: int) -> None:
    """The copy copies all, the read reads all: the sums of its threads are the sum of the words."""
    rng = np.random.default_rng(702)
    for grains in (0, 1, 2, 5, 64):
        nbytes = grains * GRAIN
        arena = aligned_bytes(nbytes + max(nbytes, THREADS * RESULT_NBYTES) + 256)
        arena[:] = rng.integers(0, 256, arena.size, dtype=np.uint8)
        passes = 1 + grains % 3
        row = {"x": 0, "y": nbytes, "nbytes": nbytes, "passes": passes}
        words = passes * arena[:nbytes].view(np.uint32).reshape(-1, 16).astype(np.uint64).sum(0)
        arena[nbytes : nbytes + threads * RESULT_NBYTES] = 0
        for thread in range(threads):
            run(read_kernel, row, arena, thread, threads)
        sums = arena[nbytes : nbytes + threads * RESULT_NBYTES].view(np.uint32).reshape(-1, 16)
        np.testing.assert_array_equal(
            sums.astype(np.uint64).sum(0) % 2**32, words % 2**32, f"{grains} grains"
        )
        before = arena.copy()
        for thread in range(threads):
            run(copy_kernel, row, arena, thread, threads)
        np.testing.assert_array_equal(arena[nbytes : 2 * nbytes], before[:nbytes])
        np.testing.assert_array_equal(arena[2 * nbytes :], before[2 * nbytes :])


@pytest.mark.parametrize(
    "kernel, row",
    [
        (read_kernel, {"x": 0, "y": 0, "nbytes": -GRAIN, "passes": 1}),
        (copy_kernel, {"x": 0, "y": 0, "nbytes": GRAIN + 1, "passes": 1}),
        (copy_kernel, {"x": 0, "y": 0, "nbytes": GRAIN, "passes": 0}),
        (next(iter(DOT_KERNELS.values())), {"x": 0, "y": 0, "steps": 0}),
        (next(iter(DOT_KERNELS.values())), {"x": 32, "y": 0, "steps": 1}),
    ],
)
def test_bad_rows_are_refused(kernel: Kernel, row: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        kernel.extents(row)
