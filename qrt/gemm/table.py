"""The table of product kernels, a row per family and tile: selection, tests and benches walk it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TileSpec:
    """A tile shape of a family: MR rows; NR = nv * lanes columns in full panels.

    `widths` are the panel widths in vectors that the kernel has tiles for, widest first: a last
    panel that needs fewer vectors uses the narrowest that holds it. `single` says that there is a
    tile of one row as well (for GEMV and for the last row of a product). A tile that multiplies
    x - `x_offset` needs `x_offset` times the weights' sums in the bias. `pairs` says that in a
    vector of weights, k0 k1 of all lanes lie before k2 k3.
    """

    family: str
    mr: int
    nv: int
    lanes: int
    weight_nbytes: int
    features: tuple[str, ...]
    widths: tuple[int, ...]
    single: bool = True
    x_offset: int = 0
    pairs: bool = False

    @property
    def nr(self) -> int:
        """Columns of a full panel."""
        return self.nv * self.lanes

    def kernel_name(self, epilogue: str) -> str:
        """Id of the micro-kernel, e.g. gemm_u8s8_6x64k4_vnni512_u8."""
        return f"gemm_u8s8_{self.mr}x{self.nr}k4_{self.family}_{epilogue}"


EPILOGUES = ("u8", "f32")

# cycles, measured on one AVX512-VNNI core: a dot instruction's latency, the epilogue of a vector of
# sums, and what a tile costs before its first product
LATENCY, EPILOGUE, START = 4, 5, 80

# accumulators + weight vectors + one broadcast fill the registers: 24 + 4 + 1 of 32 (6x4) and
# 24 + 2 + 1 (12x2) with AVX512; 8 + 2 * 2 + 2 of 16 (4x2) with AVX2. NEON holds 16 bytes of every
# row: 20 + 5 + 4 of 32 and 0x80 (5x4); without dot products 12 + 3 + 4, 0x80, 4 indices, products;
# one row more spills, by llvm-mca: 6x4 dotprod 77 % of neoverse-n1's peak, 5x4 94 %
TILES: tuple[TileSpec, ...] = (
    TileSpec("vnni512", 6, 4, 16, 4, ("avx512", "avx512vnni"), (4, 2, 1)),
    TileSpec("vnni512", 12, 2, 16, 4, ("avx512", "avx512vnni"), (2, 1)),
    TileSpec("madd256", 4, 2, 8, 8, ("avx2",), (2,)),
    TileSpec("i8mm", 5, 4, 4, 4, ("neon", "i8mm"), (4, 2, 1)),
    TileSpec("dotprod", 5, 4, 4, 4, ("neon", "dotprod"), (4, 2, 1), x_offset=128),
    TileSpec("neon", 3, 4, 4, 4, ("neon",), (4, 2, 1), x_offset=128, pairs=True),
    TileSpec("portable", 4, 1, 16, 4, (), (1,), single=False),
)


def select_tile(m: int, n: int, groups: int, features: frozenset[str]) -> TileSpec:
    """The tile for an m x n product of `groups` dot groups: the newest family's cheapest."""
    usable = [t for t in TILES if features.issuperset(t.features)]
    candidates = [t for t in usable if t.family == usable[0].family]
    return min(candidates, key=lambda t: (_cost(m, n, groups, t), -t.nr))


def _cost(m: int, n: int, groups: int, tile: TileSpec) -> float:
    """Cycles of a product, about: dot products or loads, an epilogue, and a start per tile."""
    full, rest = divmod(n, tile.nr)
    widths = [(tile.nv, full)] + ([(last_width(rest, tile), 1)] if rest else [])
    cycles = 0.0
    for nv, count in widths:

        def per_tile(mr: int, nv: int = nv) -> float:
            step = max(mr * nv, 1.2 * (mr + nv), LATENCY)
            return groups * step + EPILOGUE * mr * nv + START

        last = m % tile.mr
        single = tile.single and last == 1 and nv == tile.nv
        tail = per_tile(1 if single else tile.mr) if last else 0.0
        cycles += count * (m // tile.mr * per_tile(tile.mr) + tail)
    return cycles


def padded_columns(n: int, tile: TileSpec) -> int:
    """Columns computed for n: full panels and the narrowest last panel."""
    full, rest = divmod(n, tile.nr)
    return full * tile.nr + (last_width(rest, tile) * tile.lanes if rest else 0)


def last_width(rest: int, tile: TileSpec) -> int:
    """Vectors of the panel that holds the last `rest` columns."""
    return min(w for w in tile.widths if w * tile.lanes >= rest)
