"""Time kernels at the sizes of real layers, beside what this machine reaches at most.

    python bench/kernels.py                         all layers, the kernels that qrt would pick
    python bench/kernels.py resnet50 --threads 2    layers whose name contains resnet50
    python bench/kernels.py bert --tiles            every tile of the table, forced
    python bench/kernels.py --features avx2         as on a CPU without AVX512

Products and depthwise convolutions are judged by multiply-adds against a dot loop on registers,
measured right before each layer; the others by bytes read and written against a plain copy of as
many, in the same level of cache. Times are of one native call, warm, the median of many.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

from bench.layers import LAYERS, Layer, layer_graph, layer_inputs
from bench.machine import dot_rate, stream_rate
from qrt.gemm.limits import DOT_LIMITS
from qrt.gemm.table import TILES, TileSpec, select_tile
from qrt.ops import product_rows
from qrt.program.builder import build_program
from qrt.simd.features import active_features
from qrt.vm.executor import Executor

MIN_CALLS = 11
MAX_CALLS = 2001
MEMORY_NBYTES = 64 << 20  # for the bandwidth of memory: larger than the last level of any cache


@dataclass
class Measured:
    """One layer on one choice of kernels."""

    layer: str
    family: str
    kernels: list[str]
    microseconds: float  # median
    fastest: float  # minimum, microseconds
    rate: float  # GMAC/s, or GB/s for element-wise layers; by the median
    peak: float  # the same of this machine, measured beside

    @property
    def share(self) -> float:
        """Part of the peak that was reached, 0 to 1."""
        return self.rate / self.peak


@dataclass
class Prepared:
    """A layer's program, bound and fed: `enter` is one native call."""

    layer: Layer
    kernels: list[str]
    touched_nbytes: int
    threads: int
    features: frozenset[str]
    call: Any
    keep: Any

    @property
    def enter(self) -> Any:
        """Run once; 0 is success."""
        return self.call.enter

    def peak(self) -> float:
        """GMAC/s of one core's dot loop times the threads, or GB/s of a copy; of this moment."""
        if self.layer.macs:
            family = next((f for f in ("vnni512", "madd256") if self._uses(f)), "portable")
            return dot_rate(self.features, family) * self.threads
        nbytes = self.touched_nbytes // 2
        return stream_rate(self.features, nbytes, copies=True, threads=self.threads)

    def rate(self, seconds: float) -> float:
        """GMAC/s or GB/s of a call that took `seconds`."""
        return (self.layer.macs or self.touched_nbytes) / seconds / 1e9

    def _uses(self, family: str) -> bool:
        # depthwise kernels are called after the instruction without its width
        return any(family in k or k.endswith(f"_{family[:4]}") for k in self.kernels)


def prepare(layer: Layer, features: frozenset[str], threads: int = 1) -> Prepared:
    """Lower, compile and feed one layer."""
    graph = layer_graph(layer)
    program = build_program(graph, features, threads)
    executor = Executor(program, features, threads=threads)
    call, home = executor.take(layer_inputs(graph))
    assert call.enter() == 0
    touched = sum(v.nbytes for v in (*graph.inputs, *graph.outputs))
    kept = (executor, home)
    return Prepared(layer, list(program.kernels), touched, executor.threads, features, call, kept)


def measure(prepared: Prepared, seconds: float) -> Measured:
    """Time calls for about `seconds`, in two halves with the peak measured before each."""
    times: list[int] = []
    peaks = []
    for _ in range(2):
        peaks.append(prepared.peak())
        _take_times(prepared.enter, seconds / 2, times)
    middle = median(times) / 1e9
    return Measured(
        prepared.layer.name,
        prepared.layer.family,
        prepared.kernels,
        middle * 1e6,
        min(times) / 1e3,
        prepared.rate(middle),
        max(peaks),
    )


def _take_times(enter: Any, seconds: float, times: list[int]) -> None:
    clock = time.perf_counter_ns
    deadline = clock() + int(seconds * 1e9)
    for _ in range(3):
        enter()
    for i in range(MAX_CALLS):
        start = clock()
        enter()
        stop = clock()
        times.append(stop - start)
        if i >= MIN_CALLS and stop > deadline:
            return


def forced_tile(tile: TileSpec) -> AbstractContextManager[Any]:
    """Make products take `tile`, unless a precondition sends them to the portable one."""

    def choose(*args: Any) -> TileSpec:
        return tile if set(tile.features) <= args[-1] else select_tile(*args)

    return patch.object(product_rows, "select_tile", choose)


def measure_all(
    layers: Sequence[Layer], features: frozenset[str], threads: int, seconds: float, tiles: bool
) -> Iterator[Measured]:
    """Measure layers in turn; with `tiles`, products once per tile that may run."""
    usable = [t for t in TILES if features.issuperset(t.features)]
    for layer in layers:
        if tiles and layer.family == "product":
            for tile in usable:
                with forced_tile(tile):
                    yield measure(prepare(layer, features, threads), seconds)
        else:
            yield measure(prepare(layer, features, threads), seconds)


def format_row(measured: Measured) -> str:
    """One line of the table."""
    unit = "GB/s  " if measured.family == "elementwise" else "GMAC/s"
    return (
        f"{measured.layer:26} {measured.microseconds:9.1f} {measured.fastest:9.1f}"
        f" {measured.rate:8.1f} {unit} {measured.share:6.0%}  {', '.join(measured.kernels)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when no layer has the name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="parts of layer names, or a family; default all")
    parser.add_argument("--features", help="CPU features to use (default: all there are)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.1, help="per layer")
    parser.add_argument("--tiles", action="store_true", help="force every tile on every product")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    chosen = [
        layer
        for layer in LAYERS
        if not args.names or any(n in layer.name or n == layer.family for n in args.names)
    ]
    if not chosen:
        print(f"no layer is called {args.names}", file=sys.stderr)
        return 1
    features = active_features(args.features)
    measured = measure_all(chosen, features, args.threads, args.seconds, args.tiles)
    if args.json:
        rows = [asdict(m) | {"share": m.share} for m in measured]
        print(json.dumps({"limits": limits(features), "layers": rows}, indent=1))
        return 0
    for name, rate in limits(features).items():
        print(f"{name:26} {rate:8.1f}")
    header = f"{'layer':26} {'median µs':>9} {'min µs':>9} {'rate':>8} {'':6} {'peak':>6}  kernels"
    print(f"\n{header}\n{'-' * len(header)}")
    for m in measured:
        print(format_row(m), flush=True)
    return 0


def limits(features: frozenset[str]) -> dict[str, float]:
    """The machine's rates by name: dot loops of every family that runs, and memory."""
    found = {
        f"{limit.family} dots, GMAC/s": dot_rate(features, limit.family)
        for limit in DOT_LIMITS
        if features.issuperset(limit.features)
    }
    for name, nbytes in (("L1", 16 << 10), ("L2", 256 << 10), ("memory", MEMORY_NBYTES)):
        found[f"{name} read, GB/s"] = stream_rate(features, nbytes, copies=False)
        found[f"{name} copy, GB/s"] = stream_rate(features, nbytes // 2, copies=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
