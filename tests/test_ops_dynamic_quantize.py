"""DynamicQuantizeLinear: range, scale and zero point found in the data."""

from __future__ import annotations

from itertools import product

import numpy as np
from kernel_harness import new_value
from operator_cases import NHWC, Cases, onnx_outputs

from qrt.ir import Node
from qrt.ops import dynamic_quantize


def test_dynamic_quantize() -> None:
    rng = np.random.default_rng(1)
    given = {
        "both signs": rng.standard_normal((2, 3, 5, 7)),
        "positive": rng.random((1, 4, 40, 41)) + 3,
        "negative": -rng.random((1, 1, 5, 5)) - 3,
        "one": np.full((1, 1, 1, 1), 2.5),
        "large": rng.standard_normal((1, 8, 64, 64)) * 1e30,
        "tiny": rng.standard_normal((1, 1, 3, 3)) * 1e-30,
    }
    with Cases("DynamicQuantizeLinear") as cases:
        for (name, array), layout in ((g, la) for g in given.items() for la in (None, NHWC)):
            x = array.astype(np.float32)
            outs = [new_value(n, np.uint8, layout=layout if n == "y" else None) for n in "yst"]
            value = new_value("x", x.dtype, x.shape, layout)
            node = Node("DynamicQuantizeLinear", [value], outs, {}, version=11)
            want = onnx_outputs("DynamicQuantizeLinear", 11, {}, [x], 3)
            cases.node((name, layout), dynamic_quantize.SPEC, node, [x], want)


def test_products_round_as_the_quotient_where_codes_begin() -> None:
    """Enough elements for products: those on both sides of every tie, for many scales."""
    rng = np.random.default_rng(2)
    with Cases("DynamicQuantizeLinear at ties") as cases:
        for i in range(24):
            low, high = -rng.random() * 10.0 ** rng.integers(-9, 9), rng.random()
            ends = np.array([low, high], np.float32)
            scale = np.float32((ends[1] - ends[0]) / np.float32(255))
            ties = ((np.arange(-255, 255) + 0.5) * scale).astype(np.float32)
            bits = ties.view(np.int32)[:, None] + np.arange(-40, 41, dtype=np.int32)
            near = np.ascontiguousarray(bits).view(np.float32).clip(*ends)
            x = np.concatenate([near.ravel(), ends])
            outs = [new_value(n, np.uint8) for n in "yst"]
            node = Node("DynamicQuantizeLinear", [new_value("x", x.dtype, x.shape)], outs)
            steps = np.round((x / scale).astype(np.float64))
            zero_point = np.round(-ends[0] / scale)
            want = np.clip(steps + zero_point, 0, 255).astype(np.uint8)
            zero = np.asarray(zero_point, np.uint8)
            cases.node(i, dynamic_quantize.SPEC, node, [x], [want, np.asarray(scale), zero])


def test_zeros_have_a_scale_of_one() -> None:
    with Cases("DynamicQuantizeLinear") as cases:
        for n in (0, 1, 40):
            x = np.zeros(n, np.float32)
            outs = [new_value(name, np.uint8) for name in "yst"]
            node = Node("DynamicQuantizeLinear", [new_value("x", x.dtype, x.shape)], outs)
            want = [np.zeros(n, np.uint8), np.asarray(np.float32(1)), np.asarray(np.uint8(0))]
            cases.node(n, dynamic_quantize.SPEC, node, [x], want)


def test_clipped() -> None:
    """DynamicQuantize is DynamicQuantizeLinear of what Clip gives: NaN and infinities too."""
    rng = np.random.default_rng(5)
    limits = ((0, np.inf), (0, 6), (-1, 1), (-0.37, 2.9), (-np.inf, 0), (0, 0), (-3.4e38, 3.4e38))
    hostile = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-42, 3e38, -3e38], np.float32)
    with Cases("DynamicQuantize") as cases:
        for (low, high), n, spread in product(limits, (1, 3, 40, 33_000), (0.3, 2.0, 9.0, 1e30)):
            low, high = np.float32(low), np.float32(high)
            x = (rng.standard_normal(n) * spread).astype(np.float32)
            if n == 40 and np.isfinite([low, high]).all():
                x[rng.integers(0, n, 8)] = hostile
            outs = [new_value(name, np.uint8) for name in "yst"]
            attrs = {"low": low, "high": high}
            node = Node("DynamicQuantize", [new_value("x", x.dtype, x.shape)], outs, attrs, "qrt")
            clipped = np.clip(x, low, high)
            finite = clipped[~np.isnan(clipped)]
            least = np.float32(min(0, finite.min(initial=0)))
            most = np.float32(max(0, finite.max(initial=0)))
            with np.errstate(all="ignore"):
                scale = np.float32((most - least) / np.float32(255))
                scale = scale if most > least else np.float32(1)
                zero = np.rint(-least / scale)
                steps = np.rint(clipped / scale)
            codes = np.clip(np.where(np.isnan(steps), -zero, steps) + zero, 0, 255)
            want = [codes.astype(np.uint8), np.asarray(scale), np.asarray(zero, np.uint8)]
            spec = dynamic_quantize.CLIPPED_SPEC
            cases.node((low, high, n, spread), spec, node, [x], want)
