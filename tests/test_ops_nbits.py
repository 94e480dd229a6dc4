"""Kernels around products of few and of many bits: packed tables, bytes of words, joined sums."""

from __future__ import annotations

from itertools import product as combinations
from typing import Any

import numpy as np
import pytest
from kernel_harness import channels_last, feature_levels, new_value, run_node
from operator_cases import Cases, constant, same

from qrt.ir import Node, QParams
from qrt.ops import wide
from qrt.ops.spec import OpSpec

Array = np.ndarray[Any, Any]
F = np.float32
THREADS = (1, 3)


def check(
    cases: Cases, case: object, spec: OpSpec, node: Node, inputs: list[Array | None],
    want: list[Array],
) -> None:  # fmt: skip
    """All levels and numbers of threads, and the reference, give `want`."""
    for level, threads in combinations(feature_levels(), THREADS):
        try:
            got = run_node(spec, node, inputs, level, threads)
        except AssertionError as error:
            cases.check((case, level, threads), str(error))
            continue
        for a, b in zip(got, want, strict=True):
            cases.check((case, level, threads), same(a, b))
    assert spec.reference is not None
    given = [v if v is not None else None if i is None else i.data
             for v, i in zip(inputs, node.inputs, strict=True)]  # fmt: skip
    for a, b in zip(spec.reference(node, given), want, strict=True):
        cases.check((case, "reference"), same(np.asarray(a), b))


@pytest.mark.parametrize("dtype", (np.uint16, np.int16))
def test_split_bytes(dtype: Any) -> None:
    """Every value there is."""
    x = np.arange(65536).astype(np.uint16).view(dtype).reshape(2, 8, 4096)
    raised = x.astype(np.int64) - np.iinfo(dtype).min
    want = [(raised // 256).astype(np.uint8), (raised % 256).astype(np.uint8)]
    outputs = [new_value(name, np.uint8) for name in ("high", "low")]
    node = Node("SplitBytes", [new_value("x", dtype, x.shape)], outputs, {}, "qrt")
    with Cases("SplitBytes") as cases:
        check(cases, dtype, wide.SPLIT, node, [x], want)


@pytest.mark.parametrize("name", (None, "uint8", "uint16", "int16"))
def test_join_sums(name: str | None) -> None:
    """256 * high + low passes int32; the float32 of an int64 is rounded once."""
    rng = np.random.default_rng(951)
    with Cases(f"JoinSums, {name}") as cases:
        for images, per_channel, biased in combinations((False, True), repeat=3):
            shape: tuple[int, ...] = (2, 7, 3, 4) if images else (3, 37)
            axis, n = (1, 7) if images else (-1, 37)
            high, low = (rng.integers(-(2**31), 2**31, shape, np.int32) for _ in range(2))
            bias = rng.integers(-(2**40), 2**40, n) if biased else None
            added = rng.standard_normal(n).astype(F) if biased and name is None else None
            scale = (rng.random(n if per_channel else 1) + 0.5).astype(F)
            along = [1] * len(shape)
            along[axis] = -1
            exact = high.astype(object) * 256 + low.astype(object)
            if bias is not None:
                exact = exact + bias.astype(object).reshape(along)
            sums = exact.astype(np.int64).astype(F)
            assert np.abs(exact).max() > 2**37
            y, limits = None, (0, 0)
            if name is None:
                want = sums * scale.reshape(along if per_channel else ())
                if added is not None:
                    want = want + added.reshape(along)
            else:
                dtype = np.dtype(name)
                span = np.iinfo(dtype)
                zero_point = np.array(span.max // 3, dtype)
                y = QParams(np.array(2.0**26, F), zero_point, dtype)
                limits = (int(span.min) + 5, int(span.max) - 7)
                factor = (scale / y.scale).reshape(along if per_channel else ())
                rounded = np.rint((sums * factor).astype(np.float64)) + int(zero_point)
                want = np.clip(rounded, *limits).astype(dtype)
            layout = channels_last(4) if images else None
            values = [
                new_value("high", np.int32, shape, layout),
                new_value("low", np.int32, shape, layout),
                None if bias is None else constant(bias),
                None if added is None else constant(added),
            ]
            attrs = {"axis": axis, "scale": scale, "y": y, "qmin": limits[0], "qmax": limits[1]}
            out = new_value("y", F if y is None else y.dtype, layout=layout)
            node = Node("JoinSums", values, [out], attrs, "qrt")
            check(cases, (images, per_channel, biased), wide.JOIN, node, [high, low, None, None],
                  [want])  # fmt: skip
