"""Time the kernels that only stream, against a copy of as many bytes, on every level of features.

    python bench/streams.py                            all families and levels, one thread
    python bench/streams.py quantize lookup --level avx2 --level native
    python bench/streams.py --warm                     compile only

A tensor fits L2 (512 KiB read and written), L3 (12 MiB) or only memory (192 MiB); the copy kernel
of `qrt/gemm/limits.py` moves as many bytes right before each measurement. ns per element of the
output, and the share of the copy's bandwidth that was reached.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

from qrt.bench.machine import stream_rate
from qrt.gemm.limits import GRAIN
from qrt.ir import Graph, Node, QParams, Value
from qrt.ops import OPS
from qrt.program.builder import build_program
from qrt.quant.tables import dequantize_table, quantize_table
from qrt.simd.features import active_features, detected_features, levels
from qrt.vm.executor import Executor

F32, U8, I32 = (np.dtype(d) for d in (np.float32, np.uint8, np.int32))
SIZES = {"L2": 512 << 10, "L3": 12 << 20, "memory": 192 << 20}  # bytes read and written
CHANNELS = 64
SECONDS = 0.06  # of one measurement's calls
RUNS = 3  # measurements of which the best counts


def _qparams(scale: float, zero_point: int) -> QParams:
    return QParams(np.array(scale, np.float32), np.array(zero_point, np.uint8), U8)


X, Y = _qparams(0.02, 120), _qparams(0.03, 110)
SUMS = QParams(np.array(0.001, np.float32), np.array(0, np.int32), I32)
CLAMP = {"qmin": 0, "qmax": 255}
TABLE = np.random.default_rng(0).permutation(256).astype(np.uint8)
POOL = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
AVERAGE = {**POOL, "x": X, "y": Y, **CLAMP}


@dataclass(frozen=True)
class Stream:
    """A family: one operator on inputs of one shape."""

    name: str
    op: str
    dtypes: tuple[np.dtype[Any], ...]
    attrs: dict[str, Any]
    domain: str = "qrt"

    def graph(self, nbytes: int) -> Graph:
        """The graph of one node that reads and writes about `nbytes`."""
        out = self._node((1, CHANNELS, 8, 8)).outputs[0]
        each = sum(d.itemsize for d in self.dtypes) + np.dtype(out.dtype).itemsize
        node = self._node((1, CHANNELS, 32, max(1, nbytes // each // CHANNELS // 32)))
        inputs = [v for v in node.inputs if v is not None]
        return Graph([node], inputs, list(node.outputs))

    def _node(self, shape: tuple[int, ...]) -> Node:
        layout = None if self.op == "Softmax" else (0, 2, 3, 1)
        inputs: list[Value | None] = [
            Value(f"x{i}", d, shape, layout=layout) for i, d in enumerate(self.dtypes)
        ]
        node = Node(self.op, inputs, [], self.attrs, self.domain, self.name, version=13)
        ((out, dtype),) = OPS[self.domain, self.op].infer(node)
        node.outputs = [Value("y", np.dtype(dtype), tuple(out), layout=layout)]
        return node


BINARY = {"a": X, "b": X, "y": Y, **CLAMP}
STREAMS: tuple[Stream, ...] = (
    Stream("quantize", "Quantize", (F32,), {"y": Y}),
    Stream("dequantize", "Dequantize", (U8,), {"x": X}),
    Stream("requantize", "Lookup", (U8,), {"table": quantize_table(dequantize_table(X), Y)}),
    Stream("requantize s32", "Requantize", (I32,), {"x": SUMS, "y": Y, **CLAMP}),
    Stream("lookup", "Lookup", (U8,), {"table": TABLE}),
    Stream("lookup f32", "Lookup", (U8,), {"table": TABLE.astype(np.float32)}),
    Stream("add", "Add", (U8, U8), BINARY),
    Stream("mul", "Mul", (U8, U8), BINARY),
    Stream("add f32", "Add", (F32, F32), {}, ""),
    Stream("mul f32", "Mul", (F32, F32), {}, ""),
    Stream("max pool", "MaxPool", (U8,), POOL),
    Stream("average pool", "AveragePool", (U8,), AVERAGE),
    Stream("softmax", "Softmax", (U8,), {"axes": (3,), "x": X, "y": _qparams(1 / 256, 0)}),
)


@dataclass(frozen=True)
class Prepared:
    """One call of a stream's program."""

    elements: int
    nbytes: int
    kernel: str
    call: Any
    executor: Executor


def prepare(stream: Stream, nbytes: int, features: frozenset[str], threads: int) -> Prepared:
    """The stream's program on about `nbytes` in and out, bound and fed."""
    graph = stream.graph(nbytes)
    program = build_program(graph, features, threads)
    executor = Executor(program, features, threads=threads)
    rng = np.random.default_rng(1)
    arrays = []
    for value in graph.inputs:
        draw = rng.integers(0, 256, value.static_shape, dtype=np.uint8)
        arrays.append(draw.astype(value.dtype) if value.dtype != F32 else draw * F32.type(0.04) - 5)
    call, _ = executor.take(arrays)
    assert call.enter() == 0
    moved = sum(v.nbytes for v in (*graph.inputs, *graph.outputs))
    elements = prod(graph.outputs[0].static_shape)
    return Prepared(elements, moved, program.kernels[0], call, executor)


def best_seconds(enter: Callable[[], int]) -> float:
    """Median time of a call, of calls for about SECONDS."""
    times = []
    deadline = perf_counter() + SECONDS
    while len(times) < 3 or perf_counter() < deadline:
        start = perf_counter()
        enter()
        times.append(perf_counter() - start)
    return median(times)


def feature_levels() -> list[str]:
    """Levels that this CPU runs, and `native`: all it has."""
    have = detected_features()
    return [name for name, needs in levels().items() if set(needs) <= have] + ["native"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="parts of family names; default all")
    parser.add_argument("--level", action="append", choices=feature_levels())
    parser.add_argument("--size", action="append", choices=list(SIZES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warm", action="store_true", help="compile the kernels, measure nothing")
    args = parser.parse_args(argv)
    sizes = args.size or list(SIZES)
    print(f"{'family':14} {'level':11}", *(f"{s:>8} ns {'share':>6}" for s in sizes), " kernel")
    for stream in STREAMS:
        if args.names and not any(name in stream.name for name in args.names):
            continue
        for level in args.level or feature_levels():
            features = active_features("" if level == "native" else level)
            line = []
            for size in sizes:
                nbytes = 1 << 16 if args.warm else SIZES[size]
                made = prepare(stream, nbytes, features, args.threads)
                if args.warm:
                    break
                line.append(measured(made, args.threads))
            cells = [f"{ns:11.3f} {share:6.0%}" for ns, share in line]
            print(f"{stream.name:14} {level:11}", *cells, f" {made.kernel}", flush=True)
    return 0


def measured(made: Prepared, threads: int) -> tuple[float, float]:
    """(ns per element, share of the copy's bandwidth), each the best of RUNS in turn."""
    half = made.nbytes // 2 // GRAIN * GRAIN
    seconds, copies = [], []
    for _ in range(RUNS):
        # the copy is always that of this machine's widest vectors
        copies.append(stream_rate(detected_features(), half, copies=True, threads=threads, runs=2))
        seconds.append(best_seconds(made.call.enter))
    best = min(seconds)
    return best / made.elements * 1e9, made.nbytes / best / 1e9 / max(copies)


if __name__ == "__main__":
    sys.exit(main())
