"""The kernels that benches divide by do the work that they claim."""

from __future__ import annotations

from typing import Any

import kernel_harness
import numpy as np
import pytest
from cross import assembly, empty_module
from product_cases import level_of, level_or_skip

from qrt.gemm.limits import (
    DOT_KERNELS,
    FACTOR_NBYTES,
    GRAIN,
    OPERAND_NBYTES,
    RESULT_NBYTES,
    THREADS,
    DotLimit,
    build_dot_loop,
    copy_kernel,
    read_kernel,
)
from qrt.gemm.table import FLOAT_TILES, TILES
from qrt.jit.assembly import count, inner_loop
from qrt.jit.declare import HEADER, Kernel
from qrt.jit.target import FEATURES
from qrt.program.constants import aligned_bytes
from qrt.simd.features import LEVELS, active_features

LIMITS = [pytest.param(limit, id=limit.family) for limit in DOT_KERNELS]


def run(kernel: Kernel, row: dict[str, int], arena: Any, thread: int = 0, threads: int = 1,
        spec: str = "") -> None:  # fmt: skip
    """One thread's share of one row."""
    slots = np.array([0] * len(HEADER) + [row[name] for name in kernel.fields], np.int64)
    calls = [(kernel, slots, thread, threads)]
    kernel_harness.run_calls(active_features(spec), calls, arena, arena)


def one_step(limit: DotLimit, x: Any) -> Any:
    """What one step adds, summed over the accumulators, per lane; from the bytes of `x` alone."""
    used = limit.lanes * limit.macs_per_lane * np.dtype(limit.types[0]).itemsize
    room = x.reshape(-1, FACTOR_NBYTES)[:, :used]
    factors, weights = room[: limit.factors], room[limit.factors :]
    total = np.zeros(limit.lanes, np.float64 if limit.is_float else np.int64)
    for i in range(limit.accumulators):
        pair = (factors[i % limit.factors], weights[i // limit.factors % limit.weights])
        a, w = (
            v.view(t).astype(total.dtype) for v, t in zip(pair, limit.types, strict=True)
        )
        if limit.pairs:
            gained, lost = (a * w).reshape(2, limit.lanes, 2).sum(2)
            total += gained - lost
        else:
            total += (a * w).reshape(limit.lanes, limit.macs_per_lane).sum(1)
    return total


@pytest.mark.parametrize("limit", LIMITS)
def test_dots(limit: DotLimit) -> None:
    """`steps` steps add up to as many dot products, on every thread, in its own place."""
    kernel = DOT_KERNELS[limit]
    level_or_skip(limit.features, kernel.name)
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


# instructions that make a product in each family's loop
PRODUCTS = {
    **dict.fromkeys(("vnni512", "vnni256", "vnni256vl"), r"(\{\w+\}\s+)?vpdpbusd"),
    **dict.fromkeys(("madd512", "madd256", "madd128"), "v?pmaddwd"),
    "i8mm": "usdot",
    "dotprod": "sdot",
    "neon": "smull",
    "portable": r"imull|mul|madd",
    **dict.fromkeys(("fma512", "fma256"), r"vfmadd\w+"),
    "fmla": "fmla",
    "emulated": r"v?mul[ps][ds]|fmul",
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("arch", LEVELS)
def test_no_step_is_optimised_away(limit: DotLimit, arch: str) -> None:
    """The loop makes every accumulator's product in every turn; so says its assembly."""
    if not set(limit.features) <= set(FEATURES[arch]):
        pytest.skip(f"{limit.family} is not of {arch}")
    module = empty_module(arch)
    build_dot_loop(module, "dots", limit, arch)
    features = next(has for has in LEVELS[arch].values() if set(limit.features) <= set(has))
    text = assembly(module, features)
    product = rf"\s({PRODUCTS[limit.family]})\s"
    halves = 2 if limit.family == "emulated" else 1  # float64 products of float32
    assert count(inner_loop(text, product), product) == limit.accumulators * halves, text


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
