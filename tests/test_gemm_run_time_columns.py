"""Column parameters that the data completes: what dynamic quantization puts into a product."""

from __future__ import annotations

from itertools import product as combinations

import numpy as np
import pytest
from kernel_harness import new_value, run_rows
from kernel_trace import strays, trace_kernel
from product_cases import ProductBench, Tally

from qrt.gemm.run_time_columns import FIELDS, SCALED, run_time_columns_kernel
from qrt.program.constants import aligned_bytes
from qrt.simd.features import active_features

ANYTHING = (-(2**63), -1, 0, 1, 3, 17, 1000, 2**31, 2**40, 2**62)


def test_same_bits() -> None:
    """bias - code * slope wraps; a slope of SCALED multiplies, whatever the scale is."""
    tally = Tally("run_time_columns", seed=951)
    rng = np.random.default_rng(tally.seed)
    scales = (np.float32(0.37), np.float32(0), np.float32(np.inf), np.float32(1e-40))
    counts = (0, 1, 7, 16, 33, 16384 + 5)
    for count, code, scale, threads in combinations(counts, (0, 1, 128, 255), scales, (1, 2)):
        slopes = rng.integers(-(2**31) + 1, 2**31, count).astype(np.int32)
        factors = rng.random(count) < 0.4
        slopes[factors] = SCALED
        template = rng.integers(-(2**31), 2**31, count).astype(np.int32)
        reals = rng.standard_normal(count).astype(np.float32)
        template[factors] = reals[factors].view(np.int32)
        bench = ProductBench(active_features(), threads)
        pad_nbytes = int(rng.integers(0, 40))
        values = new_value("scale", np.float32, ()), new_value("zero", np.uint8, ())
        x_scale, x_zero_point = (bench.operand(value) for value in values)
        columns, pad = bench.scratch(4 * count), bench.scratch(pad_nbytes)
        bench.emit(
            run_time_columns_kernel, template=bench.constant(template),
            slopes=bench.constant(slopes), x_scale=x_scale, x_zero_point=x_zero_point,
            columns=columns, pad=pad, count=count, pad_nbytes=pad_nbytes,
        )  # fmt: skip
        bench.check_extents()
        arena = aligned_bytes(bench.arena_nbytes)
        arena[:] = rng.integers(0, 256, arena.size, dtype=np.uint8)
        arena[x_scale.offset :][:4] = np.array([scale]).view(np.uint8)
        arena[x_zero_point.offset] = code
        want = arena.copy()
        with np.errstate(all="ignore"):
            scaled = (reals * scale).view(np.int32)
            shifted = (template.astype(np.int64) - code * slopes.astype(np.int64)).astype(np.int32)
        both = np.where(factors, scaled, shifted).astype(np.int32)
        want[columns.offset :][: 4 * count] = both.view(np.uint8)
        want[pad.offset :][:pad_nbytes] = code
        run_rows(bench, arena, np.frombuffer(bytes(bench.constants), np.uint8), threads)
        case = f"{count} columns, code {code}, scale {scale}, {threads} threads"
        tally.compare(case, arena, want, (run_time_columns_kernel.name,))
    tally.finish()


def test_extents() -> None:
    """Rows of hostile numbers are refused, or touch nothing outside of what they say."""
    tally = Tally("run_time_columns", seed=952)
    rng = np.random.default_rng(tally.seed)
    for i in range(40):
        row = dict.fromkeys(FIELDS, 0) | {"count": int(rng.integers(0, 40)), "pad_nbytes": 5}
        if i % 3:
            row[str(rng.choice(FIELDS[6:]))] = int(rng.choice(np.array(ANYTHING, object)))
        try:
            extents = run_time_columns_kernel.extents(row)
        except ValueError:
            tally.expect(row, i % 3 != 0, "refused")
            continue
        if any(e.nbytes > 2**16 for e in extents):
            continue
        for thread in range(2):
            trace = trace_kernel(run_time_columns_kernel, row, thread, 2, limit=40_000)
            found = strays(trace, run_time_columns_kernel, extents)
            tally.expect(row, not found, f"{len(found)} strays, {found[:1]}")
    tally.finish()


@pytest.mark.parametrize("name", ("count", "pad_nbytes"))
def test_negative_sizes_are_refused(name: str) -> None:
    row = dict.fromkeys(FIELDS, 1) | {name: -1}
    with pytest.raises(ValueError, match=name):
        run_time_columns_kernel.extents(row)
