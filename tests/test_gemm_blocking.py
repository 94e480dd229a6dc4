"""Blocks follow the caches, whatever their sizes; and rows of a program hold them."""

from __future__ import annotations

import numpy as np
import pytest
from product_cases import ProductBench, draw_numbers, matmul_node

from qrt.gemm.blocking import block_panels, run_tiles
from qrt.ops import matmul
from qrt.simd.caches import CacheSizes
from qrt.simd.features import active_features

KIB = 1024


@pytest.mark.parametrize(
    "panel, sizes, want",
    [
        (64 * KIB, CacheSizes(32 * KIB, 1024 * KIB, 0), 8),
        (64 * KIB, CacheSizes(32 * KIB, 2048 * KIB, 4096 * KIB), 16),
        (63 * KIB, CacheSizes(32 * KIB, 256 * KIB, 0), 2),  # 2.03 panels
        (600 * KIB, CacheSizes(48 * KIB, 1024 * KIB, 0), 1),  # larger than the half
        (64 * KIB, CacheSizes(32 * KIB, 0, 512 * KIB), 4),  # no L2
        (4 * KIB, CacheSizes(32 * KIB, 0, 0), 4),
        (0, CacheSizes(32 * KIB, 256 * KIB, 0), 128 * KIB),  # nothing to sum: any number will do
    ],
)
def test_half_of_l2(panel: int, sizes: CacheSizes, want: int) -> None:
    assert block_panels(panel, sizes) == want


@pytest.mark.parametrize(
    "tile, l1, want",
    [(1024, 32, 16), (1025, 48, 23), (16 * KIB + 1, 32, 1), (0, 32, 16 * KIB)],
)
def test_half_of_l1(tile: int, l1: int, want: int) -> None:
    assert run_tiles(tile, CacheSizes(l1 * KIB, 1024 * KIB, 0)) == want


@pytest.mark.parametrize("l2, want", [("256K", 2), ("1M", 8)])
def test_rows_follow_the_knob(l2: str, want: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels of 64 KiB on a machine with that L2."""
    features = active_features("portable")
    rng = np.random.default_rng(1)
    k, n = 4096, 64  # portable panels have 16 columns
    numbers = draw_numbers(rng, n, k, "u8")
    node = matmul_node((5, k), rng.integers(-128, 128, (k, n), dtype=np.int8), numbers)
    monkeypatch.setenv("QRT_CACHE_SIZES", f"32K,{l2},0")
    bench = ProductBench(features)
    matmul.lower(node, bench)
    ((_, row),) = bench.rows
    assert row["block"] == want
