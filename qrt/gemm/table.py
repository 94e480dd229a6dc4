"""The table of product kernels, a row per family and tile: selection, tests and benches walk it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TileSpec:
    """A tile shape of a family: MR rows; NR = nv * lanes columns in full panels.

    `types` are those of activations and weights: u8s8, or f32 for both.

    `widths` are the panel widths in vectors that the kernel has tiles for, widest first: a last
    panel that needs fewer vectors uses the narrowest that holds it. `heights` are the rows that
    tiles have, tallest (MR) first: the last rows of a product, and all rows of a short one (GEMV),
    take the lowest tile that holds them. A tile that multiplies x - `x_offset` needs `x_offset`
    times the weights' sums in the bias. `pairs` says that in a vector of weights, k0 k1 of all
    lanes lie before k2 k3, from whose x one less is subtracted; `octets` that a column's weights of
    two groups lie side by side, as long as a tap has two. `kr` are the bytes of x in a dot group: a
    tile of 2 multiplies pairs of int16 (`words`), and the driver widens its rows once for all
    panels (`widen.py`).
    """

    family: str
    heights: tuple[int, ...]
    widths: tuple[int, ...]
    lanes: int
    kr: int
    features: tuple[str, ...]
    x_offset: int = 0
    pairs: bool = False
    types: str = "u8s8"
    octets: bool = False

    @property
    def x_nbytes(self) -> int:
        """Bytes of one activation."""
        return 4 if self.types == "f32" else 1

    @property
    def mr(self) -> int:
        """Rows of a full tile."""
        return self.heights[0]

    @property
    def nv(self) -> int:
        """Vectors of a full panel."""
        return self.widths[0]

    @property
    def words(self) -> bool:
        """True where activations and weights are int16."""
        return self.kr == 2

    @property
    def nr(self) -> int:
        """Columns of a full panel."""
        return self.nv * self.lanes

    def x_offsets(self, channels: int) -> Array:
        """What is subtracted from each of a tap's `channels` inputs: int64 (channels,)."""
        last_pair = np.arange(channels) % 4 >= 2
        return self.x_offset - (last_pair & self.pairs).astype(np.int64)

    def kernel_name(self, epilogue: str) -> str:
        """Id of the micro-kernel, e.g. gemm_u8s8_6x64k4_vnni512_u8, gemm_f32_6x64_fma512."""
        if self.types == "f32":
            return f"gemm_f32_{self.mr}x{self.nr}_{self.family}"
        return f"gemm_u8s8_{self.mr}x{self.nr}k{self.kr}_{self.family}_{epilogue}"


EPILOGUES = ("u8", "f32", "sums")
CODES = "codes"  # bytes by a scale that is known only behind the sums (dynamic quantization)
WEIGHT_NBYTES = 4  # of one column's weights in a dot group, whatever their type

# cycles, fitted to 1 to 196 rows of 8 to 240 columns on one AVX512-VNNI core (0.4 % above the best
# of two tiles in the mean): 64 bytes of weights from L2, the epilogue of a vector of sums, what a
# tile costs before its first product, and what a float sum waits for itself
LOAD, EPILOGUE, START, LATENCY = 2, 2.5, 8, 4

# accumulators + weight vectors + one broadcast fill the registers: 24 + 4 + 1 of 32 (6x4) and
# 16 + 2 + 1 (8x2) with AVX512; 12 + 2 + 1 of 16 (6x2) with 256-bit vectors, and one for products
# where the instruction does not add. NEON holds 16 bytes of every row: 20 + 5 + 4 of 32 and 0x80
# (5x4); without dot products 8 + 2 + 8, 4 indices and the products (2x4). One row more spills, by
# llvm-mca: 6x4 dotprod 77 % of neoverse-n1's peak, 5x4 94 %; 3x4 neon 66 % of cortex-a72's, 2x4
# all. i8mm holds 16 bytes of two rows in two registers: 16 + 4 + 4 (4x4), 89 % of neoverse-v1's
# peak; 6x4 spills, 67 %
_VNNI, _VEX_VNNI = ("avx512", "avx512vnni"), ("avx2", "avxvnni")
TILES: tuple[TileSpec, ...] = (
    TileSpec("vnni512", (6, 5, 4, 3, 2, 1), (4, 2, 1), 16, 4, _VNNI),
    TileSpec("vnni512", (8, 6, 5, 4, 3, 2, 1), (2, 1), 16, 4, _VNNI),
    TileSpec("vnni256", (6, 4, 2, 1), (2, 1), 8, 4, _VEX_VNNI),
    TileSpec("madd512", (6, 4, 2, 1), (4, 2, 1), 16, 2, ("avx512",)),
    TileSpec("madd256", (6, 4, 2, 1), (2, 1), 8, 2, ("avx2",)),
    TileSpec("madd128", (4, 2, 1), (2, 1), 4, 2, ("sse41",)),
    # the tile of AVX-VNNI in the other encoding: never chosen, but it runs where that one does not
    TileSpec("vnni256vl", (6, 4, 2, 1), (2, 1), 8, 4, _VNNI),
    TileSpec("i8mm", (4, 2, 1), (4, 2, 1), 4, 4, ("neon", "i8mm"), octets=True),
    TileSpec("dotprod", (5, 4, 3, 2, 1), (4, 2, 1), 4, 4, ("neon", "dotprod"), x_offset=128),
    TileSpec("neon", (2, 1), (4, 2, 1), 4, 4, ("neon",), x_offset=128, pairs=True),
    TileSpec("portable", (4,), (1,), 16, 4, ()),
)

# float32: 24 + 4 + 1 and 24 + 2 + 1 registers of 32 (AVX512), 12 + 2 + 1 of 16 (AVX2). NEON holds
# four values of every row: 20 + 5 + 4 of 32. One row has panels of its own where a register is
# narrow: eight sums hide the latency. Emulated, a step's intermediates take the registers
FLOAT_TILES: tuple[TileSpec, ...] = (
    TileSpec("fma512", (6, 5, 4, 3, 2, 1), (4, 2, 1), 16, 4, ("avx512", "fma"), types="f32"),
    TileSpec("fma512", (12, 9, 6, 3, 1), (2, 1), 16, 4, ("avx512", "fma"), types="f32"),
    TileSpec("fma256", (6, 5, 4, 3, 2, 1), (2, 1), 8, 4, ("avx2", "fma"), types="f32"),
    TileSpec("fma256", (1,), (8, 4, 1), 8, 4, ("avx2", "fma"), types="f32"),
    TileSpec("fmla", (5, 4, 3, 2, 1), (4, 2, 1), 4, 4, ("neon",), types="f32"),
    TileSpec("fmla", (1,), (8, 4, 1), 4, 4, ("neon",), types="f32"),
    TileSpec("emulated", (4, 1), (2, 1), 4, 4, (), types="f32"),
)
FLOAT_EPILOGUE = "f32"  # the only one that float sums have


def select_tile(
    m: int,
    n: int,
    groups: int,
    features: frozenset[str],
    tiles: tuple[TileSpec, ...] = TILES,
) -> TileSpec:
    """The tile for an m x n product of `groups` dot groups: the newest family's cheapest."""
    return min(candidates(features, tiles), key=lambda t: (cost(m, n, groups, t), -t.nr))


def candidates(
    features: frozenset[str], tiles: tuple[TileSpec, ...] = TILES
) -> tuple[TileSpec, ...]:
    """The tiles of the newest family that `features` allow."""
    usable = [t for t in tiles if features.issuperset(t.features)]
    return tuple(t for t in usable if t.family == usable[0].family)


def cost(m: int, n: int, groups: int, tile: TileSpec) -> float:
    """Cycles of a product, about: dot products or loads, an epilogue, and a start per tile."""
    full, rest = divmod(n, tile.nr)
    widths = [(tile.nv, full)] + ([(last_width(rest, tile), 1)] if rest else [])
    heights = [(tile.mr, m // tile.mr)] + ([(last_height(m, tile), 1)] if m % tile.mr else [])
    per_four = WEIGHT_NBYTES * 4 // tile.kr  # bytes of a column's weights in a group of four
    cycles = 0.0
    for (nv, panels), (mr, tiles) in product(widths, heights):
        step = max(mr * nv, mr + nv, LOAD * nv * tile.lanes * per_four / 64)
        if tile.types == "f32":
            step = max(step, LATENCY)
        cycles += panels * tiles * (groups * step + EPILOGUE * mr * nv + START)
    return cycles


def last_height(m: int, tile: TileSpec) -> int:
    """Rows of the tile that takes the last m % MR rows of m."""
    return min(h for h in tile.heights if h >= m % tile.mr)


def padded_columns(n: int, tile: TileSpec) -> int:
    """Columns computed for n: full panels and the narrowest last panel."""
    full, rest = divmod(n, tile.nr)
    return full * tile.nr + (last_width(rest, tile) * tile.lanes if rest else 0)


def last_width(rest: int, tile: TileSpec) -> int:
    """Vectors of the panel that holds the last `rest` columns."""
    return min(w for w in tile.widths if w * tile.lanes >= rest)
