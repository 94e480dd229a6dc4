"""Activations of recurrent layers (ONNX RNN, GRU, LSTM): name, constants, and both forms.

`alpha` and `beta` are None where the function takes none. Names compare without case, as ONNX's
own do in practice. The table's order gives the codes that rows carry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.jit.declare import helper
from qrt.ops.spec import Array
from qrt.quant.functions import UNARY
from qrt.simd.float_math import expm1_f32, sigmoid_f32, softplus_f32, tanh_f32
from qrt.simd.memory import as_f32

ZERO, ONE = np.float32(0), np.float32(1)


@dataclass(frozen=True)
class Activation:
    """A function of float64 arrays (x, alpha, beta), and the constants' defaults."""

    function: Callable[[Array, float, float], Array]
    alpha: float | None = None
    beta: float | None = None


def _of(op: str) -> Callable[[Array, float, float], Array]:
    """The element-wise ONNX operator of that name."""
    return lambda x, a, b: np.asarray(UNARY[op](x, {"alpha": a, "beta": b}))


ACTIVATIONS: dict[str, Activation] = {
    "Sigmoid": Activation(_of("Sigmoid")),
    "Tanh": Activation(_of("Tanh")),
    "Relu": Activation(_of("Relu")),
    "Affine": Activation(lambda x, a, b: np.asarray(a * x + b), 1.0, 0.0),
    "LeakyRelu": Activation(_of("LeakyRelu"), 0.01),
    "ThresholdedRelu": Activation(_of("ThresholdedRelu"), 1.0),
    "ScaledTanh": Activation(lambda x, a, b: np.asarray(a * np.tanh(b * x)), 1.0, 1.0),
    "HardSigmoid": Activation(_of("HardSigmoid"), 0.2, 0.5),
    "Elu": Activation(_of("Elu"), 1.0),
    "Softsign": Activation(_of("Softsign")),
    "Softplus": Activation(_of("Softplus")),
}
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
BY_LOWER_NAME = {name.lower(): name for name in ACTIVATIONS}
(
    SIGMOID, TANH, RELU, AFFINE, LEAKY_RELU, THRESHOLDED_RELU, SCALED_TANH, HARD_SIGMOID, ELU,
    SOFTSIGN, SOFTPLUS,
) = CODES.values()  # fmt: skip


@helper
def activate(code, alpha, beta, address, n):  # type: ignore[no-untyped-def]
    """Apply activation `code` to n floats at `address`, in place: one plain loop a function."""
    x = as_f32(address)
    if code == SIGMOID:
        for i in range(n):
            x[i] = sigmoid_f32(x[i])
    elif code == TANH:
        for i in range(n):
            x[i] = tanh_f32(x[i])
    elif code == RELU:
        for i in range(n):
            x[i] = ZERO if x[i] < ZERO else x[i]
    elif code == AFFINE:
        for i in range(n):
            x[i] = alpha * x[i] + beta
    elif code == LEAKY_RELU:
        for i in range(n):
            x[i] = alpha * x[i] if x[i] < ZERO else x[i]
    elif code == THRESHOLDED_RELU:
        for i in range(n):
            x[i] = x[i] if x[i] > alpha else ZERO
    elif code == SCALED_TANH:
        for i in range(n):
            x[i] = alpha * tanh_f32(beta * x[i])
    elif code == HARD_SIGMOID:
        for i in range(n):
            v = alpha * x[i] + beta
            v = ZERO if v < ZERO else v
            x[i] = ONE if v > ONE else v
    elif code == ELU:
        for i in range(n):
            v = x[i]
            x[i] = alpha * expm1_f32(v if v < ZERO else ZERO) if v < ZERO else v
    elif code == SOFTSIGN:
        for i in range(n):
            v = x[i]
            x[i] = v / (ONE + (-v if v < ZERO else v))
    elif code == SOFTPLUS:
        for i in range(n):
            x[i] = softplus_f32(x[i])
    return 0


def choose(
    names: list[str], alphas: list[float], betas: list[float]
) -> list[tuple[str, float, float]]:
    """(name, alpha, beta) of each activation.

    ONNX: alphas and betas "are consumed in the order of activation functions", by those that take
    one. Raises KeyError for a name that ONNX does not define.
    """
    chosen = []
    alphas, betas = list(alphas), list(betas)
    for given in names:
        if given.lower() not in BY_LOWER_NAME:
            raise KeyError(given)
        name = BY_LOWER_NAME[given.lower()]
        entry = ACTIVATIONS[name]
        alpha = beta = 0.0
        if entry.alpha is not None:
            alpha = alphas.pop(0) if alphas else entry.alpha
        if entry.beta is not None:
            beta = betas.pop(0) if betas else entry.beta
        chosen.append((name, alpha, beta))
    return chosen


def apply(activation: tuple[str, float, float], x: Array) -> Array:
    """The activation in float64."""
    name, alpha, beta = activation
    result: Any = ACTIVATIONS[name].function(x, float(np.float32(alpha)), float(np.float32(beta)))
    return np.asarray(result)
