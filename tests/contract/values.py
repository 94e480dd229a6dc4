"""What a tensor can be while a model is evaluated, and the two ways out of it.

A float tensor of a quantized model is often a formula that has not been rounded yet: the output of
DequantizeLinear still knows its integers, the output of a convolution still knows its exact sums.
Such a tensor is kept in that form; `real` turns it into float32 and `quantize` into integers, and
the two are different roundings of the same exact numbers. Everything else is a NumPy array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class UnsupportedError(NotImplementedError):
    """The numeric contract does not say what this means."""


@dataclass(frozen=True)
class Dequantized:
    """The output of DequantizeLinear: float32(q - zero_point) * scale, element by element.

    `scale` (float32) and `zero_point` (int64) have the shape of `q`, so that every movement of data
    applies to the three alike, whatever the granularity was.
    """

    q: Array
    scale: Array
    zero_point: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.q.shape

    def centered(self) -> Array:
        """q - zero_point, int64."""
        return self.q.astype(np.int64) - self.zero_point

    def real(self) -> Array:
        return self.centered().astype(np.float32) * self.scale


@dataclass(frozen=True)
class Product:
    """Exact sums of a Conv, MatMul or Gemm of quantized operands.

    `acc` int64 holds the products and the integer bias. `scale` float32 is x_scale * w_scale,
    `bias` float32 a bias which is not a multiple of `scale`; both broadcast to `acc`.
    `exact_scale` float64 is x_scale * w_scale not rounded to float32.
    `bounds` are the Clips applied since, in order.
    """

    acc: Array
    scale: Array
    exact_scale: Array
    bias: Array | None = None
    bounds: tuple[tuple[np.float32, np.float32], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.acc.shape

    def unclipped(self) -> Array:
        """The float32 value when no QuantizeLinear follows: the bias is added after scaling."""
        y = self.acc.astype(np.float32) * self.scale
        return y if self.bias is None else y + self.bias

    def in_steps_of(self, y_scale: Array) -> Array:
        """float32(acc) * ((x_scale * w_scale) / y_scale), a float bias rounded into acc first."""
        acc = self.acc
        if self.bias is not None:
            steps = np.rint(self.bias.astype(np.float64) / self.exact_scale)
            limits = np.iinfo(np.int32)
            acc = acc + np.clip(steps, limits.min, limits.max).astype(np.int64)
        return acc.astype(np.float32) * (self.scale / y_scale)


@dataclass(frozen=True)
class Average:
    """Exact sums of a mean: `acc` int64 of (q - zero_point), `count` int64 broadcasts to it."""

    acc: Array
    scale: np.float32
    count: Array
    bounds: tuple[tuple[np.float32, np.float32], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.acc.shape

    def unclipped(self) -> Array:
        return self.acc.astype(np.float32) * (self.scale / self.count.astype(np.float32))

    def in_steps_of(self, y_scale: Array) -> Array:
        return self.acc.astype(np.float32) * (
            self.scale / (y_scale * self.count.astype(np.float32))
        )


Sums = Product | Average
Value = Array | Dequantized | Product | Average


def real(value: Value) -> Array:
    """The tensor as an array: float32 for the formulas, arrays as they are."""
    if isinstance(value, Dequantized):
        return value.real()
    if isinstance(value, Sums):
        y = value.unclipped()
        for low, high in value.bounds:
            y = np.minimum(np.maximum(y, low), high)
        return y
    return value


def quantize(value: Value, scale: Array, zero_point: Array, dtype: np.dtype[Any]) -> Array:
    """QuantizeLinear: clamp(rint(value / scale) + zero_point), `scale` float32; NaN gives qmin.

    Sums are requantized by one multiplier, and Clips between them and here only narrow the clamp.
    """
    if not isinstance(value, Sums):
        return _round(real(value) / scale, zero_point, dtype)
    q = _round(value.in_steps_of(scale), zero_point, dtype)
    for low, high in value.bounds:
        qmin = _round(low / scale, zero_point, dtype)
        qmax = _round(high / scale, zero_point, dtype)
        q = np.minimum(np.maximum(q, qmin), qmax)
    return q


def narrow(value: Sums, low: np.float32, high: np.float32) -> Sums:
    """`value` followed by Clip(low, high)."""
    return replace(value, bounds=(*value.bounds, (low, high)))


def move(value: Value, movement: Callable[[Array], Array]) -> Value:
    """Apply a movement of data (reshape, transpose, gather, ...) to whatever form `value` has.

    Sums stay sums: QuantizeLinear commutes with a movement, so that it requantizes them as if it
    stood before it.
    """
    if isinstance(value, Dequantized):
        return Dequantized(movement(value.q), movement(value.scale), movement(value.zero_point))
    if isinstance(value, Sums):
        arrays = {
            name: movement(np.broadcast_to(array, value.acc.shape))
            for name, array in vars(value).items()
            if isinstance(array, np.ndarray)
        }
        return replace(value, **arrays)
    return movement(value)


def per_tensor(value: Dequantized) -> tuple[np.float32, int]:
    """The one scale and zero point of `value`; raises UnsupportedError when there are several."""
    if value.q.size == 0:
        raise UnsupportedError("an empty tensor has no scale")
    if (value.scale != value.scale.flat[0]).any():
        raise UnsupportedError("needs one scale per tensor")
    if (value.zero_point != value.zero_point.flat[0]).any():
        raise UnsupportedError("needs one zero point per tensor")
    return np.float32(value.scale.flat[0]), int(value.zero_point.flat[0])


def _round(steps: Array, zero_point: Array, dtype: np.dtype[Any]) -> Array:
    limits = np.iinfo(dtype)
    # float64 holds every rounded float32 that is not clamped, plus any zero point, exactly
    q = np.rint(np.asarray(steps, np.float32)).astype(np.float64) + zero_point
    return np.where(np.isnan(q), limits.min, np.clip(q, limits.min, limits.max)).astype(dtype)
