"""What a Winograd row says it touches is what its kernel touches, honest rows or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product as combinations

import numpy as np
import pytest
from corrupt_rows import check_corrupt_rows
from kernel_trace import strays, touched, trace_kernel
from product_cases import Tally

from qrt.gemm.ranges import RECORD_NBYTES
from qrt.gemm.table import EPILOGUES
from qrt.gemm.winograd_kernel import KERNELS_BY_ROW
from qrt.gemm.winograd_rows import FIELDS
from qrt.gemm.winograd_table import WINOGRAD, WinogradSpec

ROWS = [
    pytest.param(spec, epilogue, id=spec.kernel_name(epilogue))
    for spec, epilogue in combinations(WINOGRAD, EPILOGUES)
]
OPERANDS = ("x", "y", "panels", "bias", "columns", "pad", "limits", "scratch")
SIZES = tuple(name for name in FIELDS if name not in OPERANDS)
ANYTHING = (-1, 0, 1, 2, 3, 5, 7, 16, 64, 1000, 2**20, 2**31, 2**32, 2**39, 2**40, 2**62, -(2**63))


def honest_row(rng: np.random.Generator, spec: WinogradSpec) -> dict[str, int]:
    """A row as lowering would make it."""

    def some(low: int, high: int) -> int:
        return int(rng.integers(low, high))

    nr, lanes = spec.tile.nr, spec.tile.lanes
    row = {
        **dict.fromkeys(OPERANDS, 0),
        "batch": some(1, 3), "height": some(1, 10), "width": some(1, 10), "pad_h": some(0, 3),
        "pad_w": some(0, 7), "channels": some(1, 2 * spec.channels + 2),
        "n": int(rng.choice([1, lanes, lanes + 1, nr - 1, nr, nr + 1])),
        "block": some(1, 9), "max_threads": some(1, 4),
    }  # fmt: skip
    row["limits_step"] = RECORD_NBYTES * some(0, 2)
    row["out_height"] = max(1, row["height"] + row["pad_h"] + some(0, 3) - 2)
    row["out_width"] = max(1, row["width"] + row["pad_w"] + some(0, 3) - 2)
    return row


def rows_of(spec: WinogradSpec, seed: int, count: int) -> Iterator[tuple[int, dict[str, int]]]:
    """`count` honest rows, cheap enough to trace."""
    while count:
        seed += 1
        row = honest_row(np.random.default_rng(seed), spec)
        if row["batch"] * row["out_height"] * row["out_width"] < 60:
            yield seed, row
            count -= 1


@pytest.mark.parametrize("spec, epilogue", ROWS)
def test_honest_rows(spec: WinogradSpec, epilogue: str) -> None:
    """Threads together write each byte of y exactly once; scratch is each thread's own; constants
    are read to their ends."""
    kernel = KERNELS_BY_ROW[spec, epilogue]
    tally = Tally(kernel.name, seed=711)
    itemsize = 1 if epilogue == "u8" else 4
    for seed, row in rows_of(spec, 711_000, 12):
        extents = kernel.extents(row)
        by_name = {e.field: e for e in extents}
        threads = 1 + seed % 3
        traces = [trace_kernel(kernel, row, t, threads) for t in range(threads)]
        writes: Counter[int] = Counter()
        used: set[int] = set()
        for trace in traces:
            found = strays(trace, kernel, extents)
            tally.expect((seed, row), not found, f"{len(found)} strays, {found[:1]}")
            writes.update(touched(trace, kernel, "y", writes=True))
            own = set(touched(trace, kernel, "scratch", writes=True))
            unwritten = set(touched(trace, kernel, "scratch")) - own
            tally.expect((seed, row), not unwritten, "scratch is read where nothing was written")
            tally.expect((seed, row), not own & used, "two threads use the same scratch")
            used |= own
        outputs = row["batch"] * row["out_height"] * row["out_width"] * row["n"] * itemsize
        tally.expect((seed, row), writes == Counter(range(outputs)), "y is not written once")
        tally.expect((seed, row), by_name["y"].nbytes == outputs, "the extent of y is not tight")
        for name in ("panels", "bias"):
            last = max(max(touched(t, kernel, name), default=-1) for t in traces)
            unread = by_name[name].nbytes - 1 - last
            tally.expect((seed, row), unread == 0, f"{unread} bytes of {name} unread")
    tally.finish()


@pytest.mark.parametrize("spec, epilogue", ROWS)
def test_corrupt_rows(spec: WinogradSpec, epilogue: str) -> None:
    """One to three fields replaced by anything: refused, or every touch still inside."""
    kernel = KERNELS_BY_ROW[spec, epilogue]
    tally = Tally(kernel.name, seed=712)
    rows = rows_of(spec, 712_000, 80)
    check_corrupt_rows(kernel, rows, SIZES, ANYTHING, tally, limit=20_000)


def test_misaligned_weights_are_refused() -> None:
    """Tiles load weights with aligned instructions, which fault elsewhere."""
    for spec, epilogue in combinations(WINOGRAD, EPILOGUES):
        kernel = KERNELS_BY_ROW[spec, epilogue]
        row = honest_row(np.random.default_rng(3), spec)
        kernel.extents(row | {"panels": ~128})
        for change in (1, 4, 16, 32):
            with pytest.raises(ValueError, match="panels must lie at a multiple of 64"):
                kernel.extents(row | {"panels": ~(128 + change)})
