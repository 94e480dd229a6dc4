"""The table of depthwise families, and weights in the order that their tiles read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qrt.gemm.depthwise_order import carries_tall
from qrt.gemm.order import NARROW, column_order
from qrt.gemm.table import CODES

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class DepthwiseSpec:
    """A family: rows per dot group, lanes of its blocks (widest first), pixels per tile.

    `epilogue` is what follows the sums: u8, f32 or codes, as in gemm's table. `x_offset` as in a
    `TileSpec`; `planar` says that in a vector of weights all lanes of one row
    of the kernel lie before those of the next.
    """

    family: str
    rows: int
    lanes: tuple[int, ...]
    pixels: int
    weight_dtype: type
    features: tuple[str, ...]
    x_offset: int = 0
    planar: bool = False
    epilogue: str = "u8"

    @property
    def kernel_name(self) -> str:
        """Id of the kernel, e.g. depthwise_u8s8_vnni512_u8."""
        return f"depthwise_u8s8_{self.family}_{self.epilogue}"

    @property
    def itemsize(self) -> int:
        """Bytes of an output."""
        return 1 if self.epilogue in NARROW else 4

    @property
    def column_nbytes(self) -> int:
        """Bytes of a channel's column parameters."""
        return 8 if self.epilogue == "u8" else 16


# 4 pixels x 4 vectors of sums + 4 of weights + 1: 21 of 32 registers (AVX512, NEON); 2 x 4 + 4 + 1
# of 16 (AVX2, SSE)
FAMILIES: tuple[DepthwiseSpec, ...] = (
    DepthwiseSpec("vnni512", 4, (16, 8), 4, np.int8, ("avx512", "avx512vnni")),
    DepthwiseSpec("vnni256", 4, (8,), 2, np.int8, ("avx2", "avxvnni")),
    DepthwiseSpec("madd512", 2, (16, 8), 4, np.int16, ("avx512",)),
    DepthwiseSpec("madd256", 2, (8,), 2, np.int16, ("avx2",)),
    DepthwiseSpec("madd128", 2, (4,), 2, np.int16, ("sse41",)),
    DepthwiseSpec("i8mm", 4, (4,), 4, np.int8, ("neon", "i8mm")),
    DepthwiseSpec("dotprod", 4, (4,), 4, np.int8, ("neon", "dotprod"), x_offset=128),
    DepthwiseSpec("neon", 2, (4,), 4, np.int16, ("neon",), planar=True),
    DepthwiseSpec("portable", 1, (1,), 1, np.int16, ()),
)
DEPTHWISE: tuple[DepthwiseSpec, ...] = tuple(
    replace(family, epilogue=epilogue) for epilogue in ("u8", "f32") for family in FAMILIES
)
DEPTHWISE_CODES = tuple(replace(family, epilogue=CODES) for family in FAMILIES)


def blocks(channels: int, spec: DepthwiseSpec) -> list[int]:
    """Lanes of each block of 4 * lanes channels."""
    widest, narrowest = spec.lanes[0], spec.lanes[-1]
    full, rest = divmod(channels, 4 * widest)
    last = ([narrowest] if rest <= 4 * narrowest else [widest]) if rest else []
    return [widest] * full + last


def pack_depthwise(w: Array, spec: DepthwiseSpec, stride_w: int, dilation_w: int) -> Array:
    """Pack w (channels, kh, kw), zero points subtracted. Returns uint8 (nbytes,).

    A tall kernel's last row lies across its columns: see `depthwise_carry`.
    """
    channels, kh, kw = w.shape
    tall = carries_tall(spec.rows, kh, kw, stride_w, dilation_w)
    if spec.family == "portable":
        taps = np.ascontiguousarray(w.transpose(1, 2, 0)).astype(np.int16)
        return taps.reshape(-1).view(np.uint8)
    groups = -(-kh // spec.rows)
    parts = []
    c0 = 0
    for lanes in blocks(channels, spec):
        order = np.array(column_order(4, lanes, "u8")) + c0
        block = np.zeros((4 * lanes, groups * spec.rows, kw), spec.weight_dtype)
        valid = order < channels
        block[valid, :kh] = w[order[valid]]
        if tall:
            last = block[:, kh - 1].copy()
            block[:, spec.rows :] = 0
            block[:, spec.rows :, 0] = last[:, : spec.rows]
            block[:, -1, 1] = last[:, -1]
        block = block.reshape(4 * lanes, groups, spec.rows, kw).transpose(3, 1, 0, 2)
        if spec.planar:
            vectors = block.reshape(kw, groups, 4, lanes, spec.rows)
            block = vectors.transpose(0, 1, 2, 4, 3)
        parts.append(np.ascontiguousarray(block).reshape(-1).view(np.uint8))
        c0 += 4 * lanes
    return np.concatenate(parts)


def pack_depthwise_columns(
    channels: int, spec: DepthwiseSpec, bias: Array, multiplier: Array, float_bias: Array
) -> Array:
    """Per block: bias int32 in the order of its sums and, in that of its outputs, multiplier
    float32; for float outputs also zeros and float bias float32, as of a tile's columns. uint8."""
    arrays = [
        np.broadcast_to(bias, channels).astype(np.int32),
        np.broadcast_to(multiplier, channels).astype(np.float32).view(np.int32),
    ]
    orders = ["u8", spec.epilogue]
    if spec.epilogue != "u8":
        arrays.append(np.zeros(channels, np.int32))
        arrays.append(np.broadcast_to(float_bias, channels).astype(np.float32).view(np.int32))
        orders += [spec.epilogue] * 2
    if spec.family == "portable":
        return np.concatenate(arrays).view(np.uint8)
    parts = []
    c0 = 0
    for lanes in blocks(channels, spec):
        for array, kind in zip(arrays, orders, strict=True):
            order = np.array(column_order(4, lanes, kind)) + c0
            valid = order < channels
            block = np.zeros(4 * lanes, np.int32)
            block[valid] = array[order[valid]]
            parts.append(block)
        c0 += 4 * lanes
    return np.concatenate(parts).view(np.uint8)


def scratch_nbytes(row: Mapping[str, int], spec: DepthwiseSpec) -> int:
    """Bytes of scratch that one thread needs."""
    if spec.family == "portable":
        return 0
    groups = -(-row["kernel_h"] // spec.rows)
    # the last tile may compute pixels that are not stored
    pixels = row["out_width"] + spec.pixels
    columns = pixels * row["stride_w"] + (row["kernel_w"] - 1) * row["dilation_w"] + 1
    return columns * groups * 16 * spec.lanes[0]
