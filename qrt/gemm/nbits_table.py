"""The tables of products with weights of 2, 4 and 8 bits in blocks: a row per family and bits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

BITS = (2, 4, 8)
GROUP_BITS = 32  # of one column's weights that lie together: a lane of a vector
BLOCK_UNIT = 16  # weights that a block is a multiple of: the largest group, of 2 bits


@dataclass(frozen=True)
class NBitsTile:
    """Tiles of a family for weights of `bits`: MR rows, NR = nv * lanes columns in every panel.

    `types` are those of the activations: "s8", quantized in blocks, or "f32". `heights` are the
    rows that tiles have, tallest (MR) first; the last rows of a product take the lowest that holds
    them. The families are those of `nbits_dots`; "portable" is the scalar definition.
    """

    family: str
    types: str
    bits: int
    heights: tuple[int, ...]
    nv: int
    lanes: int
    features: tuple[str, ...]

    @property
    def mr(self) -> int:
        """Rows of a full tile."""
        return self.heights[0]

    @property
    def nr(self) -> int:
        """Columns of a panel."""
        return self.nv * self.lanes

    @property
    def kernel_name(self) -> str:
        """Id of the kernel, e.g. nbits_s8_6x32_4b_vnni512."""
        return f"nbits_{self.types}_{self.mr}x{self.nr}_{self.bits}b_{self.family}"


# One panel serves one row and many: a second shape shares the weights. Registers: 12 + 12 sums in
# int32 and float32, 2 vectors of weights (6x2 of 32, AVX512); 3 + 3 (3x1 of 16, AVX2, whose
# products without VNNI need temporaries); 12 + 12 + 4 (3x4 of 32, NEON). Floats have one sum each,
# and scale and zero point beside every vector of weights: 24 + 6 (12x2 of 32, AVX512)
_VNNI, _VEX_VNNI = ("avx512", "avx512vnni", "fma"), ("avx2", "avxvnni", "fma")
_S8: tuple[tuple[str, tuple[int, ...], int, int, tuple[str, ...]], ...] = (
    ("vnni512", (6, 4, 3, 2, 1), 2, 16, _VNNI),
    ("vnni256", (4, 3, 2, 1), 1, 8, _VEX_VNNI),
    ("madd512", (6, 4, 2, 1), 2, 16, ("avx512", "fma")),
    ("madd256", (4, 2, 1), 1, 8, ("avx2", "fma")),
    # the tile of AVX-VNNI in the other encoding: never chosen, but it runs where that one does not
    ("vnni256vl", (4, 3, 2, 1), 1, 8, _VNNI),
    ("dotprod", (3, 2, 1), 4, 4, ("neon", "dotprod")),
    ("neon", (2, 1), 4, 4, ("neon",)),
    ("portable", (4,), 1, 16, ()),
)
_F32: tuple[tuple[str, tuple[int, ...], int, int, tuple[str, ...]], ...] = (
    ("fma512", (12, 8, 6, 4, 3, 2, 1), 2, 16, ("avx512", "fma")),
    ("fma256", (4, 3, 2, 1), 2, 8, ("avx2", "fma")),
    ("fmla", (6, 4, 3, 2, 1), 2, 4, ("neon",)),
    ("portable", (4,), 1, 16, ()),
)
NBITS_TILES: tuple[NBitsTile, ...] = tuple(
    NBitsTile(family, types, bits, heights, nv, lanes, features)
    for (types, rows), bits in product((("s8", _S8), ("f32", _F32)), BITS)
    for family, heights, nv, lanes, features in rows
)


def select_nbits(types: str, bits: int, features: frozenset[str]) -> NBitsTile:
    """The newest family that `features` allow."""
    return next(
        t
        for t in NBITS_TILES
        if t.types == types and t.bits == bits and features.issuperset(t.features)
    )


def panels_of(n: int, tile: NBitsTile) -> int:
    """Panels of n columns; the last one is padded."""
    return -(-n // tile.nr)


def block_nbytes(block: int, tile: NBitsTile) -> int:
    """Bytes of one block of a panel: its weights, then a float32 scale for every column."""
    return block * tile.nr * tile.bits // 8 + 4 * tile.nr
