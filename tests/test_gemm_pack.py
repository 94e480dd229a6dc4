"""Packing, read off ramps: where each weight and each column parameter lands in its panel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from product_cases import tile_rows

from qrt.gemm.order import column_order
from qrt.gemm.pack import pack_columns, pack_weights, panel_nbytes, panel_widths
from qrt.gemm.table import EPILOGUES, TILES, TileSpec, last_width, padded_columns

ROWS = [pytest.param(*row, id=row[0].kernel_name(row[1])) for row in tile_rows()]


def column_counts(tile: TileSpec) -> list[int]:
    """Columns that end at, before and behind every panel width."""
    edges = (w * tile.lanes for w in tile.widths)
    return sorted({1, 3, 2 * tile.nr + 1, 101, *(e + d for e in edges for d in (-1, 0, 1))})


def panels_of(n: int, tile: TileSpec) -> list[tuple[int, int]]:
    """(first column, vectors) of each panel for n columns, told from the rule in words:
    full panels, then the narrowest of `widths` that holds the rest."""
    found = [(c, tile.nv) for c in range(0, n - tile.nr + 1, tile.nr)]
    if n % tile.nr:
        rest = n % tile.nr
        found.append((n - rest, min(w for w in tile.widths if rest <= w * tile.lanes)))
    return found


@pytest.mark.parametrize("tile, epilogue", ROWS)
@pytest.mark.parametrize("taps, channels", [(1, 1), (1, 4), (1, 5), (3, 2), (2, 8), (9, 3)])
def test_weights(tile: TileSpec, epilogue: str, taps: int, channels: int) -> None:
    """Byte by byte from the module's words: panel, tap, group, column, k.

    A column's ramp of weights says its own (column, tap, channel), so a wrong place shows as what
    stands there instead.
    """
    groups = -(-channels // tile.kr)
    for n in column_counts(tile):
        # int8 takes 256 values: several ramps with different strides tell all places apart
        for step in (1, 7, 101):
            ramp = (np.arange(n * taps * channels) * step).astype(np.uint8).view(np.int8)
            w = ramp.reshape(n, taps, channels)
            packed = pack_weights(w, tile, epilogue)
            assert packed.dtype == np.uint8
            assert packed.size == padded_columns(n, tile) * taps * groups * 4
            at = 0
            for first, nv in panels_of(n, tile):
                order = column_order(nv, tile.lanes, epilogue)
                for tap in range(taps):
                    for group in range(groups):
                        nbytes = nv * tile.lanes * 4
                        got = _columns(packed[at : at + nbytes], tile)
                        if tile.octets and group < groups // 2 * 2:
                            # a column's weights of two groups side by side
                            both = packed[at - group % 2 * nbytes :][: 2 * nbytes]
                            got = both.view(np.int8).reshape(-1, 2, tile.kr)[:, group % 2]
                        at += nbytes
                        want = _expected(w, [first + c for c in order], tap, group, tile.kr)
                        message = f"n {n} panel {first} tap {tap} group {group}"
                        np.testing.assert_array_equal(got, want, message)
            assert at == packed.size


def _columns(raw: Any, tile: TileSpec) -> Any:
    """(columns, kr) weights of one group: two int16 of each column, four int8, or, vector by
    vector, pairs of int8 (k0, k1) of all lanes, then (k2, k3)."""
    if tile.words:
        return raw.view(np.int16).reshape(-1, 2)
    if tile.pairs:
        vectors = raw.view(np.int8).reshape(-1, 2, tile.lanes, 2)
        return vectors.transpose(0, 2, 1, 3).reshape(-1, 4)
    return raw.view(np.int8).reshape(-1, 4)


def _expected(w: Any, columns: list[int], tap: int, group: int, kr: int) -> Any:
    n, _, channels = w.shape
    want = np.zeros((len(columns), kr), np.int64)
    for lane, column in enumerate(columns):
        for k in range(kr):
            channel = group * kr + k
            if column < n and channel < channels:
                want[lane, k] = w[column, tap, channel]
    return want


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_columns(tile: TileSpec, epilogue: str) -> None:
    """Per panel bias, multiplier, -w_zero_point, float bias, in the panel's column order; a ramp in
    each, and zeros behind the last column."""
    for n in column_counts(tile):
        bias = np.arange(n, dtype=np.int32) + 1
        multiplier = np.arange(n, dtype=np.float32) + 1000.5
        w_zero_point = np.arange(n, dtype=np.int32) % 256 - 128
        float_bias = -np.arange(n, dtype=np.float32) - 0.25
        packed = pack_columns(n, tile, epilogue, bias, multiplier, w_zero_point, float_bias)
        assert packed.size == 16 * padded_columns(n, tile)
        at = 0
        for first, nv in panels_of(n, tile):
            columns = np.array(column_order(nv, tile.lanes, epilogue)) + first
            valid = columns < n
            for dtype, values in (
                (np.int32, bias),
                (np.float32, multiplier),
                (np.int32, -w_zero_point),
                (np.float32, float_bias),
            ):
                got = packed[at : at + 4 * columns.size].view(dtype)
                at += 4 * columns.size
                want = np.where(valid, values[np.where(valid, columns, 0)], 0)
                np.testing.assert_array_equal(got, want, f"n {n} panel {first} {dtype}")
        assert at == packed.size


def test_scalar_parameters_broadcast() -> None:
    """Per-tensor numbers stand in every column."""
    for tile in TILES:
        scalars = [np.array(v) for v in (7, 0.5, -3, 2.5)]
        each = [np.full(5, v) for v in scalars]
        np.testing.assert_array_equal(
            pack_columns(5, tile, "u8", *scalars), pack_columns(5, tile, "u8", *each)
        )


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_order_is_a_permutation_that_packs_undo(tile: TileSpec, epilogue: str) -> None:
    """`column_order` names each column once; narrowing in 128-bit lanes brings the order back."""
    for nv in tile.widths:
        order = column_order(nv, tile.lanes, epilogue)
        assert sorted(order) == list(range(nv * tile.lanes))
        if epilogue == "u8" and tile.lanes > 1:
            vectors = np.array(order).reshape(nv, tile.lanes)
            assert _saturating_packs(vectors).tolist() == list(range(nv * tile.lanes))


def _saturating_packs(vectors: Any) -> Any:
    """What packssdw and packuswb leave in order: of each 128-bit lane, 4 columns of each vector."""
    nv, lanes = vectors.shape
    return vectors.reshape(nv, lanes // 4, 4).transpose(1, 0, 2).reshape(-1)


@pytest.mark.parametrize("tile", TILES, ids=lambda t: t.kernel_name(""))
def test_panel_sizes_agree(tile: TileSpec) -> None:
    """The three places that count panels say the same, for every n up to two panels."""
    for n in range(2 * tile.nr + 2):
        panels = panels_of(n, tile)
        assert [nv for _, nv in panels] == panel_widths(n, tile)
        assert sum(nv for _, nv in panels) * tile.lanes == (padded_columns(n, tile) if n else 0)
        if n % tile.nr:
            assert panels[-1][1] == last_width(n % tile.nr, tile)
    full = pack_weights(np.zeros((tile.nr, 3, 5), np.int8), tile, EPILOGUES[0])
    assert full.size == panel_nbytes(3, 5, tile)
    vector = tile.lanes * 4
    assert full.size % vector == 0, "a panel starts at a whole vector, aligned loads rely on it"
