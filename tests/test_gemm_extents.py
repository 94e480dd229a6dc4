"""What a product's row says it touches is what its kernel touches, for honest rows and for others.

The kernels' own source runs in Python here (`kernel_trace`), so nothing is proved about a copy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product as combinations
from typing import Any

import numpy as np
import pytest
from corrupt_rows import check_corrupt_rows
from kernel_trace import SLACK, strays, touched, trace_kernel
from product_cases import ProductBench, Tally, conv_node, draw_numbers, forced, tile_rows

from qrt.gemm.driver import FIELDS, FLOAT_PRODUCTS, PRODUCTS
from qrt.gemm.extents import LIMIT, check_geometry, input_nbytes
from qrt.gemm.order import NARROW
from qrt.gemm.ranges import RECORD_NBYTES
from qrt.gemm.row_sums import pixel_sums_kernel, window_sums_kernel
from qrt.gemm.table import CODES, TILES, TileSpec
from qrt.jit.declare import Kernel
from qrt.ops import conv

# kernels of the row sums, and the sizes of what they write
SUMS = {
    pixel_sums_kernel.name: ("groups", "batch", "height", "width"),
    window_sums_kernel.name: ("groups", "batch", "out_height", "out_width"),
}
KERNELS = [
    pytest.param(kernel, id=kernel.name)
    for kernel in (
        *(PRODUCTS[row] for row in tile_rows()),
        *(PRODUCTS[tile, CODES] for tile in (TILES[0], TILES[-1])),  # one generated, one not
        *FLOAT_PRODUCTS.values(),
        pixel_sums_kernel,
        window_sums_kernel,
    )
]
OPERANDS = ("x", "y", "panels", "columns", "sums", "pad", "limits", "rows")
ROWS = [pytest.param(*row, id=row[0].kernel_name(row[1])) for row in tile_rows()]
SIZES = tuple(name for name in FIELDS if name not in OPERANDS)


def honest_row(rng: np.random.Generator, tile: TileSpec | None) -> dict[str, int]:
    """A row as lowering would make it, of a small convolution over whole images."""
    itemsize = int(rng.choice([1, 4]))
    nr = 16 if tile is None else tile.nr

    def some(low: int, high: int) -> int:
        return int(rng.integers(low, high))

    groups, cg = some(1, 3), some(1, 10)
    row = {
        **dict.fromkeys(OPERANDS, 0),
        "has_sums": some(0, 2), "batch": some(1, 3), "height": some(1, 6), "width": some(1, 6),
        "kernel_h": some(1, 4), "kernel_w": some(1, 4), "stride_h": some(1, 4),
        "stride_w": some(1, 4), "pad_h": some(0, 4), "pad_w": some(0, 4),
        "dilation_h": some(1, 3), "dilation_w": some(1, 3), "channels": cg,
        "n": int(rng.choice([1, 3, nr - 1, nr, nr + 1])), "groups": groups,
        "block": int(rng.choice([1, 2, 99])), "run": int(rng.choice([1, 2, 99])),
        "max_threads": some(1, 4),
    }  # fmt: skip
    for size, out, kernel, stride, pad, dilation in (
        ("height", "out_height", "kernel_h", "stride_h", "pad_h", "dilation_h"),
        ("width", "out_width", "kernel_w", "stride_w", "pad_w", "dilation_w"),
    ):
        after = some(0, 4)
        span = row[size] + row[pad] + after - (row[kernel] - 1) * row[dilation]
        row[out] = max(1, (span - 1) // row[stride] + 1)
    row["limits_step"] = RECORD_NBYTES * some(0, 2)
    c = cg * groups
    row |= {"x_pixel": c, "x_row": c * row["width"], "x_image": c * row["width"] * row["height"]}
    row |= {"x_group": cg, "y_pixel": row["n"] * groups * itemsize, "y_group": row["n"] * itemsize}
    return row


def dense_row(rng: np.random.Generator, tile: TileSpec | None) -> dict[str, int]:
    """A row of a matrix product: one image of m pixels, one tap."""
    row = honest_row(rng, tile)
    m = int(rng.integers(1, 40))
    row |= dict.fromkeys(("kernel_h", "kernel_w", "stride_h", "stride_w", "batch", "groups"), 1)
    row |= {"height": 1, "out_height": 1, "width": m, "out_width": m, "pad_h": 0, "pad_w": 0}
    row |= {"x_pixel": row["channels"], "x_row": 0, "x_image": 0, "x_group": 0}
    row |= {"y_pixel": row["y_group"]}
    return row


def itemsize_of(kernel: Kernel) -> int:
    """Bytes of one output of the kernel."""
    return 1 if kernel.name.endswith(NARROW) else 4


def fixed_output(kernel: Kernel, row: dict[str, int]) -> dict[str, int]:
    """The same row with output steps of the kernel's own item size."""
    size = row["n"] * itemsize_of(kernel)
    limits = {} if not kernel.name.endswith(CODES) else {"limits_step": RECORD_NBYTES}
    return row | {"y_pixel": size * row["groups"], "y_group": size} | limits


def work(row: Mapping[str, int], kernel: Kernel) -> int:
    """Steps a trace may take, about."""
    m = row["batch"] * row["out_height"] * row["out_width"]
    taps = row["kernel_h"] * row["kernel_w"]
    n = row["n"] if "portable" in kernel.name else -(-row["n"] // 16)
    return (
        m * row["groups"] * (taps * (row["channels"] if "portable" in kernel.name else 1) * n + n)
    )


def rows_of(kernel: Kernel, seed: int, count: int) -> Iterator[tuple[int, dict[str, int]]]:
    """`count` honest rows for `kernel`, cheap enough to trace."""
    rows = [*((t, k) for (t, _), k in PRODUCTS.items()), *FLOAT_PRODUCTS.items()]
    tile = next((t for t, k in rows if k is kernel), None)
    i = seed
    while count:
        i += 1
        rng = np.random.default_rng(i)
        row = fixed_output(kernel, (dense_row if i % 3 == 0 else honest_row)(rng, tile))
        if work(row, kernel) < 5_000:
            yield i, row
            count -= 1


# geometries whose last tile ends inside a line of the image, so that its spare rows have somewhere
# to point; many channels, so that no slack hides a pixel too many
OVERRUNS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "pixels behind the last window": ((1, 70, 4, 10), (3, 70, 1, 2), {"strides": (1, 3)}),
    "lines behind the last window": ((1, 70, 10, 4), (3, 70, 2, 1), {"strides": (3, 1)}),
    "stride, pointwise": ((2, 70, 5, 8), (3, 70, 1, 1), {"strides": (1, 5)}),
    "all windows in the left pads": ((1, 70, 2, 9), (3, 70, 1, 1), {"pads": (0, 4, 0, 0),
                                                                    "strides": (1, 9)}),
    "runs of a wide kernel row": ((1, 16, 1, 30), (3, 16, 1, 15), {}),
    "runs of a wide kernel row, pads": ((1, 16, 3, 22), (3, 16, 2, 15), {"pads": (1, 3, 0, 2)}),
    "groups": ((1, 140, 4, 10), (6, 70, 1, 2), {"group": 2, "strides": (1, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_lowered_rows(tile: TileSpec, epilogue: str) -> None:
    """Rows as `qrt.Conv` lowers them: touches inside extents, extents inside the tensors."""
    name = tile.kernel_name(epilogue)
    tally = Tally(name, seed=507)
    rng = np.random.default_rng(tally.seed)
    for (label, (x_shape, w_shape, geometry)), zero_points in combinations(
        OVERRUNS.items(), (False, True)
    ):
        w = rng.integers(-128, 128, w_shape, dtype=np.int8)
        numbers = draw_numbers(rng, w_shape[0], w[0].size, epilogue, weight_zero_points=zero_points)
        node = conv_node(x_shape, w, numbers, **geometry)
        bench = ProductBench(frozenset(tile.features), 2)
        with forced(tile):
            conv.lower(node, bench)
        bench.check_extents()
        for kernel, row in bench.rows:
            for thread in range(2):
                trace = trace_kernel(kernel, row, thread, 2)
                found = strays(trace, kernel, kernel.extents(row))
                tally.expect((label, kernel.name), not found, f"{len(found)} strays, {found[:1]}")
    tally.finish()


def reached(row: Mapping[str, int]) -> int:
    """Bytes of x up to the last that a tap inside the image reads, by walking every tap."""
    last = 0
    for image, oy, ky, ox, kx in combinations(
        *(range(row[n]) for n in ("batch", "out_height", "kernel_h", "out_width", "kernel_w"))
    ):
        iy = oy * row["stride_h"] - row["pad_h"] + ky * row["dilation_h"]
        ix = ox * row["stride_w"] - row["pad_w"] + kx * row["dilation_w"]
        if 0 <= iy < row["height"] and 0 <= ix < row["width"]:
            at = image * row["x_image"] + iy * row["x_row"] + ix * row["x_pixel"]
            last = max(last, at + (row["groups"] - 1) * row["x_group"] + row["channels"])
    return last


@pytest.mark.parametrize("kernel", KERNELS)
def test_honest_rows(kernel: Kernel) -> None:
    """Threads together write each byte of y once; every touch is inside, every extent is used."""
    tally = Tally(kernel.name, seed=501)
    for seed, row in rows_of(kernel, 501_000, 25):
        extents = kernel.extents(row)
        threads = 1 + seed % 3
        traces = [trace_kernel(kernel, row, t, threads) for t in range(threads)]
        for trace in traces:
            found = strays(trace, kernel, extents)
            tally.expect((seed, row), not found, f"{len(found)} strays, {found[:1]}")
        by_name = {e.field: e for e in extents}
        m = row["batch"] * row["out_height"] * row["out_width"]
        writes: Counter[int] = Counter()
        for trace in traces:
            writes.update(touched(trace, kernel, "y", writes=True))
        wrote = range(m * row["y_pixel"])
        if kernel.name in SUMS:
            wrote = range(4 * math.prod(row[name] for name in SUMS[kernel.name]))
        tally.expect((seed, row), writes == Counter(wrote), "y is not written once per byte")
        tally.expect((seed, row), by_name["y"].nbytes == len(wrote), "the extent of y is not tight")
        if kernel.name not in SUMS:
            for name in ("panels", "columns"):
                last = max(max(touched(t, kernel, name), default=-1) for t in traces)
                unread = by_name[name].nbytes - 1 - last
                # columns end with the float bias, and with -w_zero_point before, where not needed
                # (sums need not even the multiplier);
                # the portable tile reads no column behind the last (here: of 16, 4 bytes each)
                quarters = 3 if kernel.name.endswith("_sums") else 2
                allowed = by_name[name].nbytes * quarters // 4 if name == "columns" else 0
                allowed += 64 if "portable" in kernel.name else 0
                tally.expect(
                    (seed, row), 0 <= unread <= allowed, f"{unread} bytes of {name} unread"
                )
        x_last = reached(row)
        nbytes = input_nbytes(row)
        tally.expect((seed, row), x_last <= nbytes, f"x extent {nbytes} < {x_last} reached")
        covers = all(row[f"stride_{a}"] <= row[f"dilation_{a}"] == 1 for a in "hw")
        tally.expect(
            (seed, row), x_last == nbytes or not covers, f"x extent {nbytes}, {x_last} used"
        )
    tally.finish()


ANYTHING = (
    -1, 0, 1, 2, 3, 5, 7, 16, 64, 1000, 2**20, 2**31, 2**32, 2**39, 2**40, 2**62, -(2**63),
)  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_corrupt_rows(kernel: Kernel) -> None:
    """One to three fields replaced by anything: refused, or every touch still inside."""
    tally = Tally(kernel.name, seed=502)
    rows = rows_of(kernel, 502_000, 150)
    check_corrupt_rows(kernel, rows, SIZES, ANYTHING, tally, limit=8_000)


def overflowing_rows() -> list[tuple[str, dict[str, int]]]:
    """Rows whose numbers are each allowed but multiply past int64."""
    row = honest_row(np.random.default_rng(0), None)
    row |= {"has_sums": 0, "max_threads": 2, "kernel_h": 1, "kernel_w": 1, "groups": 1}
    row |= {"height": 4, "width": 4, "channels": 4, "x_pixel": 4, "x_row": 16, "x_image": 64}
    row |= {"y_pixel": 0, "y_group": 0, "n": 1}
    pixels = 3 << 62  # -2**62 as int64: with batch 3, m is 2**62 and image 0 - 1 is -1
    return [
        (
            "batch * out_height * out_width wraps and images turn negative",
            row
            | {"batch": 3, "out_height": 3 << 31, "out_width": pixels // (3 << 31)}
            | {"kernel_h": 2, "dilation_h": 1 << 31, "dilation_w": 1, "kernel_w": 2},
        ),
        ("m is 2**64", row | {"batch": 1 << 24, "out_height": 1 << 20, "out_width": 1 << 20}),
        ("m is 2**80, no columns", row | {"n": 0, "batch": 1, "out_height": LIMIT - 1,
                                          "out_width": LIMIT - 1}),
        ("x rows wrap", row | {"batch": 1, "out_height": 2, "out_width": 2, "x_row": LIMIT - 1,
                               "height": LIMIT - 1, "stride_h": LIMIT - 1}),
    ]  # fmt: skip


def test_sizes_whose_product_passes_int64() -> None:
    """The kernel computes in int64, `extents` in unbounded integers: they must not part."""
    tally = Tally("extents", seed=503)
    for kernel, (name, row) in combinations(PRODUCTS.values(), overflowing_rows()):
        m = row["batch"] * row["out_height"] * row["out_width"]
        try:
            extents = kernel.extents(row)
        except ValueError:
            tally.expect(name, True, "")
            continue
        large = any(e.nbytes > 2**40 for e in extents)
        tally.expect(
            (kernel.name, name),
            large or m < 2**63,
            f"accepted m = {m}, for {sum(e.nbytes for e in extents)} bytes",
        )
    tally.finish()


def test_a_small_program_does_not_run_for_ever() -> None:
    """Steps are bounded by the bytes a row owns: a file of a few bytes must not hang a process.

    Outputs that overlap (steps of zero) or groups of nothing would allow any number of them.
    """
    tally = Tally("extents", seed=504)
    many = 2**36
    changes = {
        "outputs on top of each other": {"y_pixel": 0, "x_pixel": 0, "out_width": many},
        "groups on top of each other": {"y_group": 0, "x_group": 0, "groups": many, "n": 0},
        "groups of no columns": {"n": 0, "groups": many},
        "images on top of each other": {"y_pixel": 0, "x_image": 0, "batch": many},
    }
    for kernel, (name, change) in combinations(PRODUCTS.values(), changes.items()):
        base = honest_row(np.random.default_rng(1), None)
        base |= dict.fromkeys(("max_threads", "kernel_h", "kernel_w", "batch", "groups"), 1)
        row = base | {"has_sums": 0} | change
        try:
            owned = sum(e.nbytes for e in kernel.extents(row))
        except ValueError:
            tally.expect(name, True, "")
            continue
        problem = f"{many} steps accepted for {owned} bytes"
        tally.expect((kernel.name, name), owned >= many, problem)
    tally.finish()


@pytest.mark.parametrize("name", SIZES)
def test_negative_sizes_are_refused(name: str) -> None:
    """No size is negative, and none reaches the limit that keeps products inside int64."""
    row = honest_row(np.random.default_rng(2), None)
    if name in ("has_sums", "limits_step"):
        return  # a flag: any value but zero means yes; a step that only `limits_extent` knows
    for value in (-1, -(2**63), LIMIT, 2**62):
        with pytest.raises(ValueError, match=name):
            check_geometry(row | {name: value})


def test_misaligned_panels_are_refused() -> None:
    """Generated tiles load weights with aligned instructions, which fault on any other address."""
    tally = Tally("extents", seed=506)
    for (tile, _), kernel in PRODUCTS.items():
        row = fixed_output(kernel, honest_row(np.random.default_rng(3), tile))
        for offset in (0, 64, 4096):
            kernel.extents(row | {"panels": offset})
            kernel.extents(row | {"panels": ~offset})
        if tile.family == "portable":
            continue  # scalar loads need no alignment
        for offset, constant in combinations((1, 4, 16, 32, 63, 65), (False, True)):
            try:
                kernel.extents(row | {"panels": ~offset if constant else offset})
                tally.expect((kernel.name, offset, constant), False, "misaligned panels accepted")
            except ValueError:
                tally.expect((kernel.name, offset, constant), True, "")
    tally.finish()


def test_reads_stay_within_the_slack() -> None:
    """A tile reads whole groups of 4 bytes: at most 3 behind the last channel, of 64 allowed."""
    tile, epilogue = tile_rows()[0]
    kernel = PRODUCTS[tile, epilogue]
    for seed, row in rows_of(kernel, 505_000, 10):
        by_name: dict[str, Any] = {e.field: e for e in kernel.extents(row)}
        trace = trace_kernel(kernel, row, 0, 1)
        for name in ("x", "pad"):
            last = max(touched(trace, kernel, name), default=0)
            assert last < by_name[name].nbytes + 3 <= by_name[name].nbytes + SLACK, (seed, row)
