"""Float32 weights in panels: packed at build, or by a kernel while the program runs.

Panels as in `pack.py`, a group being one value: [panel][k][column], zeros where there is no column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qrt.gemm.extents import LIMIT
from qrt.gemm.pack import panel_widths
from qrt.gemm.table import TileSpec
from qrt.jit.declare import Extent, kernel, slots
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share
from qrt.simd.transpose import transpose_u32_8x8
from qrt.simd.vectors import load_f32x16, store_f32x16

Array = np.ndarray[Any, Any]
FIELDS = (
    "w",  # float32 (groups, k, n); the steps are bytes
    "panels",
    "groups",
    "k",
    "n",
    "padded",  # columns of a group's panels
    "nr",  # columns of a full panel
    "w_group",
    "w_k",
    "w_n",
)
W, PANELS, GROUPS, K, N, PADDED, NR, W_GROUP, W_K, W_N = slots(FIELDS)
ITEMSIZE = 4
TALL = 8  # lines that are transposed together


def pack_floats(w: Array, tile: TileSpec) -> Array:
    """Pack w (k, n) float32, k being taps times channels. Returns uint8 (nbytes,)."""
    k, n = w.shape
    parts = []
    column = 0
    for nv in panel_widths(n, tile):
        width = nv * tile.lanes
        block = np.zeros((k, width), np.float32)
        part = w[:, column : column + width]
        block[:, : part.shape[1]] = part
        parts.append(block.reshape(-1).view(np.uint8))
        column += width
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def extents(row: Mapping[str, int]) -> list[Extent]:
    """w as far as the steps reach, every panel in full."""
    for name in FIELDS[2:]:
        if not 0 <= row[name] < LIMIT:
            raise ValueError(f"{name} must be between 0 and {LIMIT}, got {row[name]}")
    nr, padded = row["nr"], row["padded"]
    if not nr or row["n"] > padded:
        raise ValueError(f"{row['n']} columns do not fit into {padded}, panels of {nr}")
    reach = sum(
        (row[size] - 1) * row[step]
        for size, step in (("groups", "w_group"), ("k", "w_k"), ("n", "w_n"))
    )
    some = row["groups"] and row["k"] and row["n"]
    return [
        Extent("w", reach + ITEMSIZE if some else 0),
        Extent("panels", row["groups"] * row["k"] * padded * ITEMSIZE, writes=True),
    ]


@kernel("gemm_pack_f32", FIELDS, extents, family="gemm_pack")
def float_pack_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    w = operand(row, W, arena, constants)
    panels = operand(row, PANELS, arena, constants)
    k, n, padded, nr = row[K], row[N], row[PADDED], row[NR]
    w_group, w_k, w_n = row[W_GROUP], row[W_K], row[W_N]
    if w_k == ITEMSIZE:
        # columns in one piece, as the keys of attention are: eight lines of them at once
        blocks = (k + TALL - 1) // TALL
        start, stop = share(row[GROUPS] * blocks, thread, threads, 1)
        for i in range(start, stop):
            group = i // blocks
            line = (i - group * blocks) * TALL
            lines = min(TALL, k - line)
            for column in range(0, padded, nr):
                width = min(nr, padded - column)
                valid = max(min(width, n - column), 0)
                at = w + group * w_group + line * 4 + column * w_n
                out = panels + (group * padded * k + column * k + line * width) * 4
                j = 0
                while lines == TALL and j + TALL <= valid:
                    transpose_u32_8x8(at + j * w_n, w_n, out + 4 * j, 4 * width)
                    j += TALL
                for below in range(lines):
                    target = out + 4 * below * width
                    for one in range(j, valid):
                        as_f32(target)[one] = as_f32(at + one * w_n)[below]
                    for one in range(valid, width):
                        as_f32(target)[one] = np.float32(0)
        return 0
    start, stop = share(row[GROUPS] * k, thread, threads, 1)
    group = start // max(k, 1)
    line = start - group * k
    for _ in range(start, stop):
        source = w + group * w_group + line * w_k
        target = panels + group * k * padded * 4
        for column in range(0, padded, nr):
            width = min(nr, padded - column)
            valid = max(min(width, n - column), 0)
            at = source + column * w_n
            out = target + (column * k + line * width) * 4
            j = 0
            if w_n == 4:
                while j + 16 <= valid:
                    store_f32x16(out + 4 * j, load_f32x16(at + 4 * j))
                    j += 16
            while j < valid:
                as_f32(out)[j] = as_f32(at + j * w_n)[0]
                j += 1
            while j < width:
                as_f32(out)[j] = np.float32(0)
                j += 1
        line += 1
        if line == k:
            group += 1
            line = 0
    return 0
