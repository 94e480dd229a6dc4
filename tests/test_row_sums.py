"""What weights with a zero point subtract: the sums of windows, against gathered bytes."""

from __future__ import annotations

from itertools import product as combinations

import numpy as np
import pytest
from kernel_harness import Bench, feature_levels, run_rows
from kernel_trace import strays, trace_kernel
from product_cases import Array, Tally

from qrt.ops.row_sums import lower_row_sums
from qrt.program.constants import aligned_bytes
from qrt.program.places import SLACK
from qrt.simd.features import active_features

# (size, kernel, stride, dilation, pads before, outputs) of an axis: pointwise, with steps, with
# pads, windows that see nothing but pads, that overlap, that leave pixels out, longer than a vector
AXES = (
    (7, 1, 1, 1, 0, 7), (9, 1, 4, 1, 0, 3), (5, 1, 1, 1, 2, 9), (4, 1, 3, 1, 0, 3),
    (6, 3, 1, 1, 1, 6), (37, 3, 1, 1, 1, 37), (20, 3, 2, 1, 1, 10), (9, 2, 5, 1, 0, 2),
    (11, 3, 1, 3, 3, 11), (3, 5, 1, 1, 4, 7), (2, 2, 4, 1, 4, 3), (1, 7, 1, 2, 12, 13),
    (0, 2, 1, 1, 1, 1),
)  # fmt: skip
CHANNELS = (1, 3, 15, 16, 17, 31, 64, 83, 150)


def fields_of(h: tuple[int, ...], w: tuple[int, ...], channels: int, groups: int) -> dict[str, int]:
    """The driver's fields of two images, channels last, whose groups lie side by side."""
    row = {"batch": 2, "channels": channels, "groups": groups, "max_threads": 3}
    names = ("{}", "kernel_{}", "stride_{}", "dilation_{}", "pad_{}", "out_{}")
    for sizes, long, short in ((h, "height", "h"), (w, "width", "w")):
        for name, value in zip(names, sizes, strict=True):
            row[name.format(long if name in ("{}", "out_{}") else short)] = value
    c = channels * groups
    row |= {"x_pixel": c, "x_row": c * row["width"], "x_image": c * row["width"] * row["height"]}
    return row | {"x_group": channels}


def gathered(row: dict[str, int], x: Array, zero_point: int) -> Array:
    """The sums, int64 (groups, batch, out_height, out_width), of x (N, h, w, groups, C)."""
    pixels = x.astype(np.int64).sum(-1)
    y = np.zeros((row["groups"], row["batch"], row["out_height"], row["out_width"]), np.int64)
    for oy, ox, ky, kx in np.ndindex(*y.shape[2:], row["kernel_h"], row["kernel_w"]):
        iy = oy * row["stride_h"] - row["pad_h"] + ky * row["dilation_h"]
        ix = ox * row["stride_w"] - row["pad_w"] + kx * row["dilation_w"]
        inside = 0 <= iy < row["height"] and 0 <= ix < row["width"]
        y[:, :, oy, ox] += pixels[:, iy, ix].T if inside else zero_point * row["channels"]
    return y


@pytest.mark.parametrize("features", feature_levels())
def test_sums_of_windows(features: str) -> None:
    """Every kind of axis by every other, any number of channels and groups, three threads."""
    tally = Tally("row sums", seed=611)
    rng = np.random.default_rng(tally.seed)
    for h, w in combinations(AXES, AXES):
        channels, groups = int(rng.choice(CHANNELS)), int(rng.choice([1, 1, 3]))
        row = fields_of(h, w, channels, groups)
        x = rng.integers(0, 256, (2, h[0], w[0], groups, channels)).astype(np.uint8)
        if channels == CHANNELS[-1]:
            x[:] = 255
        zero_point = int(rng.choice([0, 7, 255]))
        bench = Bench(active_features(features), 3)
        source = bench.scratch(x.size)
        bench.scratches.clear()
        pad = bench.constant(np.full(channels + 4, zero_point, np.uint8))
        sums = lower_row_sums(bench, row, source, pad)
        bench.check_extents()
        arena = aligned_bytes(bench.arena_nbytes)
        arena[:] = rng.integers(0, 256, arena.size, dtype=np.uint8)
        arena[source.offset : source.offset + x.size] = x.reshape(-1)
        constants = aligned_bytes(len(bench.constants) + SLACK)
        constants[:] = 255
        constants[: len(bench.constants)] = np.frombuffer(bench.constants, np.uint8)
        before = arena.copy()
        run_rows(bench, arena, constants, 3)
        outside = np.ones(arena.size, bool)
        for start, stop in bench.spans[1:]:
            outside[start:stop] = False
        want = gathered(row, x, zero_point).astype(np.int32)
        got = arena[sums.offset : sums.offset + want.nbytes].view(np.int32).reshape(want.shape)
        case = (h, w, channels, groups, zero_point)
        tally.compare(case, got, want, [kernel.name for kernel, _ in bench.rows])
        tally.expect(case, np.array_equal(arena[outside], before[outside]), "wrote outside")
    assert tally.kernels == {"gemm_pixel_sums", "gemm_window_sums"}
    tally.finish()


def test_sums_stay_inside() -> None:
    """Rows as they are lowered touch nothing outside their extents, and write each byte once."""
    tally = Tally("row sums", seed=612)
    for h, w in combinations(AXES, AXES):
        bench = Bench(active_features("portable"), 2)
        row = fields_of(h, w, 18, 2)
        source = bench.scratch(2 * h[0] * w[0] * 36)
        lower_row_sums(bench, row, source, bench.constant(np.zeros(22, np.uint8)))
        for kernel, made in bench.rows:
            last = max(e.nbytes for e in kernel.extents(made) if e.field == "x")
            tally.expect((h, w), kernel.name != "gemm_pixel_sums" or last <= 2 * h[0] * w[0] * 36,
                         f"{kernel.name} reads {last} bytes of x")  # fmt: skip
            for thread in range(2):
                found = strays(trace_kernel(kernel, made, thread, 2), kernel, kernel.extents(made))
                tally.expect((h, w), not found, f"{kernel.name}: {found[:1]}")
    tally.finish()
