"""Parameters of a quantized model that reconstruction learns: scales and biases.

Each turns what is learned into the real array the model computes with, and the gradient by that
array into gradients by what is learned. Scales are learned by their logarithm; those of activations
as LSQ does (Esser et al. 2020, equations 1 to 3), rounding passing gradients straight through.
"""

from __future__ import annotations

import numpy as np

from qrt.ir import QParams
from qrt.quant.affine import Array, dequantize, spread_over

SCALE_RATE = 1e-3  # relative
BIAS_RATE = 5e-4  # of the root mean square of all biases of the layer


class Weights:
    """Codes behind a DequantizeLinear, which stay, and their scales."""

    def __init__(self, codes: Array, grid: QParams) -> None:
        self.grid = grid
        indices = np.arange(grid.scale.size).reshape(grid.scale.shape)
        self._block = np.broadcast_to(spread_over(indices, codes.shape, grid), codes.shape)
        self._start = dequantize(codes, grid)
        self._log = np.zeros(grid.scale.size, np.float32)
        self.learned, self.rates = [self._log], [SCALE_RATE]

    def real(self) -> Array:
        """The weights as the model has them."""
        self._real = np.asarray(self._start * np.exp(self._log)[self._block])
        return self._real

    def gradients(self, by_real: Array) -> list[Array]:
        """By what is learned, after `real`."""
        by_log = (by_real * self._real).reshape(-1)
        sums = np.bincount(self._block.reshape(-1), by_log, self._log.size)
        return [sums.astype(np.float32)]

    def scale(self) -> Array:
        """Scales as learned so far, float32, of the grid's shape."""
        flat = self.grid.scale.reshape(-1) * np.exp(self._log)
        return np.asarray(flat, np.float32).reshape(self.grid.scale.shape)


class Bias:
    """Real numbers of one layer."""

    def __init__(self, array: Array) -> None:
        self._array = array.astype(np.float32)
        power = float(np.sqrt(np.mean(np.square(self._array, dtype=np.float64))))
        self.learned, self.rates = [self._array], [BIAS_RATE * power]

    def real(self) -> Array:
        """Themselves."""
        return self._array

    def gradients(self, by_real: Array) -> list[Array]:
        """Themselves."""
        return [by_real]


class Activations:
    """The grid of activations, per tensor; tensors that only move may share it."""

    def __init__(self, grid: QParams) -> None:
        self.grid = grid
        self._log = np.zeros(1, np.float32)
        self.learned, self.rates = [self._log], [SCALE_RATE]
        self._sum = np.zeros(1, np.float32)

    def scale(self) -> Array:
        """As learned so far, float32 ()."""
        return np.asarray(self.grid.scale.reshape(()) * np.exp(self._log[0]), np.float32)

    def quantized(self, x: Array) -> tuple[Array, Array, Array]:
        """(x on the grid, where x lies inside it, slope of the result by the scale's logarithm)."""
        scale, zero = self.scale(), np.float32(self.grid.zero_point.reshape(()))
        place = x / scale
        centered = np.clip(np.rint(place), self.grid.qmin - zero, self.grid.qmax - zero)
        inside = np.abs(place - centered) <= 0.5
        slope = (centered - np.where(inside, place, 0)) * scale
        return centered * scale, inside, slope

    def add(self, by_log: float) -> None:
        """A part of the gradient, of one of the tensors."""
        self._sum += np.float32(by_log)

    def gradients(self) -> list[Array]:
        """By what is learned, of all tensors together; begins anew."""
        found, self._sum = self._sum, np.zeros(1, np.float32)
        return [found]
