"""The table of Winograd convolutions: a row per family of int16 tiles, and its packing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qrt.gemm.pack import Array, pack_columns, panel_widths
from qrt.gemm.table import WEIGHT_NBYTES, TileSpec, cost, padded_columns, select_tile
from qrt.gemm.winograd import BIAS_FACTOR, POSITIONS, transform_weights


@dataclass(frozen=True)
class WinogradSpec:
    """A family: the tiles of its products, whose dot group is an int16 pair.

    Cycles, about, on one core: of the transforms of a tile per vector of channels and per vector of
    columns, and of a pair of channels times a vector of columns. `direct` is how many cycles the
    direct product takes for one of `table.cost`, which counts those of AVX512-VNNI.
    """

    tile: TileSpec
    input_cycles: float
    output_cycles: float
    pair_cycles: float
    direct: float

    @property
    def features(self) -> tuple[str, ...]:
        """CPU features it needs."""
        return self.tile.features

    @property
    def channels(self) -> int:
        """Channels of one vector of transformed inputs, int16."""
        return 2 * self.tile.lanes

    @property
    def epilogue_tile(self) -> TileSpec:
        """One vector of columns: what the output transform requantizes at a time."""
        return replace(self.tile, widths=(1,))

    def kernel_name(self, epilogue: str) -> str:
        """Id of the kernel, e.g. winograd_4x4_3x3_u8s8_vnni512_u8."""
        return f"winograd_4x4_3x3_u8s8_{self.tile.family.removesuffix('_words')}_{epilogue}"


_VNNI = ("avx512", "avx512vnni")
_256 = {"input_cycles": 400, "output_cycles": 190}
_512 = {"input_cycles": 260, "output_cycles": 300}
# accumulators + weights + a broadcast: 24 + 4 + 1 of 32 registers; 12 + 2 + 1 + a product of 16.
# A block is shared out evenly among tiles of at most MR rows: few of them have less than MR / 2.
# Cycles are those of a Zen 4 core (fitted to bench/tiles.py)
WINOGRAD: tuple[WinogradSpec, ...] = (
    WinogradSpec(
        TileSpec("vnni512_words", (6, 5, 4), (4, 2, 1), 16, 2, _VNNI), **_512,
        pair_cycles=1, direct=1.03,
    ),
    WinogradSpec(
        TileSpec("vnni256_words", (6, 5, 4), (2, 1), 8, 2, ("avx2", "avxvnni")), **_256,
        pair_cycles=0.55, direct=0.55,
    ),
    WinogradSpec(
        TileSpec("madd512", (6, 5, 4), (4, 2, 1), 16, 2, ("avx512",)), **_512,
        pair_cycles=1.38, direct=2.8,
    ),
    WinogradSpec(
        TileSpec("madd256", (6, 5, 4), (2, 1), 8, 2, ("avx2",)), **_256,
        pair_cycles=0.67, direct=1.4,
    ),
    WinogradSpec(
        TileSpec("madd128", (4, 3, 2), (2, 1), 4, 2, ("sse41",)), input_cycles=350,
        output_cycles=180, pair_cycles=0.76, direct=1.4,
    ),
    # the row of AVX-VNNI in the other encoding: never chosen, but it runs where that one does not
    WinogradSpec(
        TileSpec("vnni256vl_words", (6, 5, 4), (2, 1), 8, 2, _VNNI), **_256,
        pair_cycles=0.55, direct=0.55,
    ),
)  # fmt: skip

# bytes per cycle of weights, which pass L2 from layer to layer: what they cost beside the products.
# In the YOLO-like net of the bench, layers of 10x10 and less are faster directly
STREAM = 16


def select_winograd(
    tiles: int, m: int, channels: int, n: int, features: frozenset[str]
) -> WinogradSpec | None:
    """The newest family's row where it should beat the direct product of m outputs, else None.

    `tiles` of the image at `channels` inputs and n columns, in one convolution of batch or more.
    """
    spec = next((s for s in WINOGRAD if features.issuperset(s.features)), None)
    if spec is None or not m * channels * n:
        return None
    padded = padded_columns(n, spec.tile)
    vectors = padded // spec.tile.lanes
    pairs = -(-channels // 2)
    transforms = (
        spec.input_cycles * -(-channels // spec.channels) + spec.output_cycles * vectors
    )
    products = tiles * POSITIONS * pairs * vectors * spec.pair_cycles
    weights = POSITIONS * pairs * padded * WEIGHT_NBYTES / STREAM
    groups = min(9 * -(-channels // 4), 3 * -(-3 * channels // 4))  # by taps or by kernel rows
    direct = spec.direct * cost(m, n, groups, select_tile(m, n, groups, features))
    return spec if tiles * transforms + products + weights < direct else None


def pack_winograd(w: Array, spec: WinogradSpec) -> Array:
    """Transform and pack w (n, channels, 3, 3), |w| <= 255. Returns uint8 (nbytes,).

    Panels of columns; in a panel the 36 positions; in a position pairs of channels; in a pair
    columns; each with its two int16.
    """
    n, channels = w.shape[:2]
    pairs = -(-channels // 2)
    transformed = transform_weights(w)
    parts = []
    column = 0
    for nv in panel_widths(n, spec.tile):
        width = nv * spec.tile.lanes
        block = np.zeros((POSITIONS, width, 2 * pairs), np.int16)
        some = transformed[:, column : column + width]
        block[:, : some.shape[1], :channels] = some
        block = block.reshape(POSITIONS, width, pairs, 2).transpose(0, 2, 1, 3)
        parts.append(np.ascontiguousarray(block).reshape(-1).view(np.uint8))
        column += width
    return np.concatenate(parts)


def pack_winograd_bias(bias: Array, spec: WinogradSpec) -> Array:
    """What sums start with, int32: zeros for a panel, then the bias of every column as position
    `BIAS_POSITION` adds it. Returns uint8 (nbytes,)."""
    starts = np.zeros(spec.tile.nr + padded_columns(bias.size, spec.tile), np.int64)
    starts[spec.tile.nr :][: bias.size] = bias.astype(np.int64) * BIAS_FACTOR
    return starts.astype(np.uint64).astype(np.uint32).view(np.uint8)


def pack_winograd_columns(
    n: int, spec: WinogradSpec, epilogue: str, multiplier: Array, float_bias: Array
) -> Array:
    """Column parameters of the epilogue, a vector of columns after the other, uint8 (nbytes,)."""
    zero = np.zeros((), np.int32)
    return pack_columns(n, spec.epilogue_tile, epilogue, zero, multiplier, zero, float_bias)
