"""What a depthwise row says it touches is what its kernel touches, honest rows or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product as combinations

import numpy as np
import pytest
from corrupt_rows import check_corrupt_rows
from kernel_trace import TooLong, strays, touched, trace_kernel
from product_cases import Tally

from qrt.gemm.depthwise import KERNELS_BY_SPEC
from qrt.gemm.depthwise_rows import FIELDS
from qrt.gemm.depthwise_table import DEPTHWISE, DEPTHWISE_CODES, DepthwiseSpec, scratch_nbytes
from qrt.gemm.ranges import RECORD_NBYTES
from qrt.gemm.table import CODES
from qrt.ops.pad_pixels import FIELDS as PAD_FIELDS
from qrt.ops.pad_pixels import pad_pixels_kernel

SPECS = [
    pytest.param(spec, id=spec.kernel_name)
    for spec in (*DEPTHWISE, DEPTHWISE_CODES[0], DEPTHWISE_CODES[-1])
]
OPERANDS = ("x", "y", "weights", "columns", "pad", "limits", "scratch")
SIZES = tuple(name for name in FIELDS if name not in OPERANDS)
ANYTHING = (-1, 0, 1, 2, 3, 5, 7, 16, 64, 1000, 2**20, 2**31, 2**32, 2**39, 2**40, 2**62, -(2**63))


def honest_row(rng: np.random.Generator, spec: DepthwiseSpec) -> dict[str, int]:
    """A row as lowering would make it."""

    def some(low: int, high: int) -> int:
        return int(rng.integers(low, high))

    row = {
        **dict.fromkeys(OPERANDS, 0),
        "batch": some(1, 3), "height": some(1, 7), "width": some(1, 7),
        "kernel_h": some(1, 6), "kernel_w": some(1, 6), "stride_h": some(1, 4),
        "stride_w": some(1, 4), "pad_h": some(0, 4), "pad_w": some(0, 4),
        "dilation_h": some(1, 3), "dilation_w": some(1, 3), "max_threads": some(1, 4),
        "channels": some(1, 4) if spec.family == "portable" else some(1, 150),
    }  # fmt: skip
    if rng.random() < 0.3:
        row |= {"kernel_w": 3, "dilation_w": 1, "stride_w": some(1, 3)}
    for size, out, kernel, stride, pad, dilation in (
        ("height", "out_height", "kernel_h", "stride_h", "pad_h", "dilation_h"),
        ("width", "out_width", "kernel_w", "stride_w", "pad_w", "dilation_w"),
    ):
        span = row[size] + row[pad] + some(0, 4) - (row[kernel] - 1) * row[dilation]
        row[out] = max(1, (span - 1) // row[stride] + 1)
    row["limits_step"] = RECORD_NBYTES * (1 if spec.epilogue == CODES else some(0, 2))
    row["scratch_nbytes"] = -(-scratch_nbytes(row, spec) // 64) * 64
    return row


def rows_of(spec: DepthwiseSpec, seed: int, count: int) -> Iterator[tuple[int, dict[str, int]]]:
    """`count` honest rows, cheap enough to trace."""
    while count:
        seed += 1
        row = honest_row(np.random.default_rng(seed), spec)
        if row["batch"] * row["out_height"] * row["out_width"] * row["channels"] < 2_000:
            yield seed, row
            count -= 1


@pytest.mark.parametrize("spec", SPECS)
def test_honest_rows(spec: DepthwiseSpec) -> None:
    """Threads together write each byte of y exactly once; scratch is each thread's own."""
    kernel = KERNELS_BY_SPEC[spec]
    tally = Tally(kernel.name, seed=601)
    for seed, row in rows_of(spec, 601_000, 40):
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
            own |= set(touched(trace, kernel, "scratch"))
            tally.expect((seed, row), not own & used, "two threads use the same scratch")
            used |= own
        outputs = row["batch"] * row["out_height"] * row["out_width"] * row["channels"]
        wrote = range(outputs * spec.itemsize)
        tally.expect((seed, row), writes == Counter(wrote), "y is not written once per byte")
        tally.expect((seed, row), by_name["y"].nbytes == len(wrote), "the extent of y is not tight")
        for name in ("columns", "weights") if spec.family != "portable" else ():
            last = max(max(touched(t, kernel, name), default=-1) for t in traces)
            unread = by_name[name].nbytes - 1 - last
            tally.expect((seed, row), unread == 0, f"{unread} bytes of {name} unread")
    tally.finish()


@pytest.mark.parametrize("spec", SPECS)
def test_corrupt_rows(spec: DepthwiseSpec) -> None:
    """One to three fields replaced by anything: refused, or every touch still inside."""
    kernel = KERNELS_BY_SPEC[spec]
    tally = Tally(kernel.name, seed=602)

    def repair(row: dict[str, int], rng: np.random.Generator) -> None:
        if rng.random() < 0.5:  # give it the scratch it asks for, to get past that check
            row["scratch_nbytes"] = max(0, -(-scratch_nbytes(row, spec) // 64) * 64)

    rows = rows_of(spec, 602_000, 200)
    check_corrupt_rows(kernel, rows, SIZES, ANYTHING, tally, limit=8_000, repair=repair)


def test_misaligned_operands_are_refused() -> None:
    """Generated kernels use aligned instructions on weights and scratch, which fault elsewhere."""
    tally = Tally("extents", seed=603)
    for spec in DEPTHWISE:
        kernel = KERNELS_BY_SPEC[spec]
        row = honest_row(np.random.default_rng(3), spec) | {"max_threads": 2}
        row["scratch_nbytes"] = -(-scratch_nbytes(row, spec) // 64) * 64
        for name, offset in combinations(("weights", "scratch"), (0, 64, 4096)):
            kernel.extents(row | {name: offset})
        if spec.family == "portable":
            continue  # scalar loads need no alignment
        for name, change in combinations(("weights", "scratch", "scratch_nbytes"), (1, 4, 16, 33)):
            try:
                kernel.extents(row | {name: row[name] + change})
                tally.expect((kernel.name, name, change), False, "accepted")
            except ValueError:
                tally.expect((kernel.name, name, change), True, "")
    tally.finish()


def test_sizes_whose_product_passes_int64() -> None:
    """Lines of no pixels are no lines: their number may not pass int64, nor take for ever."""
    tally = Tally("extents", seed=604)
    changes = {
        "lines of no pixels": {"out_width": 0, "batch": 2**39, "out_height": 2**39},
        "images of no lines": {"out_height": 0, "batch": 2**39},
        "many lines of no pixels": {"out_width": 0, "out_height": 2**36},
    }
    for spec, (name, change) in combinations(DEPTHWISE, changes.items()):
        row = honest_row(np.random.default_rng(4), spec) | {"x": 0, "height": 0} | change
        row["scratch_nbytes"] = -(-scratch_nbytes(row, spec) // 64) * 64
        units = row["batch"] * row["out_height"]
        try:
            owned = sum(e.nbytes for e in KERNELS_BY_SPEC[spec].extents(row))
        except ValueError:
            tally.expect((spec.kernel_name, name), True, "")
            continue
        problem = f"{units} lines accepted for {owned} bytes"
        tally.expect((spec.kernel_name, name), units <= owned, problem)
    tally.finish()


def test_pad_pixels() -> None:
    """The same of the kernel that lays out pads: honest rows once per byte, corrupt ones inside."""
    tally = Tally("pad_pixels", seed=605)
    sizes = PAD_FIELDS[3:]
    rng = np.random.default_rng(tally.seed)
    for i in range(400):
        row = dict.fromkeys(PAD_FIELDS[:3], 0) | {name: int(rng.integers(0, 5)) for name in sizes}
        honest = i % 2 == 0
        if not honest:
            for name in rng.choice(sizes, 2, replace=False):
                row[name] = int(rng.choice(np.array(ANYTHING, object)))
        try:
            extents = pad_pixels_kernel.extents(row)
        except ValueError:
            tally.expect(row, not honest, "refused")
            continue
        if any(e.nbytes > 2**24 for e in extents):
            continue
        threads = 1 + i % 3
        writes: Counter[int] = Counter()
        try:
            for thread in range(threads):
                trace = trace_kernel(pad_pixels_kernel, row, thread, threads, limit=8_000)
                found = strays(trace, pad_pixels_kernel, extents)
                tally.expect(row, not found, f"{len(found)} strays, {found[:1]}")
                writes.update(touched(trace, pad_pixels_kernel, "y", writes=True))
        except TooLong:
            owned = sum(e.nbytes for e in extents)
            tally.expect(row, owned >= 1_000, f"more than 8000 steps for {owned} bytes")
            continue
        tally.expect(row, writes == Counter(range(extents[1].nbytes)), "y not once per byte")
    tally.finish()
