"""Weights in the order that a tile reads them.

Panels of NR columns; in a panel, groups of KR inputs; in a group, vectors of lanes; in a lane, the
four int8 or two int16 weights of one column. Columns are permuted within the panel
(`column_order`), inputs are padded with zeros to a multiple of KR per tap. `columns` holds per
panel, in the same order: bias int32, multiplier float32, -w_zero_point int32, float bias float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qrt.gemm.order import column_order
from qrt.gemm.table import WEIGHT_NBYTES, TileSpec, last_width

Array = np.ndarray[Any, Any]
KR = 4  # of most tiles: what the cost of a product is counted in before its tile is known


def panel_widths(n: int, tile: TileSpec) -> list[int]:
    """Vectors per panel for n columns."""
    full, rest = divmod(n, tile.nr)
    return [tile.nv] * full + ([last_width(rest, tile)] if rest else [])


def column_positions(n: int, tile: TileSpec, epilogue: str) -> Array:
    """Column at every position of the panels, int32 (padded,); -1 where a position is padding."""
    parts = []
    column = 0
    for nv in panel_widths(n, tile):
        order = np.array(column_order(nv, tile.lanes, epilogue), np.int32) + column
        parts.append(np.where(order < n, order, -1).astype(np.int32))
        column += nv * tile.lanes
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def panel_nbytes(taps: int, channels: int, tile: TileSpec) -> int:
    """Bytes of a full panel."""
    return taps * -(-channels // tile.kr) * tile.nr * WEIGHT_NBYTES


def pack_weights(w: Array, tile: TileSpec, epilogue: str) -> Array:
    """Pack w (n, taps, channels) int8. Returns uint8 (nbytes,), full panels first."""
    n, taps, channels = w.shape
    groups = -(-channels // tile.kr)
    parts = []
    column = 0
    for nv in panel_widths(n, tile):
        order = np.array(column_order(nv, tile.lanes, epilogue)) + column
        block = np.zeros((nv * tile.lanes, taps, groups * tile.kr), np.int8)
        valid = order < n
        block[valid, :, :channels] = w[order[valid]]
        # (vector, lane, tap, group, k) -> (tap, group, vector, lane, k)
        block = block.reshape(nv, tile.lanes, taps, groups, tile.kr).transpose(2, 3, 0, 1, 4)
        if tile.pairs:
            # k0 k1 of all lanes, then k2 k3
            split = block.reshape(taps, groups, nv, tile.lanes, 2, 2)
            block = np.ascontiguousarray(split.transpose(0, 1, 2, 4, 3, 5))
        if tile.words:
            block = block.astype(np.int16)
        if tile.octets:
            whole = groups // 2 * 2
            octets = block[:, :whole].reshape(taps, -1, 2, nv, tile.lanes, tile.kr)
            octets = octets.transpose(0, 1, 3, 4, 2, 5).reshape(taps, -1)
            block = np.concatenate((octets, block[:, whole:].reshape(taps, -1)), axis=1)
        parts.append(np.ascontiguousarray(block).reshape(-1).view(np.uint8))
        column += nv * tile.lanes
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def pack_columns(
    n: int,
    tile: TileSpec,
    epilogue: str,
    bias: Array,
    multiplier: Array,
    w_zero_point: Array,
    float_bias: Array,
) -> Array:
    """Column parameters of every panel (four arrays of n each). Returns uint8 (nbytes,)."""
    arrays = (
        np.broadcast_to(bias, n).astype(np.int32),
        np.broadcast_to(multiplier, n).astype(np.float32).view(np.int32),
        (-np.broadcast_to(w_zero_point, n).astype(np.int64)).astype(np.int32),
        np.broadcast_to(float_bias, n).astype(np.float32).view(np.int32),
    )
    parts = []
    column = 0
    for nv in panel_widths(n, tile):
        order = np.array(column_order(nv, tile.lanes, epilogue)) + column
        valid = order < n
        for array in arrays:
            block = np.zeros(nv * tile.lanes, np.int32)
            block[valid] = array[order[valid]]
            parts.append(block)
        column += nv * tile.lanes
    return np.concatenate(parts).view(np.uint8) if parts else np.zeros(0, np.uint8)
