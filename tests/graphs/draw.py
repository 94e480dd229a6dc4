"""Random numbers of quantized tensors: integers, zero points, scales. All from one Generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
T = TypeVar("T")

SMALLEST_SCALE = 1e-5  # below, a float32 function near 1 has no digits left to quantize

U8, S8 = np.dtype(np.uint8), np.dtype(np.int8)


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def integer(rng: np.random.Generator, low: int, high: int) -> int:
    """Uniform, both ends included."""
    return int(rng.integers(low, high + 1))


def zero_point(rng: np.random.Generator, dtype: np.dtype[Any]) -> int:
    """Zero, both ends, the middle, or anything."""
    qmin, qmax = limits(dtype)
    middle = (qmin + qmax + 1) // 2
    return pick(rng, (0, middle, middle, qmin, qmax, integer(rng, qmin, qmax)))


def integers(rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Uniform, bell-shaped, narrow, or nothing but the ends of the type."""
    qmin, qmax = limits(dtype)
    kind = pick(rng, ("uniform", "uniform", "uniform", "bell", "bell", "narrow", "ends", "end"))
    if kind == "uniform":
        values = rng.integers(qmin, qmax + 1, shape)
    elif kind == "bell":
        values = rng.normal((qmin + qmax) / 2, 40, shape).round().clip(qmin, qmax)
    elif kind == "narrow":
        start = integer(rng, qmin, qmax - 8)
        values = rng.integers(start, start + 9, shape)
    elif kind == "ends":
        values = rng.choice((qmin, qmax), shape)
    else:
        values = np.full(shape, pick(rng, (qmin, qmax)))
    return np.asarray(values).astype(dtype)


def scale(rng: np.random.Generator, near: float, exact: bool) -> np.float32:
    """Near `near`; a power of two when `exact`, so that ties and equal sums do happen."""
    value = near * rng.uniform(0.6, 1.4)
    return np.float32(2.0 ** round(np.log2(value)) if exact else value)


def tying_scale(rng: np.random.Generator, near: float, unit: float) -> np.float32:
    """Near `near`, and `unit` times a power of two give or take two float32 steps: integers in
    steps of `unit` then fall on ties or just beside them, and every rounding before matters."""
    value = np.float32(unit * 2.0 ** round(np.log2(near / unit)))
    towards = np.float32(np.inf if chance(rng, 0.5) else 0)
    for _ in range(integer(rng, 0, 2)):
        value = np.nextafter(value, towards)
    return value


def output_parameters(
    rng: np.random.Generator, y: Array, dtype: np.dtype[Any]
) -> tuple[float, int]:
    """What scale, about, and what zero point suit the values `y`: some saturate, most do not."""
    qmin, qmax = limits(dtype)
    zero = zero_point(rng, dtype)
    finite = y[np.isfinite(y)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low >= 0 and zero > qmax - 32:
        zero = qmin
    if high <= 0 and zero < qmin + 32:
        zero = qmax
    steps = [0.0]
    if zero < qmax:
        steps.append(high / (qmax - zero))
    if zero > qmin:
        steps.append(-low / (zero - qmin))
    near = max(steps)
    return near if near > SMALLEST_SCALE else 0.1, zero


def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def other(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The other signedness."""
    return S8 if dtype == U8 else U8
