"""Blocks of a product, from the sizes of this machine's caches.

Loops of the driver, outermost first: jc over blocks of panels (NC columns), ic over runs of tiles
(MC rows), jr over the panels of a block, ir over the tiles of a run (MR rows); the tile itself
walks all of K (KC = K).

NC: a block of panels is read once per run, so it has to stay in L2. MC: a run's rows of x and of y
are touched once per panel, so they have to stay in L1; a run costs one call, and its tiles overlap
at their ends. While a run goes over a panel, the next panel is fetched into L2. KC: sums stay in
registers. A tile reads NR x 4 bytes of weights for MR x NR / lanes dot instructions: 11 bytes a
cycle in the widest (6x64), a third of what an L2 and half of what an L3 deliver. So even a panel
that passes L2 is read as fast as it is used, and splitting K would only store and load the sums
(32768 inputs, a panel of 2 MiB: 97 % of the dot peak on Zen 4).
"""

from __future__ import annotations

from qrt.simd.caches import CacheSizes


def block_panels(panel_nbytes: int, sizes: CacheSizes) -> int:
    """Panels of `panel_nbytes` that stay in L2 while the rows of x go by; at least one.

    Half of the cache: the rest is for x and y. Where there is no L2 the next level takes its place.
    """
    room = sizes.l2 or sizes.l3 or sizes.l1d
    return max(1, room // 2 // max(panel_nbytes, 1))


def run_tiles(tile_nbytes: int, sizes: CacheSizes) -> int:
    """Tiles of rows, of `tile_nbytes` of x and y each, that stay in half of L1 while panels go by.

    At least one.
    """
    return max(1, sizes.l1d // 2 // max(tile_nbytes, 1))


def block_tiles(tiles: int, tile_nbytes: int, least: int, sizes: CacheSizes) -> int:
    """Tiles of a Winograd convolution whose transforms, `tile_nbytes` each, stay in L2, of `tiles`.

    At least `least`, since each block reads all weights; as even blocks as their number allows.
    """
    room = sizes.l2 or sizes.l3 or sizes.l1d
    most = max(least, room // 2 // tile_nbytes)
    return -(-tiles // -(-tiles // most))
