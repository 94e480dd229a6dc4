"""Adam: descent with a pace of its own for every number (Kingma and Ba 2015)."""

from __future__ import annotations

import numpy as np

from qrt.quant.affine import Array


class Adam:
    """Over float32 arrays that it changes in place."""

    def __init__(self, arrays: list[Array], rates: list[float]) -> None:
        self._arrays, self._rates = arrays, rates
        self._means = [np.zeros_like(a) for a in arrays]
        self._squares = [np.zeros_like(a) for a in arrays]
        self._step = 0

    def step(self, gradients: list[Array], pace: float = 1.0) -> None:
        """One step down, `pace` times as long as the rates say."""
        self._step += 1
        rest1, rest2 = 1 - 0.9**self._step, 1 - 0.999**self._step
        for array, rate, mean, square, gradient in zip(
            self._arrays, self._rates, self._means, self._squares, gradients, strict=True
        ):
            mean *= 0.9
            mean += 0.1 * gradient
            square *= 0.999
            square += 0.001 * gradient * gradient
            array -= (pace * rate / rest1) * mean / (np.sqrt(square / rest2) + 1e-10)
