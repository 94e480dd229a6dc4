"""Which of a family's tiles a product takes, and why: what `explain` tells.

The cost model decides (`table.select_tile`). With `QRT_MEASURE=1` a measurement does: the kernels
run a small product of the same kind once per CPU (`measure`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from qrt import knobs
from qrt.gemm.driver import PRODUCTS
from qrt.gemm.measure import measured
from qrt.gemm.ranges import RECORD_NBYTES
from qrt.gemm.table import TileSpec, candidates, cost

# a measured product has at most so many rows, columns and multiply-adds: 0.1 ms at 160 GMAC/s
MAX_ROWS = 240
MAX_COLUMNS = 256
MAX_MACS = 16 << 20
MARGIN = 0.03  # what two runs of the same kernel may differ by


class Choice(NamedTuple):
    """A tile, and the reason in words; "" where the family has only this one."""

    tile: TileSpec
    why: str


def modelled(tile: TileSpec, m: int, n: int, groups: int, features: frozenset[str]) -> Choice:
    """`tile`, which the cost model prefers, with the model's figures."""
    tiles = candidates(features)
    if tile not in tiles or len(tiles) == 1:
        return Choice(tile, "")
    figures = {t: cost(m, n, groups, t) for t in tiles}
    told = ", ".join(f"{_size(t)} {figures[t] / 1e3:.1f}" for t in _first(tile, tiles))
    return Choice(tile, f"tile {_size(tile)} by cost model (kcycles: {told})")


def measures() -> bool:
    """Whether the user asked for measured choices."""
    return knobs.MEASURE.get() == "1"


def fastest(
    tile: TileSpec, fields: Mapping[str, int], epilogue: str, features: frozenset[str]
) -> Choice | None:
    """The tile that runs a product like this one fastest here; None when there is no choice.

    `tile`, which the cost model prefers, stays where it is as fast within MARGIN. `fields` are
    those of the driver's row but the operands.
    """
    tiles = candidates(features)
    if tile not in tiles or len(tiles) == 1:
        return None
    kernels = {t: PRODUCTS[t, epilogue] for t in tiles}
    # of records: where there are four numbers, those that the clock's memory holds ask for more
    sample = sample_of(fields) | {"limits_step": 0 if epilogue == "u8" else RECORD_NBYTES}
    times = measured(list(kernels.values()), sample, features)
    if times is None:
        return None
    by_tile = {t: times[k.name] for t, k in kernels.items()}
    best = min(by_tile, key=lambda t: by_tile[t] * (1 - MARGIN if t == tile else 1))
    told = ", ".join(f"{_size(t)} {by_tile[t] / 1e3:.1f}" for t in _first(best, tiles))
    m = sample["batch"] * sample["out_height"] * sample["out_width"]
    k = sample["kernel_h"] * sample["kernel_w"] * sample["channels"]
    size = f"{m}x{k}x{sample['n']}"
    return Choice(best, f"tile {_size(best)} measured (µs at {size}: {told})")


def sample_of(fields: Mapping[str, int]) -> dict[str, int]:
    """A small product of the same kind: the same taps and steps, fewer rows, columns and inputs.

    What is left over behind whole tiles stays the same where the product is cut: 120 and 128 are
    multiples of the rows and columns of every tile.
    """
    row = dict(fields) | {"batch": 1, "groups": 1, "has_sums": 0, "max_threads": 1}
    height = max(1, min(row["out_height"], MAX_ROWS // row["out_width"]))
    _cut(row, "height", "out_height", height)
    if row["out_height"] == 1 and row["out_width"] > MAX_ROWS:
        half = MAX_ROWS // 2
        _cut(row, "width", "out_width", half + row["out_width"] % half)
    if row["n"] > MAX_COLUMNS:
        row["n"] = MAX_COLUMNS // 2 + row["n"] % (MAX_COLUMNS // 2)
    per_channel = row["out_height"] * row["out_width"] * row["n"]
    per_channel *= row["kernel_h"] * row["kernel_w"]
    row["channels"] = min(row["channels"], max(64, MAX_MACS // per_channel))
    return row


def _cut(row: dict[str, int], size: str, out: str, to: int) -> None:
    """Fewer outputs; of a product without a window, as many inputs."""
    if row[size] == row[out]:
        row[size] = to
    row[out] = to


def _first(tile: TileSpec, tiles: tuple[TileSpec, ...]) -> list[TileSpec]:
    return [tile, *(t for t in tiles if t != tile)]


def _size(tile: TileSpec) -> str:
    return f"{tile.mr}x{tile.nr}"
