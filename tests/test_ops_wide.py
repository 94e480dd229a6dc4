"""Codes of 16 bits as bytes, and sums of bytes' products together again, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import new_value
from operator_cases import Cases, constant, qparams

from qrt.ir import Node
from qrt.ops import wide

SIZES = (0, 1, 15, 16, 17, 1000, 8193)
SCALES = np.array([0.5, 2.0**-20, 3.0], np.float32)  # of three channels


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_split(dtype: type) -> None:
    """An int16 code is its uint16 one less 2**15."""
    rng = np.random.default_rng(951)
    limits = np.iinfo(dtype)
    with Cases("SplitBytes") as cases:
        for n in SIZES:
            x = rng.integers(limits.min, limits.max, n, dtype, endpoint=True)
            raised = [int(v) - limits.min for v in x]
            want = [np.array(half, np.uint8) for half in (
                [v // 256 for v in raised], [v % 256 for v in raised],
            )]  # fmt: skip
            outputs = [new_value(name, np.uint8) for name in ("high", "low")]
            node = Node("SplitBytes", [new_value("x", dtype, (n,))], outputs, {}, "qrt")
            cases.node((dtype, n), wide.SPLIT, node, [x], want)


@pytest.mark.parametrize("dtype", wide.KERNELS)
def test_join(dtype: str) -> None:
    """256 * high + low + bias leaves int32 and becomes float32 with one rounding; channels come
    last and in the middle."""
    rng = np.random.default_rng(952)
    is_float = dtype == "float32"
    y = None if is_float else qparams(4096.0, 7, np.dtype(dtype))
    limits = None if is_float else np.iinfo(dtype)
    factors = SCALES if y is None else SCALES / y.scale
    bias = rng.integers(-(2**40), 2**40, 3)
    added = rng.standard_normal(3).astype(np.float32)
    with Cases("JoinSums") as cases:
        for shape, axis in (((0, 3), 1), ((1, 3), 1), ((2, 3, 5), 1), ((7, 11, 3), 2)):
            high, low = (rng.integers(-(2**31), 2**31, shape, np.int32) for _ in range(2))
            want = np.zeros(shape, dtype)
            for at in np.ndindex(shape):
                channel = at[axis]
                acc = 256 * int(high[at]) + int(low[at]) + int(bias[channel])
                scaled = np.float32(acc) * factors[channel]
                if limits is None:
                    want[at] = scaled + added[channel]
                else:
                    want[at] = min(max(int(np.rint(scaled)) + 7, limits.min), limits.max)
            values = [new_value("high", np.int32, shape), new_value("low", np.int32, shape)]
            values += [constant(bias), constant(added) if is_float else None]
            attrs = {"axis": axis, "scale": SCALES, "y": y}
            attrs |= {"qmin": limits.min, "qmax": limits.max} if limits else {"qmin": 0, "qmax": 0}
            node = Node("JoinSums", values, [new_value("y", dtype)], attrs, "qrt")
            cases.node((shape, axis), wide.JOIN, node, [high, low, None, None], [want])
