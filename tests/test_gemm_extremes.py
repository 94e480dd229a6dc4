"""Products at the ends of their ranges: sums near int32, rounding, multipliers, narrow outputs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product as combinations

import numpy as np
import pytest
from product_cases import (
    Array,
    Numbers,
    Tally,
    draw_numbers,
    forced,
    level_of,
    level_or_skip,
    matmul_node,
    matmul_sums,
    run,
    tile_rows,
)

from qrt.errors import UnsupportedError
from qrt.gemm.table import TileSpec
from qrt.ops import matmul

ROWS = [pytest.param(*row, id=row[0].kernel_name(row[1])) for row in tile_rows()]
U8_ROWS = [p for p, (_, epilogue) in zip(ROWS, tile_rows(), strict=True) if epilogue == "u8"]
F32_ROWS = [p for p in ROWS if p not in U8_ROWS]
BIAS_ENDS = (-(2**31) + 2**28, 2**31 - 2**28)  # room for a sum, and none for int16 or float32


def skip_unless_runnable(tile: TileSpec, epilogue: str) -> str:
    """Name of the row's kernel; skips the test where it cannot run."""
    name = tile.kernel_name(epilogue)
    level_or_skip(tile.features, name)
    return name


def compare(
    tally: Tally, case: object, x: Array, w: Array, numbers: Numbers, tile: TileSpec, expect: str
) -> None:
    """Run x @ w on `tile` and compare; the kernel called `expect` must have run it."""
    want = numbers.finish(matmul_sums(x, w, numbers), axis=1)
    node = matmul_node(x.shape, w, numbers)
    with forced(tile):
        got, kernels = run(node, x, level_of(tile.features), 1, tally.seed)
    tally.compare(case, got, want, kernels)
    (reference,) = matmul.reference(node, [x, w])
    tally.compare((case, "reference"), reference, want)
    tally.expect(case, expect in kernels, f"ran {kernels}, not {expect}")


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_largest_sums(tile: TileSpec, epilogue: str) -> None:
    """All 0 or 255 times all -128 or 127: each pair passes int16, the longest sums nearly int32.

    With an x zero point of 128 the sum of x * w itself passes int32 and must wrap to the right end.
    """
    name = skip_unless_runnable(tile, epilogue)
    tally = Tally(name, seed=201)
    depths = {0: 65_793 - 1, 255: 65_793 - 1, 128: 131_071, 127: 131_071}
    for zero_point, deepest in depths.items():
        for k, x_value, w_value in combinations((2, 259, deepest), (0, 255), (-128, 127)):
            reach = max(zero_point, 255 - zero_point) * 128
            assert k * reach < 2**31
            n = tile.nr + 1 if k < deepest else 3
            x = np.full((tile.mr + 1 if k < deepest else 2, k), x_value, np.uint8)
            w = np.full((k, n), w_value, np.int8)
            numbers = Numbers(
                scale=np.linspace(0.5, 2, n).astype(np.float32),
                y_scale=None if epilogue != "u8" else float(k * reach / 150),
                x_zero_point=zero_point,
                y_zero_point=128,
                float_bias=np.linspace(-9, 9, n).astype(np.float32),
                sums=epilogue == "sums",
            )
            case = f"k {k}, x {x_value} - {zero_point}, w {w_value}"
            compare(tally, case, x, w, numbers, tile, name)
    tally.finish()


@pytest.mark.parametrize(
    "zero_point, w_value, bias", [(0, -128, 0), (255, -128, 0), (0, 127, 2**26)]
)
def test_sums_that_may_pass_int32_are_refused(zero_point: int, w_value: int, bias: int) -> None:
    k = (2**31 - bias) // (255 * abs(w_value)) + 1
    w = np.full((k, 3), w_value, np.int8)
    numbers = Numbers(np.ones(3, np.float32), 1.0, zero_point, bias=np.full(3, bias, np.int32))
    with pytest.raises(UnsupportedError, match="int32"):
        run(matmul_node((1, k), w, numbers), np.zeros((1, k), np.uint8))


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_zero_points_at_both_ends(tile: TileSpec, epilogue: str) -> None:
    """x, y and w zero points (one for all channels, or one each) at the ends of their types."""
    name = skip_unless_runnable(tile, epilogue)
    tally = Tally(name, seed=202)
    rng = np.random.default_rng(tally.seed)
    m, n, k = tile.mr + 1, tile.nr + 1, 37
    per_channel = np.where(np.arange(n) % 2, -128, 127).astype(np.int32)
    w_zero_points: tuple[Array | int, ...] = (0, -128, 127, per_channel)
    for case in combinations((0, 1, 128, 255), (0, 255), w_zero_points):
        x_zero_point, y_zero_point, w_zero_point = case
        for x in (
            rng.integers(0, 256, (m, k), dtype=np.uint8),
            np.full((m, k), 255, np.uint8),
            np.full((m, k), 0, np.uint8),
        ):
            w = rng.integers(-128, 128, (k, n), dtype=np.int8)
            numbers = replace(
                draw_numbers(rng, n, k, epilogue),
                x_zero_point=x_zero_point,
                y_zero_point=y_zero_point,
                w_zero_point=w_zero_point,
            )
            compare(tally, case, x, w, numbers, tile, name)
    tally.finish()


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_wide_biases(tile: TileSpec, epilogue: str) -> None:
    """Sums beyond 2**24 meet float32 rounding twice: as they are converted, and as they scale."""
    name = skip_unless_runnable(tile, epilogue)
    tally = Tally(name, seed=203)
    rng = np.random.default_rng(tally.seed)
    m, n, k = tile.mr, 2 * tile.nr + 1, 65
    for low, high in ((BIAS_ENDS[0], BIAS_ENDS[0] + 999), (BIAS_ENDS[1] - 999, BIAS_ENDS[1]),
                      (2**24 - 500, 2**24 + 500), BIAS_ENDS):  # fmt: skip
        x = rng.integers(0, 256, (m, k), dtype=np.uint8)
        w = rng.integers(-128, 128, (k, n), dtype=np.int8)
        drawn = draw_numbers(rng, n, k, epilogue)
        bias = rng.integers(low, high, n).astype(np.int32)
        y_scale = None if epilogue != "u8" else float(np.abs(bias.astype(np.int64)).max() / 100)
        numbers = replace(drawn, bias=bias, y_scale=y_scale)
        compare(tally, (low, high), x, w, numbers, tile, name)
    tally.finish()


@pytest.mark.parametrize("tile, epilogue", U8_ROWS)
def test_ties_round_to_even(tile: TileSpec, epilogue: str) -> None:
    """Multipliers of powers of two put every other sum on a tie; the zero point comes after."""
    name = skip_unless_runnable(tile, epilogue)
    tally = Tally(name, seed=204)
    for exponent, y_zero_point in combinations((1, 2, 3, 7), (0, 1, 100, 127, 128, 255)):
        # one product per output: x - 128 over all values, w of 1 and -1, and biases that shift
        x = np.arange(256, dtype=np.uint8)[:, None]
        n = tile.nr + 3
        w = np.where(np.arange(n) % 2, 1, -1).astype(np.int8)[None]
        numbers = Numbers(
            np.ones(n, np.float32), 2.0**exponent, 128, y_zero_point,
            bias=(np.arange(n, dtype=np.int32) - n // 2),
        )  # fmt: skip
        compare(tally, (exponent, y_zero_point), x, w, numbers, tile, name)
    tally.finish()


@pytest.mark.parametrize("tile, epilogue", U8_ROWS)
def test_narrowed_outputs(tile: TileSpec, epilogue: str) -> None:
    """A fused activation: qmin and qmax inside uint8, up to a single value, cut on both sides."""
    name = skip_unless_runnable(tile, epilogue)
    tally = Tally(name, seed=205)
    rng = np.random.default_rng(tally.seed)
    m, n, k = 2 * tile.mr + 1, tile.nr + 1, 30
    limits = ((0, 255), (17, 255), (0, 99), (128, 129), (128, 255), (7, 7), (0, 0), (255, 255))
    for (qmin, qmax), y_zero_point in combinations(limits, (0, 17, 128, 255)):
        x = rng.integers(0, 256, (m, k), dtype=np.uint8)
        w = rng.integers(-128, 128, (k, n), dtype=np.int8)
        numbers = replace(
            draw_numbers(rng, n, k, epilogue), qmin=qmin, qmax=qmax, y_zero_point=y_zero_point
        )
        compare(tally, (qmin, qmax, y_zero_point), x, w, numbers, tile, name)
    tally.finish()


@pytest.mark.parametrize("tile, epilogue", U8_ROWS)
def test_tiny_multipliers(tile: TileSpec, epilogue: str) -> None:
    """Denormal multipliers, and products that become denormal: nothing is flushed, all is y_zp."""
    name = skip_unless_runnable(tile, epilogue)
    tally = Tally(name, seed=206)
    rng = np.random.default_rng(tally.seed)
    m, n, k = tile.mr, tile.nr, 9
    for scale, y_scale in ((1e-45, 1.0), (1e-39, 1.0), (1e-30, 3e8), (1e-20, 1e25), (1e-42, 3e-36)):
        x = rng.integers(0, 256, (m, k), dtype=np.uint8)
        w = rng.integers(-128, 128, (k, n), dtype=np.int8)
        numbers = replace(
            draw_numbers(rng, n, k, epilogue), scale=np.full(n, scale, np.float32), y_scale=y_scale
        )
        compare(tally, (scale, y_scale), x, w, numbers, tile, name)
    tally.finish()


@pytest.mark.parametrize("tile, epilogue", F32_ROWS)
def test_denormal_floats(tile: TileSpec, epilogue: str) -> None:
    """float32 results below the smallest normal number keep their bits."""
    name = skip_unless_runnable(tile, epilogue)
    tally = Tally(name, seed=207)
    rng = np.random.default_rng(tally.seed)
    m, n, k = tile.mr, tile.nr, 9
    for scale in (1e-45, 1e-43, 1e-41, 1e-36):
        x = rng.integers(0, 256, (m, k), dtype=np.uint8)
        w = rng.integers(-128, 128, (k, n), dtype=np.int8)
        numbers = replace(
            draw_numbers(rng, n, k, epilogue),
            scale=np.full(n, scale, np.float32),
            float_bias=rng.choice(np.array([0, -0.0, 1e-44, -1e-39], np.float32), n),
        )
        compare(tally, scale, x, w, numbers, tile, name)
    tally.finish()


@pytest.mark.parametrize("tile, epilogue", U8_ROWS)
def test_huge_multipliers(tile: TileSpec, epilogue: str) -> None:
    """Below the precondition `max_scaled` the row runs and saturates well; above it, the portable.

    The products that pass 2**31 on one channel only send the whole row to the portable tile.
    """
    name = skip_unless_runnable(tile, epilogue)
    portable = next(t for t, _ in tile_rows() if t.family == "portable").kernel_name("u8")
    tally = Tally(name, seed=208)
    rng = np.random.default_rng(tally.seed)
    m, n, k = tile.mr + 1, tile.nr + 1, 12
    x = rng.choice(np.array([0, 3, 255], np.uint8), (m, k))
    w = rng.choice(np.array([-128, -1, 0, 127], np.int8), (k, n))
    bound = float((np.abs(w.astype(np.int64)).sum(0) * 128).max())
    for share, one_channel, y_zero_point in combinations(
        (0.5, 0.99, 1.01, 1e3, 1e20), (False, True), (0, 128, 255)
    ):
        scale = np.full(n, 2.0**31 / bound * share, np.float32)
        if one_channel:
            scale[:-1] = 1e-3
            scale[-1] = 2.0**31 / float(np.abs(w[:, -1].astype(np.int64)).sum() * 128) * share
        numbers = Numbers(scale, 1.0, 128, y_zero_point)
        case = f"{share} of the limit, one channel: {one_channel}, y_zero_point {y_zero_point}"
        compare(tally, case, x, w, numbers, tile, name if share < 1 else portable)
    tally.finish()
