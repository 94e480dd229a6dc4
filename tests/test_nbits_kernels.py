"""Products of few-bit weights: every row of the table gives the bits of the contract, whatever the
sizes, the CPU and the number of threads."""

from __future__ import annotations

from itertools import product as combinations

import numpy as np
import pytest
from kernel_harness import feature_levels, run_node
from nbits_cases import ZERO_POINTS, Array, Drawn, F, draw, forced, rows
from product_cases import Tally, level_or_skip

from qrt.gemm.nbits_table import BITS, NBITS_TILES, NBitsTile
from qrt.ops import matmul_nbits

TILES = [pytest.param(tile, id=tile.kernel_name) for tile in NBITS_TILES]
BLOCKS = (16, 32, 64, 128, 256)


def check(
    tally: Tally, case: object, drawn: Drawn, x: Array, tile: NBitsTile, level: str,
    threads: tuple[int, ...] = (1,),
) -> None:  # fmt: skip
    """Run the product of `x` on numbers of threads."""
    integers = tile.types == "s8"
    want = drawn.want(x, integers=integers)
    for count in threads:
        node = drawn.node(x.shape[0], integers=integers)
        try:
            given = [x] + [None] * 4
            (got,) = run_node(matmul_nbits.SPEC, node, given, level, count)
        except AssertionError as error:
            tally.expect((case, count), False, str(error))
        else:
            nan = np.isnan(got) & np.isnan(want)
            tally.compare((case, count), np.where(nan, F(0), got), np.where(nan, F(0), want))


def kinds(tile: NBitsTile) -> tuple[str, ...]:
    """Zero points that the rows of this type take."""
    return tuple(kind for kind in ZERO_POINTS if tile.types == "f32" or kind != "f32")


@pytest.mark.parametrize("tile", TILES)
def test_sizes(tile: NBitsTile) -> None:
    level = level_or_skip(tile.features, tile.kernel_name)
    tally = Tally(tile.kernel_name, seed=901)
    rng = np.random.default_rng(tally.seed)
    ms = sorted({1, 2, max(tile.mr - 1, 1), tile.mr, tile.mr + 1, 2 * tile.mr + 1})
    ns = (1, tile.nr - 1, tile.nr, tile.nr + 1, 2 * tile.nr + 3)
    ks = (1, 15, 16, 17, 31, 33, 48, 67)
    with forced(tile):
        for i, (n, k) in enumerate(combinations(ns, ks)):
            block, kind = (16, 32, 64)[i % 3], kinds(tile)[i // 3 % len(kinds(tile))]
            drawn = draw(rng, n, k, tile.bits, block, kind, bias=i % 2 == 0)
            for m in ms:
                check(tally, (m, n, k, block, kind), drawn, rows(rng, m, k), tile, level)
    tally.finish()


@pytest.mark.parametrize("tile", TILES)
def test_blocks_and_threads(tile: NBitsTile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every size of a block, whole ones and a rest; 1 to 4 and more threads than panels."""
    level = level_or_skip(tile.features, tile.kernel_name)
    tally = Tally(tile.kernel_name, seed=902)
    rng = np.random.default_rng(tally.seed)
    with forced(tile):
        for i, (block, kind) in enumerate(combinations((*BLOCKS, 48, 4096), kinds(tile))):
            at_once = (1, 2, 99)[i % 3]
            monkeypatch.setattr(matmul_nbits, "block_panels", lambda *_, count=at_once: count)
            k = min(2 * block + 9, 600)
            drawn = draw(rng, 5 * tile.nr - 1, k, tile.bits, block, kind)
            for m in (1, tile.mr + 1):
                case = (m, k, block, kind, at_once)
                check(tally, case, drawn, rows(rng, m, k), tile, level, (1, 2, 4, 9))
    tally.finish()


@pytest.mark.parametrize("tile", TILES)
def test_extremes(tile: NBitsTile) -> None:
    """All weights and all zero points at either end; activations that reach 127 everywhere."""
    level = level_or_skip(tile.features, tile.kernel_name)
    tally = Tally(tile.kernel_name, seed=903)
    n, k, block = tile.nr + 1, 600, 256
    with forced(tile):
        for byte, zero, sign in combinations((0, 255), (None, 0, 2**tile.bits - 1), (1, -1)):
            packed = np.full((n, 3, block * tile.bits // 8), byte, np.uint8)
            points = None if zero is None else np.full((n, 3), zero, np.uint8)
            drawn = Drawn(packed, np.full((n, 3), F(0.5)), points, None, tile.bits, block, k)
            x = np.full((2, k), F(3 * sign))
            check(tally, (byte, zero, sign), drawn, x, tile, level)
    tally.finish()


@pytest.mark.parametrize("tile", TILES)
def test_nasty_activations(tile: NBitsTile) -> None:
    """Zeros, subnormals, sums that overflow, ties of the rounding, infinities and NaN."""
    level = level_or_skip(tile.features, tile.kernel_name)
    tally = Tally(tile.kernel_name, seed=904)
    rng = np.random.default_rng(tally.seed)
    values: dict[str, list[float]] = {
        "zeros": [0, -0.0],
        "small": [1e-45, -1e-45, 2**-121, 2**-120, -(2**-119), 1e-38],
        "huge": [3.4028235e38, -3.4028235e38, 1e30, 1],
        "ties": [127, 0.5, -0.5, 1.5, -1.5, 63.5, -63.5],
        "special": [np.inf, -np.inf, np.nan, 0, 1, -1],
    }
    with forced(tile):
        for name, some in values.items():
            drawn = draw(rng, tile.nr + 1, 70, tile.bits, 16)
            x = rng.choice(np.array(some, F), (5, 70))
            x[:, 40:] = np.where(name == "special", F(1), x[:, 40:])
            check(tally, name, drawn, x, tile, level)
    tally.finish()


def test_the_table_is_whole() -> None:
    """Every CPU has a row for all types and bits; names differ."""
    assert len({tile.kernel_name for tile in NBITS_TILES}) == len(NBITS_TILES)
    for types, bits in combinations(("s8", "f32"), BITS):
        assert [t for t in NBITS_TILES if (t.types, t.bits) == (types, bits) and not t.features]
    assert feature_levels()
