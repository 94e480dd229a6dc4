"""Kernels of every family at the sizes of real networks, with pytest-benchmark.

    pytest bench/test_bench_kernels.py
    pytest bench/test_bench_kernels.py -k "depthwise and mobilenet_v2" --benchmark-compare

The cases are those of `qrt bench kernels`. Each also prints its rate and its share of the limit
that was measured beside it; the same numbers stand in the report's `extra_info`. QRT_FEATURES
restricts the kernels as everywhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # pytest's path is `tests`

from qrt.bench.cases import Case, all_cases
from qrt.bench.runner import prepare
from qrt.simd.features import active_features

CASES = [pytest.param(case, id=f"{case.label}-{case.name}") for case in all_cases()]


@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("case", CASES)
def test_case(case: Case, threads: int, benchmark: Any, capsys: Any) -> None:
    """One case, one native call per round."""
    prepared = prepare(case, active_features(), threads)
    if prepared.threads < threads:
        pytest.skip("too small for more than one thread")
    limits = {limit.name: limit.rate() for limit in prepared.limits}
    benchmark.group = f"{case.label} {case.name}"
    benchmark(prepared.enter)
    if benchmark.disabled:
        return  # --benchmark-disable: run once, to see that it runs
    rate, unit = prepared.rate(benchmark.stats.stats.median), case.family.unit
    found = {"kernels": prepared.kernels, "rate": rate, "unit": unit}
    said = "no limit is known"
    if limits:
        name = min(limits, key=lambda name: limits[name])
        found |= {"limit": name, "limit_rate": limits[name], "share": rate / limits[name]}
        said = f"{rate / limits[name]:.0%} of {limits[name]:.4g} {name}"
    benchmark.extra_info.update(found)
    with capsys.disabled():
        print(
            f"\n{case.label} {case.name}, {threads} threads: {rate:.1f} {unit}, {said}"
            f" ({', '.join(prepared.kernels)})",
            end="",
        )
