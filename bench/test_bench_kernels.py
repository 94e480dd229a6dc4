"""Kernel families over the layers of real networks, with pytest-benchmark.

    pytest bench/test_bench_kernels.py
    pytest bench/test_bench_kernels.py -k "depthwise and mobilenet_v2" --benchmark-compare

Every layer also prints GMAC/s (GB/s when it only moves bytes) and its share of what the machine
reached beside it; the same numbers stand in the report's `extra_info`. QRT_FEATURES restricts the
kernels as everywhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # pytest's path is `tests`

from bench.kernels import prepare
from bench.layers import LAYERS, Layer
from qrt.simd.features import active_features

CASES = [pytest.param(layer, id=f"{layer.family}-{layer.name}") for layer in LAYERS]


@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("layer", CASES)
def test_layer(layer: Layer, threads: int, benchmark: Any, capsys: Any) -> None:
    """One layer, one native call per round."""
    prepared = prepare(layer, active_features(), threads)
    if prepared.threads < threads:
        pytest.skip("too small for more than one thread")
    peak = prepared.peak()
    benchmark.group = layer.name
    benchmark(prepared.enter)
    if benchmark.disabled:
        return  # --benchmark-disable: run once, to see that it runs
    rate = prepared.rate(benchmark.stats.stats.median)
    unit = "GMAC/s" if layer.macs else "GB/s"
    benchmark.extra_info.update(
        kernels=prepared.kernels, rate=rate, unit=unit, peak=peak, share=rate / peak
    )
    with capsys.disabled():
        print(
            f"\n{layer.name}, {threads} threads: {rate:.1f} {unit}, {rate / peak:.0%} of"
            f" {peak:.0f} ({', '.join(prepared.kernels)})",
            end="",
        )
