"""Requantize and Quantize per channel against element by element formulations; factors proved."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import feature_levels, new_value
from operator_cases import Cases, qparams

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams
from qrt.ops import quantize, requantize
from qrt.quant.division import requantization_factor

S32 = np.dtype(np.int32)
SIZES = (0, 1, 15, 16, 17, 63, 64, 65, 127, 129, 4095, 4097, 10007)
# (shape, axis): spans, columns, columns taken several at a time, and what has no vectors
CHANNELS = (
    ((2, 3, 64), 1), ((1, 2, 129), 1), ((3, 5, 1), 1), ((7, 64), 1), ((5, 67), 1), ((3, 1300), 1),
    ((4, 3, 7), 1), ((2, 40, 33), 1), ((2, 3, 5000), 1), ((0, 3), 1), ((2, 0, 3), 1),
)  # fmt: skip
SMALLEST, LARGEST = -(2**31), 2**31 - 1


def plain(real: np.ndarray, scale: float, zero_point: int, qmin: int, qmax: int) -> np.ndarray:
    """QuantizeLinear of float32 in int64: round half to even, then add the zero point."""
    with np.errstate(over="ignore"):
        steps = np.round((real / np.float32(scale)).astype(np.float64)) + zero_point
    return np.clip(np.where(np.isnan(steps), qmin, steps), qmin, qmax)


def spread(parameter: np.ndarray, shape: tuple[int, ...], axis: int | None) -> np.ndarray:
    """One parameter per element."""
    full = [1] * len(shape)
    if axis is not None:
        full[axis] = parameter.size
    return np.broadcast_to(parameter.reshape(full), shape)


def requantized(q: np.ndarray, x: QParams, y: QParams, qmin: int, qmax: int) -> np.ndarray:
    """The definition."""
    real = q.astype(np.float32) * spread(x.scale, q.shape, x.axis)
    return plain(real, float(y.scale), int(y.zero_point), qmin, qmax).astype(y.dtype)


def node_of(shape: tuple[int, ...], x: QParams, y: QParams, qmin: int, qmax: int) -> Node:
    attrs = {"x": x, "y": y, "qmin": qmin, "qmax": qmax}
    return Node(
        "Requantize", [new_value("x", S32, shape)], [new_value("y", y.dtype)], attrs, "qrt"
    )


def near_steps(x_scale: float, y: QParams, rng: np.random.Generator) -> np.ndarray:
    """int32 on both sides of where codes begin, ends of the type, and random ones."""
    begins = (np.arange(-256, 257) + 0.5) * float(y.scale) / x_scale
    near = (np.round(begins)[:, None] + np.arange(-3, 4)).ravel()
    more = rng.integers(SMALLEST, LARGEST, 300, endpoint=True)
    ends = [SMALLEST, SMALLEST + 1, -1, 0, 1, LARGEST - 1, LARGEST]
    return np.clip(np.concatenate([near, more, ends]), SMALLEST, LARGEST).astype(np.int32)


@pytest.mark.parametrize("ratio", [0.3, 1.0, 7.3, 100, 500, 1e4, 1e6, 3e7, 1e12])
def test_where_codes_begin(ratio: float) -> None:
    """One product, three, or the quotient, whatever is proved: the bits are the definition's."""
    rng = np.random.default_rng(int(ratio))
    with Cases("requantize at steps") as cases:
        for i in range(8):
            dtype = (np.uint8, np.int8)[i % 2]
            limits = np.iinfo(dtype)
            y_scale = float(np.float32(np.exp(rng.uniform(-6, 3))))
            x_scale = float(np.float32(y_scale / ratio))
            zero_point = int(rng.integers(limits.min, limits.max, endpoint=True))
            y = qparams(y_scale, zero_point, dtype)
            x = qparams(x_scale, 0, S32)
            qmin, qmax = (limits.min, limits.max) if i < 4 else (limits.min + 60, limits.max - 70)
            q = near_steps(x_scale, y, rng)
            want = requantized(q, x, y, qmin, qmax)
            node = node_of(q.shape, x, y, qmin, qmax)
            cases.node((ratio, i), requantize.SPEC, node, [q], [want], specs=feature_levels())


def test_sizes() -> None:
    rng = np.random.default_rng(1)
    y = qparams(0.3, 100)
    with Cases("requantize sizes") as cases:
        for x_scale in (0.001, 0.00001):
            x = qparams(x_scale, 0, S32)
            for n in SIZES:
                q = rng.integers(-100_000, 100_000, n, np.int32)
                want = requantized(q, x, y, 0, 255)
                node = node_of(q.shape, x, y, 0, 255)
                cases.node((x_scale, n), requantize.SPEC, node, [q], [want])


@pytest.mark.parametrize("size", [0.001, 0.00001])
def test_scales_per_channel(size: float) -> None:
    rng = np.random.default_rng(2)
    y = qparams(0.3, -7, np.int8)
    with Cases("requantize channels") as cases:
        for shape, axis in CHANNELS:
            count = shape[axis]
            scales = (rng.uniform(0.5, 1.5, count) * size).astype(np.float32)
            x = QParams(scales, np.zeros(count, np.int32), S32, axis)
            q = rng.integers(-100_000, 100_000, shape, np.int32)
            want = requantized(q, x, y, -128, 127)
            node = node_of(shape, x, y, -128, 127)
            cases.node(shape, requantize.SPEC, node, [q], [want])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantize_per_channel(dtype: type) -> None:
    rng = np.random.default_rng(3)
    limits = np.iinfo(dtype)
    with Cases("quantize channels") as cases:
        for shape, axis in CHANNELS:
            for alike in (True, False):
                count = shape[axis]
                scales = rng.uniform(0.01, 2, count).astype(np.float32)
                zeros = rng.integers(limits.min, limits.max, count, endpoint=True).astype(dtype)
                if alike and count:
                    zeros[:] = zeros[0]
                y = QParams(scales, zeros, np.dtype(dtype), axis)
                x = (rng.standard_normal(shape) * 90).astype(np.float32)
                ties = (rng.integers(-128, 128, shape) + 0.5).astype(np.float32)
                x = np.where(rng.random(shape) < 0.5, x, ties * spread(scales, shape, axis))
                x[rng.random(shape) < 0.02] = np.nan
                with np.errstate(over="ignore"):
                    steps = np.round((x / spread(scales, shape, axis)).astype(np.float64))
                steps = steps + spread(zeros, shape, axis)
                want = np.clip(np.where(np.isnan(x), -np.inf, steps), limits.min, limits.max)
                node = Node(
                    "Quantize",
                    [new_value("x", np.float32, shape)],
                    [new_value("y", dtype)],
                    {"y": y},
                    "qrt",
                )
                cases.node((shape, alike), quantize.SPEC, node, [x], [want.astype(dtype)])


def test_usual_scales_have_a_factor() -> None:
    """They are proved when they are made; here only that most exist where steps are short."""
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(60):
        y_scale = np.float32(np.exp(rng.uniform(-6, 2)))
        x_scale = np.float32(y_scale / np.exp(rng.uniform(1, 5)))
        zero_point = int(rng.integers(0, 256))
        args = float(x_scale), float(y_scale), -zero_point, 255 - zero_point
        found += requantization_factor(*args) is not None
    assert found >= 55
    for ratio in (1e30, 1e-30):
        assert requantization_factor(float(np.float32(ratio)), 1.0, -128, 127) is None


def test_what_is_refused() -> None:
    node = node_of((3,), qparams(0.1, 0, S32), qparams(0.3, 0, np.uint16), 0, 255)
    with pytest.raises(UnsupportedError, match="only from int32 to 8 bits"):
        requantize.SPEC.lower(node, None)  # type: ignore[arg-type, misc]
    node = node_of((3,), qparams(0.1, 0), qparams(0.3, 0), 0, 255)
    node.inputs[0] = new_value("x", np.uint8, (3,))
    with pytest.raises(UnsupportedError, match="from uint8"):
        requantize.SPEC.lower(node, None)  # type: ignore[arg-type, misc]
    node = node_of((3,), qparams(0.1, 1, S32), qparams(0.3, 0), 0, 255)
    with pytest.raises(UnsupportedError, match="zero points of 0"):
        requantize.SPEC.lower(node, None)  # type: ignore[arg-type, misc]
