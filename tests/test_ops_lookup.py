"""Lookup, Quantize and Dequantize against element by element formulations."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import feature_levels, new_value
from operator_cases import (
    Cases,
    codes,
    onnx_outputs,
    plain_dequantize,
    plain_quantize,
    qparams,
)

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams
from qrt.ops import dequantize, lookup, quantize
from qrt.quant.division import division_factors
from qrt.quant.lines import line_of

SIZES = (0, 1, 15, 16, 31, 32, 33, 63, 64, 65, 127, 129, 4095, 4097, 10007)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_lookup(dtype: str) -> None:
    rng = np.random.default_rng(1)
    with Cases("lookup") as cases:
        for kind, table in (
            ("ramp", np.arange(256)),
            ("reversed", np.arange(256)[::-1]),
            ("random", rng.integers(0, 256, 256)),
        ):
            for n in SIZES:
                x = codes(rng, (n,))
                table = table.astype(dtype)
                node = Node(
                    "Lookup",
                    [new_value("x", np.uint8, x.shape)],
                    [new_value("y", dtype)],
                    {"table": table},
                    "qrt",
                )
                want = np.array([table[v] for v in x], dtype)
                cases.node((kind, n), lookup.SPEC, node, [x], [want], specs=feature_levels())


def _floats(rng: np.random.Generator, shape: tuple[int, ...], q: QParams) -> np.ndarray:
    """Values over the whole range and beyond, exact ties, and what is not finite."""
    x = (rng.standard_normal(shape) * 200 * q.scale.max()).astype(np.float32)
    flat = x.reshape(-1)
    scale = np.float32(q.scale.reshape(-1)[0])
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4e38, -3.4e38, 1e-45]
    ties = [np.float32(k + 0.5) * scale for k in range(-6, 7)]
    for i, v in enumerate((*special, *ties)):
        if i < flat.size:
            flat[-1 - i] = v
    return x


def _all_qparams(rng: np.random.Generator) -> list[QParams]:
    found = []
    for dtype in (np.uint8, np.int8, np.uint16, np.int16):
        limits = np.iinfo(dtype)
        found += [qparams(0.5, z, dtype) for z in (limits.min, limits.max, (limits.max + 1) // 2)]
        channels = rng.integers(limits.min, limits.max, 5, endpoint=True).astype(dtype)
        scales = rng.uniform(0.01, 2, 5).astype(np.float32)
        found.append(QParams(scales, channels, np.dtype(dtype), 1))
    return found


def test_quantize_and_dequantize() -> None:
    rng = np.random.default_rng(2)
    with Cases("quantize") as cases:
        for q in _all_qparams(rng):
            for shape in ((2, 5, 7), (3, 5, 1), (1, 5, 33)):
                for layout in (None, (0, 2, 1)):
                    case = (q.dtype, q.axis, shape, layout)
                    x = _floats(rng, shape, q)
                    node = Node(
                        "Quantize",
                        [new_value("x", np.float32, shape, layout)],
                        [new_value("y", q.dtype, layout=layout)],
                        {"y": q},
                        "qrt",
                    )
                    finite = np.where(np.isfinite(x), x, 0)
                    spread = [1, 5, 1] if q.axis else [1, 1, 1]
                    s, z = (
                        np.broadcast_to(p, spread[1]).reshape(spread)
                        for p in (q.scale, q.zero_point)
                    )
                    with np.errstate(over="ignore"):
                        t = np.round((finite / s).astype(np.float64)) + z
                    t = np.where(x == np.inf, np.inf, t)
                    t = np.where(np.isnan(x) | (x == -np.inf), -np.inf, t)
                    want = np.clip(t, q.qmin, q.qmax).astype(q.dtype)
                    cases.node(case, quantize.SPEC, node, [x], [want])
                    node = Node(
                        "Dequantize",
                        [new_value("x", q.dtype, shape, layout)],
                        [new_value("y", np.float32, layout=layout)],
                        {"x": q},
                        "qrt",
                    )
                    real = onnx_outputs(
                        "DequantizeLinear", 21, {"axis": 1}, [want, q.scale, q.zero_point]
                    )
                    cases.node((*case, "back"), dequantize.SPEC, node, [want], real)


def test_quantize_sizes() -> None:
    rng = np.random.default_rng(3)
    q = qparams(0.1, 128)
    with Cases("quantize sizes") as cases:
        for n in SIZES:
            x = rng.standard_normal(n).astype(np.float32) * 9
            node = Node(
                "Quantize",
                [new_value("x", np.float32, (n,))],
                [new_value("y", np.uint8)],
                {"y": q},
                "qrt",
            )
            cases.node(n, quantize.SPEC, node, [x])


def test_quantize_where_codes_begin() -> None:
    """The floats on both sides of every tie: a product in place of the quotient must not differ."""
    rng = np.random.default_rng(4)
    scales = [1.0, 0.5, 3.0, 1 / 255, 2 / 255, 0.1, 1e-30, 1e30]
    scales += list(np.exp(rng.uniform(-9, 4, 12)))
    with Cases("quantize at ties") as cases:
        for i, scale in enumerate(scales):
            dtype = (np.uint8, np.int8)[i % 2]
            limits = np.iinfo(dtype)
            q = qparams(scale, int(rng.integers(limits.min, limits.max, endpoint=True)), dtype)
            x = np.arange(-256.5, 257).astype(np.float32) * q.scale
            near = [x]
            for toward in (-np.inf, np.inf):
                step = x
                for _ in range(3):
                    step = np.nextafter(step, np.float32(toward))
                    near.append(step)
            x = np.concatenate([*near, np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)])
            node = Node(
                "Quantize",
                [new_value("x", np.float32, x.shape)],
                [new_value("y", dtype)],
                {"y": q},
                "qrt",
            )
            want = plain_quantize(np.where(np.isnan(x), -np.inf, x), q, limits.min, limits.max)
            cases.node((scale, dtype), quantize.SPEC, node, [x], [want], specs=feature_levels())


def test_most_scales_have_two_factors() -> None:
    """They are proved when they are made; here only that they are rarely missing."""
    rng = np.random.default_rng(6)
    found = 0
    for scale in np.exp(rng.uniform(-12, 8, 60)).astype(np.float32):
        zero_point = int(rng.integers(0, 256))
        found += division_factors(float(scale), -zero_point, 255 - zero_point) is not None
    assert found >= 57
    for scale in (1e-30, 1e30, 1e-45):
        assert division_factors(float(np.float32(scale)), -128, 127) is None


def test_dequantize_int32_needs_zero_points_of_zero() -> None:
    q = qparams(0.1, 0, np.int32)
    x = np.array([-(2**31), -1, 0, 1, 2**24 + 1, 2**31 - 1], np.int32)
    node = Node(
        "Dequantize",
        [new_value("x", np.int32, x.shape)],
        [new_value("y", np.float32)],
        {"x": q},
        "qrt",
    )
    with Cases("dequantize int32") as cases:
        cases.node("", dequantize.SPEC, node, [x], [x.astype(np.float32) * np.float32(0.1)])
        scales = np.array([0.1, 3, 1e-9], np.float32)
        by_channel = QParams(scales, np.zeros(3, np.int32), np.dtype(np.int32), 1)
        for layout in (None, (0, 2, 1)):
            grid = np.broadcast_to(x, (2, 3, 6))
            several = Node(
                "Dequantize",
                [new_value("x", np.int32, grid.shape, layout)],
                [new_value("y", np.float32, layout=layout)],
                {"x": by_channel},
                "qrt",
            )
            want = grid.astype(np.float32) * scales[:, None]
            cases.node(("channels", layout), dequantize.SPEC, several, [grid], [want])
    node.attrs["x"] = qparams(0.1, 3, np.int32)
    with pytest.raises(UnsupportedError, match="zero points of 0"):
        dequantize.SPEC.lower(node, None)  # type: ignore[arg-type, misc]


def _line_tables(rng: np.random.Generator) -> list[np.ndarray]:
    """Requantizations of many slopes, some clamped, to both types; and the change of sign bits."""
    found = [(np.arange(256) - 128).astype(np.int8)]
    for i in range(40):
        slope = np.exp(rng.uniform(-2.5, 2.5))
        dtype = (np.uint8, np.int8)[i % 2]
        limits = np.iinfo(dtype)
        y = qparams(0.1 / slope, int(rng.integers(limits.min, limits.max)), dtype)
        x = qparams(0.1, int(rng.integers(0, 256)))
        real = plain_dequantize(np.arange(256, dtype=np.uint8), x)
        real = np.clip(real, -3, 7) if i % 4 == 3 else real
        found.append(plain_quantize(real, y, limits.min, limits.max))
    return found


def test_lines() -> None:
    """Every level, whether it computes a table or looks it up."""
    rng = np.random.default_rng(7)
    tables = _line_tables(rng)
    assert sum(line_of(table) is not None for table in tables) >= 0.8 * len(tables)
    with Cases("lookup of lines") as cases:
        for i, table in enumerate(tables):
            x = np.concatenate([np.arange(256), rng.integers(0, 256, SIZES[i % len(SIZES)])])
            x = rng.permutation(x).astype(np.uint8)
            node = Node(
                "Lookup",
                [new_value("x", np.uint8, x.shape)],
                [new_value("y", table.dtype)],
                {"table": table},
                "qrt",
            )
            cases.node(i, lookup.SPEC, node, [x], [table[x]], specs=feature_levels())


def test_what_is_no_line() -> None:
    ramp = np.arange(256)
    bent = np.where(ramp < 128, ramp // 2, ramp - 64)
    for table in (ramp[::-1], bent, np.zeros(256), ramp >= 100, 255 * (ramp > 7)):
        assert line_of(table.astype(np.uint8)) is None
    assert line_of(ramp.astype(np.float32)) is None
