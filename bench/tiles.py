"""Time products and convolutions once per tile of the table, and by Winograd, forced.

Is the choice right?

    python bench/tiles.py bert                    shapes whose name contains bert
    python bench/tiles.py --features avx2         as on a CPU without AVX512

`*` marks the tile that qrt picks. Rates and shares as `qrt bench kernels` prints them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

from qrt import knobs
from qrt.bench.cases import choose_cases
from qrt.bench.runner import measure, prepare
from qrt.gemm.table import TILES, TileSpec, select_tile
from qrt.ops import product_rows
from qrt.simd.features import active_features


@contextmanager
def forced_tile(tile: TileSpec) -> Iterator[None]:
    """Make products take `tile`, unless a precondition sends them to the portable one."""

    def choose(*args: Any) -> TileSpec:
        return tile if set(tile.features) <= args[-1] else select_tile(*args)

    with patch.object(product_rows, "select_tile", choose), forced_winograd("never"):
        yield


def forced_winograd(wish: str) -> AbstractContextManager[Any]:
    """Make convolutions follow `wish` (`knobs.WINOGRAD`)."""
    return patch.dict(os.environ, {knobs.WINOGRAD.name: wish})


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per shape and tile."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", help="parts of shapes' names; default all")
    parser.add_argument("--features", help="CPU features to use (default: all there are)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.1, help="per shape and tile")
    args = parser.parse_args(argv)
    features = active_features(args.features)
    for case in choose_cases(("gemm", "gemv", "conv"), args.shapes):
        picked = prepare(case, features, args.threads).kernels
        forced = [forced_tile(t) for t in TILES if features.issuperset(t.features)]
        for force in (*forced, forced_winograd("always")):
            with force:
                prepared = prepare(case, features, args.threads)
            if force not in forced and "winograd" not in prepared.kernels[-1]:
                continue
            measured = measure(prepared, args.seconds)
            mark = "*" if measured.kernels == picked else " "
            print(
                f"{case.name:45} {measured.median_us:9.1f} us {measured.rate:8.1f} GMAC/s"
                f" {measured.share or 0:6.0%} {mark}{', '.join(measured.kernels)}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
