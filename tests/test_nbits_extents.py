"""What the rows of few-bit products and of unpacking say they touch is what kernels touch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from kernel_trace import TooLong, strays, touched, trace_kernel
from product_cases import Tally

from qrt.gemm.extents import LIMIT
from qrt.gemm.nbits_kernel import FIELDS, NBITS_PRODUCTS, ROW_FIELDS, quantize_rows_kernel
from qrt.gemm.nbits_table import NBitsTile
from qrt.gemm.unpack import unpack_kernel
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


UNPACK_OPERANDS = ("codes", "scales", "zeros", "panels", "work")
UNPACK_SIZES = tuple(name for name in unpack_kernel.fields if name not in UNPACK_OPERANDS)


def honest_unpacking(rng: np.random.Generator) -> dict[str, int]:
    """A row as lowering would make it, of codes with scales beside them."""
    bits, taps, span = (int(rng.choice(v)) for v in ((2, 4, 8, 16), (1, 3), (5, 16, 19)))
    n, splat = int(rng.choice([1, 16, 21, 40])), int(rng.choice([0, 1, 2]))
    nr = int(rng.choice([8, 16, 32]))
    block = int(rng.choice([1, 4, span]))
    slabs, rows = -(-n // 16), -(-span // block)
    panel = -(-taps * span * bits // 32) * 64
    row = -(-slabs // splat) * 4 if splat else 64
    steps = {"group": taps * rows * row * (1 if splat else slabs), "row": row,
             "panel": 0 if splat else taps * rows * row}  # fmt: skip
    return {
        **dict.fromkeys(UNPACK_OPERANDS, 0), "groups": int(rng.integers(1, 3)), "taps": taps,
        "span": span, "n": n, "padded": -(-n // nr) * nr, "nr": nr, "bits": bits,
        "mantissa": bits // 3 if bits in (4, 8) and rng.random() < 0.5 else 0, "bias": 7,
        "block": block, "tap_rows": rows, "splat": splat, "per_panel": 1,
        "code_group": slabs * panel, "code_panel": panel, "code_step": 64, "code_gap": 0,
        "has_zeros": int(rng.integers(0, 2)), "usual": 0, "max_threads": 2,
        **{f"{of}_{step}": by for of in ("scale", "zero") for step, by in steps.items()},
    }  # fmt: skip


def test_unpacking_touches_what_it_says() -> None:
    """Honest rows write every panel in full, each byte by one thread, and read codes to the end."""
    tally = Tally(unpack_kernel.name, seed=913)
    for seed in range(30):
        rng = np.random.default_rng(913_000 + seed)
        row = honest_unpacking(rng)
        found = unpack_kernel.extents(row)
        traces = [trace_kernel(unpack_kernel, row, t, 2, 2_000_000) for t in range(2)]
        written: Counter[int] = Counter()
        for trace in traces:
            astray = strays(trace, unpack_kernel, found)
            tally.expect((seed, row), not astray, f"{len(astray)} strays, {astray[:1]}")
            written.update(touched(trace, unpack_kernel, "panels", writes=True))
        for name in ("codes", "scales", "panels"):
            last = max(
                max(touched(t, unpack_kernel, name, writes=name == "panels"), default=-1)
                for t in traces
            )
            nbytes = next(e.nbytes for e in found if e.field == name)
            tally.expect((seed, row), last == nbytes - 1, f"{name}: {nbytes} bytes, {last}")
        tally.expect((seed, row), set(written.values()) == {1}, "written more than once")
    tally.finish()


def test_corrupt_unpacking() -> None:
    """One to three fields replaced by anything: refused, or every touch still inside."""
    tally = Tally(unpack_kernel.name, seed=914)
    for seed in range(120):
        rng = np.random.default_rng(914_000 + seed)
        row = honest_unpacking(rng)
        for name in rng.choice(UNPACK_SIZES, rng.integers(1, 4), replace=False):
            row[name] = int(rng.choice(np.array(VALUES, object)))
        try:
            found = unpack_kernel.extents(row)
        except ValueError:
            tally.expect(seed, True, "")
            continue
        if any(e.nbytes > 2**24 for e in found):
            continue
        for thread in range(2):
            try:
                trace = trace_kernel(unpack_kernel, row, thread, 2, limit=8_000)
            except TooLong:
                continue
            astray = strays(trace, unpack_kernel, found)
            tally.expect((seed, row), not astray, f"{len(astray)} strays, {astray[:1]}")
    tally.finish()
