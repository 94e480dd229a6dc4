"""Element-wise float operators as NumPy functions of float64, for tables and constant folding.

Each takes float64 arrays that hold float32 values and gives float64; the caller rounds to float32.
Attributes are float32 values, the defaults too (ONNX operator pages, opsets 1 to 24).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qrt.quant.affine import Array

Attrs = Mapping[str, Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _number(attrs: Attrs, name: str, default: float) -> float:
    """A float attribute with the precision it has in the file."""
    return float(np.float32(attrs.get(name, default)))


def _gelu(x: Array, a: Attrs) -> Array:
    if a.get("approximate", "none") == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _elu(x: Array, a: Attrs) -> Array:
    return np.where(x < 0, _number(a, "alpha", 1.0) * np.expm1(np.minimum(x, 0)), x)


def _celu(x: Array, a: Attrs) -> Array:
    alpha = _number(a, "alpha", 1.0)
    negative = alpha * np.expm1(np.minimum(x, 0) / alpha)
    return np.asarray(np.maximum(x, 0) + np.minimum(negative, 0))


def _selu(x: Array, a: Attrs) -> Array:
    alpha = _number(a, "alpha", 1.67326319217681884765625)
    gamma = _number(a, "gamma", 1.05070102214813232421875)
    return np.asarray(gamma * np.where(x <= 0, alpha * np.expm1(np.minimum(x, 0)), x))


def _hard_sigmoid(x: Array, a: Attrs) -> Array:
    return np.clip(_number(a, "alpha", 0.2) * x + _number(a, "beta", 0.5), 0, 1)


def _shrink(x: Array, a: Attrs) -> Array:
    lambd, bias = _number(a, "lambd", 0.5), _number(a, "bias", 0.0)
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0))


UNARY: dict[str, Callable[[Array, Attrs], Array]] = {
    "Abs": lambda x, _: np.abs(x),
    "Celu": _celu,
    "Ceil": lambda x, _: np.ceil(x),
    "Cos": lambda x, _: np.cos(x),
    "Elu": _elu,
    "Erf": lambda x, _: _erf(x),
    "Exp": lambda x, _: np.exp(x),
    "Floor": lambda x, _: np.floor(x),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x, _: x * np.clip(x / 6 + 0.5, 0, 1),
    "LeakyRelu": lambda x, a: np.where(x < 0, _number(a, "alpha", 0.01) * x, x),
    "Log": lambda x, _: np.log(x),
    "Mish": lambda x, _: x * np.tanh(np.logaddexp(0, x)),
    "Neg": lambda x, _: -x,
    "Reciprocal": lambda x, _: 1 / x,
    "Relu": lambda x, _: np.maximum(x, 0),
    "Round": lambda x, _: np.rint(x),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": lambda x, _: 1 / (1 + np.exp(-x)),
    "Sign": lambda x, _: np.sign(x),
    "Sin": lambda x, _: np.sin(x),
    "Softplus": lambda x, _: np.logaddexp(0, x),
    "Softsign": lambda x, _: x / (1 + np.abs(x)),
    "Sqrt": lambda x, _: np.sqrt(x),
    "Swish": lambda x, a: x / (1 + np.exp(-_number(a, "alpha", 1.0) * x)),
    "Tanh": lambda x, _: np.tanh(x),
    "ThresholdedRelu": lambda x, a: np.where(x > _number(a, "alpha", 1.0), x, 0),
}

# NumPy broadcasting; a float32 sum, difference, product or quotient is the float64 one rounded
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "PRelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "Pow": np.power,
    "Sub": np.subtract,
    "Sum": np.add,
}


def unary(op: str, x: Array, attrs: Attrs) -> Array:
    """float32 of UNARY[op] on a float32 array."""
    with np.errstate(all="ignore"):
        return UNARY[op](x.astype(np.float64), attrs).astype(np.float32)


def binary(op: str, a: Array, b: Array) -> Array:
    """float32 of BINARY[op] on float32 arrays."""
    with np.errstate(all="ignore"):
        return BINARY[op](a.astype(np.float64), b.astype(np.float64)).astype(np.float32)


def clip(x: Array, low: np.float32, high: np.float32) -> Array:
    """min(max(x, low), high) of float32 (ONNX Clip)."""
    return np.asarray(np.minimum(np.maximum(x, low), high))
