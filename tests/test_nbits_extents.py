"""What the rows of few-bit products say they touch is what their kernels touch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from kernel_trace import TooLong, strays, touched, trace_kernel
from product_cases import Tally

from qrt.gemm.extents import LIMIT
from qrt.gemm.nbits_kernel import FIELDS, NBITS_PRODUCTS, ROW_FIELDS, quantize_rows_kernel
from qrt.gemm.nbits_table import NBitsTile
from qrt.jit.declare import Kernel

ROWS = [pytest.param(tile, kernel, id=kernel.name) for tile, kernel in NBITS_PRODUCTS.items()]
OPERANDS = ("x", "x_scales", "x_sums", "y", "panels", "zero_points", "bias")
SIZES = tuple(name for name in FIELDS if name not in OPERANDS)
VALUES = (-1, 0, 1, 2, 3, 5, 7, 16, 64, 1000, 2**20, 2**31, 2**32, 2**39, 2**40, 2**62, -(2**63))


def honest_row(rng: np.random.Generator, tile: NBitsTile) -> dict[str, int]:
    """A row as lowering would make it."""
    portable = tile.family == "portable"
    return {
        **dict.fromkeys(OPERANDS, 0),
        "has_zero_points": int(rng.integers(0, 2)),
        "m": int(rng.integers(1, 4 if portable else 20)),
        "n": int(rng.choice([1, 3, tile.nr + 1] if portable else [1, 3, tile.nr, 3 * tile.nr + 1])),
        "k": int(rng.integers(0, 70)),
        "block": int(rng.choice([16, 32, 64])),
        "at_once": int(rng.choice([1, 2, 99])),
        "max_threads": int(rng.integers(1, 4)),
    }


@pytest.mark.parametrize("tile, kernel", ROWS)
def test_honest_rows(tile: NBitsTile, kernel: Kernel) -> None:
    """Threads together write each byte of y once; touches are inside, panels read in full."""
    tally = Tally(kernel.name, seed=911)
    for seed in range(12):
        rng = np.random.default_rng(911_000 + seed)
        row = honest_row(rng, tile)
        found = kernel.extents(row)
        threads = 1 + seed % 3
        traces = [trace_kernel(kernel, row, t, threads, 2_000_000) for t in range(threads)]
        writes: Counter[int] = Counter()
        for trace in traces:
            astray = strays(trace, kernel, found)
            tally.expect((seed, row), not astray, f"{len(astray)} strays, {astray[:1]}")
            writes.update(touched(trace, kernel, "y", writes=True))
        every = Counter(range(4 * row["m"] * row["n"]))
        tally.expect((seed, row), writes == every, "y is not written once per byte")
        if tile.family != "portable" and row["k"]:
            last = max(max(touched(t, kernel, "panels"), default=-1) for t in traces)
            nbytes = next(e.nbytes for e in found if e.field == "panels")
            tally.expect((seed, row), last == nbytes - 1, f"{nbytes} bytes of panels, {last} read")
    tally.finish()


@pytest.mark.parametrize("tile, kernel", ROWS)
def test_corrupt_rows(tile: NBitsTile, kernel: Kernel) -> None:
    """One to three fields replaced by anything: refused, or every touch still inside."""
    tally = Tally(kernel.name, seed=912)
    for seed in range(60):
        rng = np.random.default_rng(912_000 + seed)
        row = honest_row(rng, tile)
        for name in rng.choice(SIZES, rng.integers(1, 4), replace=False):
            row[name] = int(rng.choice(np.array(VALUES, object)))
        try:
            found = kernel.extents(row)
        except ValueError:
            tally.expect(seed, True, "")
            continue
        if any(e.nbytes > 2**24 for e in found):
            continue  # no arena of a test is that large: verify refuses it
        for thread in range(2):
            try:
                trace = trace_kernel(kernel, row, thread, 2, limit=8_000)
            except TooLong:
                continue
            astray = strays(trace, kernel, found)
            tally.expect((seed, row), not astray, f"{len(astray)} strays, {astray[:1]}")
    tally.finish()


@pytest.mark.parametrize("name", [n for n in SIZES if n != "has_zero_points"])
def test_bad_sizes_are_refused(name: str) -> None:
    tile, kernel = next(iter(NBITS_PRODUCTS.items()))
    row = honest_row(np.random.default_rng(0), tile)
    for value in (-1, -(2**63), LIMIT, 2**62):
        with pytest.raises(ValueError, match=name):
            kernel.extents(row | {name: value})


def test_bad_rows_of_activations_are_refused() -> None:
    row = {**dict.fromkeys(ROW_FIELDS, 0), "m": 3, "k": 40, "block": 16}
    assert [e.nbytes for e in quantize_rows_kernel.extents(row)] == [480, 144, 36, 36]
    for name, value in (("m", 0), ("k", -1), ("k", LIMIT), ("block", 0), ("block", 8)):
        with pytest.raises(ValueError, match=name):
            quantize_rows_kernel.extents(row | {name: value})
