"""Every row of the table of products equals the reference bit for bit, whatever the sizes."""

from __future__ import annotations

from itertools import product as combinations
from typing import Any

import numpy as np
import pytest
from product_cases import (
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

from qrt.gemm.extents import LANES
from qrt.gemm.pack import panel_nbytes
from qrt.gemm.table import TileSpec
from qrt.ops import matmul, product_rows
from qrt.simd.caches import CacheSizes
from qrt.simd.features import active_features

ROWS = [pytest.param(*row, id=row[0].kernel_name(row[1])) for row in tile_rows()]
KS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 31, 67)


def edges(size: int, *more: int) -> list[int]:
    """1, tile - 1, tile, tile + 1, two blocks + 1, and primes."""
    return sorted({1, max(size - 1, 1), size, size + 1, 2 * size + 1, *more})


def check(
    tally: Tally,
    case: object,
    node: Any,
    x: Any,
    want: Any,
    level: str,
    name: str,
    threads: int = 1,
) -> None:
    """Run `node` and compare with `want` and with the operator's own reference."""
    got, kernels = run(node, x, level, threads, tally.seed)
    tally.compare(case, got, want, kernels)
    (reference,) = matmul.reference(node, [x, node.inputs[1].data])
    tally.compare((case, "reference"), reference, want)
    if want.size:
        tally.expect(case, name in kernels, f"ran {kernels}, not {name}")


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_sizes(tile: TileSpec, epilogue: str) -> None:
    name = tile.kernel_name(epilogue)
    level = level_or_skip(tile.features, name)
    tally = Tally(name, seed=101)
    rng = np.random.default_rng(tally.seed)
    ms = [0, *edges(tile.mr, *tile.heights, 2, 3, 5, 23, 37)]
    ns = edges(tile.nr, *(w * tile.lanes + d for w in tile.widths for d in (-1, 0, 1)), 3, 83)
    with forced(tile):
        for m, n, k in combinations(ms, ns, KS):
            x = rng.integers(0, 256, (m, k), dtype=np.uint8)
            w = rng.integers(-128, 128, (k, n), dtype=np.int8)
            numbers = draw_numbers(rng, n, k, epilogue, weight_zero_points=(m + n + k) % 5 == 0)
            want = numbers.finish(matmul_sums(x, w, numbers), axis=1)
            node = matmul_node(x.shape, w, numbers)
            check(tally, (m, n, k), node, x, want, level, name)
    tally.finish()


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_threads_and_blocks(tile: TileSpec, epilogue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1, 2, 3 and more threads than work, blocks of one panel, of two, and of all."""
    name = tile.kernel_name(epilogue)
    level = level_or_skip(tile.features, name)
    tally = Tally(name, seed=102)
    rng = np.random.default_rng(tally.seed)
    k = 13
    sizes = [
        *((m, 2 * tile.nr + 1) for m in edges(tile.mr)),
        *((2 * tile.mr + 1, n) for n in edges(tile.nr, 5 * tile.nr)),
        (7 * tile.mr + 3, 3),
        (1, 7 * tile.nr + 5),
        (5 * tile.mr, 5 * tile.nr - 1),
    ]
    panel = panel_nbytes(1, k, tile)
    with forced(tile, threads_always=True):
        for (m, n), threads, block in combinations(sizes, (1, 2, 3, 7), (1, 2, 64)):
            sizes = CacheSizes(32 << 10, 2 * block * panel, 0)
            monkeypatch.setattr(product_rows, "cache_sizes", lambda sizes=sizes: sizes)
            x = rng.integers(0, 256, (m, k), dtype=np.uint8)
            w = rng.integers(-128, 128, (k, n), dtype=np.int8)
            numbers = draw_numbers(rng, n, k, epilogue, weight_zero_points=(m + n) % 2 == 0)
            want = numbers.finish(matmul_sums(x, w, numbers), axis=1)
            case = f"m {m} n {n} k {k}, {threads} threads, blocks of {block} panels"
            node = matmul_node(x.shape, w, numbers)
            check(tally, case, node, x, want, level, name, threads)
    tally.finish()


@pytest.mark.parametrize("spec", sorted({"", *(level_of(t.features) for t, _ in tile_rows())}))
def test_the_tables_own_choice(spec: str) -> None:
    """What `select_tile` picks, at primes; and it is a row that may run."""
    features = (
        () if not spec else next(t.features for t, _ in tile_rows() if level_of(t.features) == spec)
    )
    if spec:
        level_or_skip(features, f"level {spec}")
    tally = Tally(f"select_tile at level {spec or 'active'}", seed=103)
    rng = np.random.default_rng(tally.seed)
    for m, n, k in combinations((1, 2, 5, 13, 37, 61), (1, 11, 17, 41, 71, 131), (3, 29, 127)):
        epilogue = "u8" if (m * n) % 3 else "f32"
        x = rng.integers(0, 256, (m, k), dtype=np.uint8)
        w = rng.integers(-128, 128, (k, n), dtype=np.int8)
        numbers = draw_numbers(rng, n, k, epilogue)
        want = numbers.finish(matmul_sums(x, w, numbers), axis=1)
        got, kernels = run(matmul_node(x.shape, w, numbers), x, spec, 1, tally.seed)
        tally.compare((m, n, k, epilogue), got, want, kernels)
    tally.finish()
    print(f"level {spec or 'active'} ran {', '.join(sorted(tally.kernels))}")


def test_empty_products() -> None:
    """No rows, no columns, or nothing to sum: the output has its shape, and is the bias alone."""
    tally = Tally("empty products", seed=104)
    rng = np.random.default_rng(tally.seed)
    for m, n, k in combinations((0, 1, 5), (0, 1, 20), (0, 3)):
        for weight_zero_points in (False, True):
            x = rng.integers(0, 256, (m, k), dtype=np.uint8)
            w = rng.integers(-128, 128, (k, n), dtype=np.int8)
            numbers = draw_numbers(rng, n, k, "u8", weight_zero_points=weight_zero_points)
            want = numbers.finish(matmul_sums(x, w, numbers), axis=1)
            case = f"m {m} n {n} k {k}, weight zero points: {weight_zero_points}"
            try:
                got, kernels = run(matmul_node(x.shape, w, numbers), x)
            except ValueError as error:
                tally.expect(case, False, repr(error))
            else:
                tally.compare(case, got, want, kernels)
    tally.finish()


BATCHES = [
    # x, w: broadcasting of batches, and vectors
    ((5,), (5, 7)),
    ((5,), (5,)),
    ((3, 5), (5,)),
    ((2, 3, 5), (5, 7)),
    ((2, 3, 5), (1, 5, 7)),
    ((2, 3, 5), (2, 5, 7)),
    ((1, 3, 5), (4, 5, 7)),
    ((3, 5), (4, 5, 7)),
    ((5,), (4, 5, 7)),
    ((2, 3, 5), (5,)),
    ((2, 1, 3, 5), (4, 5, 7)),
    ((2, 4, 3, 5), (4, 5, 7)),
    ((2, 4, 3, 5), (2, 1, 5, 7)),
    ((0, 3, 5), (5, 7)),
    ((0, 3, 5), (1, 5, 7)),
    ((2, 0, 5), (2, 5, 7)),
]


@pytest.mark.parametrize("epilogue", ("u8", "f32"))
def test_batches(epilogue: str) -> None:
    tally = Tally(f"batches {epilogue}", seed=105)
    rng = np.random.default_rng(tally.seed)
    for (x_shape, w_shape), zero_points in combinations(BATCHES, (False, True)):
        n = w_shape[-1] if len(w_shape) > 1 else 1
        x = rng.integers(0, 256, x_shape, dtype=np.uint8)
        w = rng.integers(-128, 128, w_shape, dtype=np.int8)
        numbers = draw_numbers(rng, n, x_shape[-1], epilogue, weight_zero_points=zero_points)
        w2 = w if w.ndim > 1 else w[:, None]
        sums = matmul_sums(x if x.ndim > 1 else x[None], w2, numbers)
        want = numbers.finish(sums, axis=sums.ndim - 1)
        want = want.reshape(np.matmul(np.zeros(x_shape), np.zeros(w_shape)).shape)
        node = matmul_node(x_shape, w, numbers)
        got, kernels = run(node, x)
        tally.compare((x_shape, w_shape), got, want, kernels)
        (reference,) = matmul.reference(node, [x, w])
        tally.compare((x_shape, w_shape, "reference"), reference, want)
    tally.finish()


def test_the_table_is_whole() -> None:
    """Every CPU has a row; names differ; row pointers of the highest tile fit their work area."""
    tiles = {tile for tile, _ in tile_rows()}
    assert any(not tile.features for tile in tiles)
    names = [tile.kernel_name(epilogue) for tile, epilogue in tile_rows()]
    assert len(set(names)) == len(names)
    for tile in tiles:
        assert tile.mr <= LANES, tile
        assert tile.widths[0] == tile.nv and list(tile.widths) == sorted(tile.widths, reverse=True)
        assert list(tile.heights) == sorted(tile.heights, reverse=True), tile
    left_out = [n for (t, _), n in zip(tile_rows(), names, strict=True)
                if not set(t.features) <= active_features()]  # fmt: skip
    print(f"{len(names) - len(left_out)} of {len(names)} product kernels run here; not {left_out}")
