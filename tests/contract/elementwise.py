"""Element-wise float operators: float32 inputs, float64 inside, rounded to float32 once each.

A table of 256 entries holds what these give for the 256 values of a quantized tensor, so evaluating
them on every element is the same thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .inputs import Values, array_at, optional_array, value_at
from .node import Node
from .values import Array, Sums, Value, narrow, real

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Array, node: Node) -> Array:
    cubic = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    tanh = node.text("approximate", "none") == "tanh"
    return np.asarray(0.5 * x * (1 + (np.tanh(cubic) if tanh else _erf(x / math.sqrt(2)))))


def _hard_sigmoid(x: Array, node: Node) -> Array:
    return np.clip(node.real("alpha", 0.2) * x + node.real("beta", 0.5), 0, 1)


def _elu(x: Array, node: Node) -> Array:
    return np.where(x < 0, node.real("alpha", 1.0) * np.expm1(np.minimum(x, 0)), x)


def _celu(x: Array, node: Node) -> Array:
    alpha = node.real("alpha", 1.0)
    negative = alpha * np.expm1(np.minimum(x, 0) / alpha)
    return np.asarray(np.maximum(x, 0) + np.minimum(negative, 0))


def _selu(x: Array, node: Node) -> Array:
    alpha = node.real("alpha", 1.67326319217681884765625)
    gamma = node.real("gamma", 1.05070102214813232421875)
    return np.asarray(gamma * np.where(x <= 0, alpha * np.expm1(np.minimum(x, 0)), x))


def _swish(x: Array, node: Node) -> Array:
    return np.asarray(x / (1 + np.exp(-node.real("alpha", 1.0) * x)))


# float64 array -> float64 array; ONNX defines each, attributes are float32 values
UNARY: dict[str, Callable[[Array, Node], Array]] = {
    "Abs": lambda x, _: np.abs(x),
    "Celu": _celu,
    "Ceil": lambda x, _: np.ceil(x),
    "Elu": _elu,
    "Erf": lambda x, _: _erf(x),
    "Exp": lambda x, _: np.exp(x),
    "Floor": lambda x, _: np.floor(x),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x, _: x * np.clip(x / 6 + 0.5, 0, 1),
    "LeakyRelu": lambda x, node: np.where(x < 0, node.real("alpha", 0.01) * x, x),
    "Log": lambda x, _: np.log(x),
    "Mish": lambda x, _: x * np.tanh(np.logaddexp(0, x)),
    "Neg": lambda x, _: -x,
    "Reciprocal": lambda x, _: 1 / x,
    "Round": lambda x, _: np.rint(x),
    "Selu": _selu,
    "Sigmoid": lambda x, _: 1 / (1 + np.exp(-x)),
    "Sign": lambda x, _: np.sign(x),
    "Softplus": lambda x, _: np.logaddexp(0, x),
    "Softsign": lambda x, _: x / (1 + np.abs(x)),
    "Sqrt": lambda x, _: np.sqrt(x),
    "Swish": _swish,
    "Tanh": lambda x, _: np.tanh(x),
    "ThresholdedRelu": lambda x, node: np.where(x > node.real("alpha", 1.0), x, 0),
}

# float64 arrays -> float64 array, NumPy broadcasting
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Div": np.divide,
    "Mul": np.multiply,
    "PRelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "Pow": np.power,
    "Sub": np.subtract,
}

VARIADIC: dict[str, Callable[[Array, Array], Array]] = {
    "Max": np.maximum,
    "Min": np.minimum,
    "Sum": np.add,
}


def unary(node: Node, values: Values) -> Value:
    """One of UNARY."""
    with np.errstate(all="ignore"):
        y: Array = UNARY[node.op_type](_float64(node, values, 0), node).astype(np.float32)
    return y


def binary(node: Node, values: Values) -> Value:
    """One of BINARY. Add, Sub, Mul and Div equal the float32 operation: rounding a float64 result
    of two float32 numbers to float32 is the same as rounding the exact one."""
    a, b = _float64(node, values, 0), _float64(node, values, 1)
    with np.errstate(all="ignore"):
        return BINARY[node.op_type](a, b).astype(np.float32)


def variadic(node: Node, values: Values) -> Value:
    """One of VARIADIC, pairwise from the left, each step rounded."""
    y = _float64(node, values, 0).astype(np.float32)
    for i in range(1, len(values)):
        b = _float64(node, values, i)
        y = VARIADIC[node.op_type](y.astype(np.float64), b).astype(np.float32)
    return y


def clip(node: Node, values: Values) -> Value:
    """Clip and Relu. After a product or a mean they are kept until it is known what follows."""
    low, high = np.float32(-np.inf), np.float32(np.inf)
    if node.op_type == "Relu":
        low = np.float32(0)
    elif node.opset < 11:
        limit = float(np.finfo(np.float32).max)
        low, high = np.float32(node.real("min", -limit)), np.float32(node.real("max", limit))
    else:
        given_low, given_high = optional_array(values, 1), optional_array(values, 2)
        low = low if given_low is None else np.float32(given_low.reshape(()))
        high = high if given_high is None else np.float32(given_high.reshape(()))
    x = value_at(values, 0)
    if isinstance(x, Sums):
        return narrow(x, low, high)
    array = real(x)
    if array.dtype != np.float32:
        return _clip_integers(node, array, low, high)
    return np.minimum(np.maximum(array, low), high)


def _clip_integers(node: Node, x: Array, low: np.float32, high: np.float32) -> Array:
    """Clip (opset 12) or Relu (opset 14) straight on integers: the bounds are integers too."""
    node.refuse_unless(x.dtype.kind in "iu", f"an input of type {x.dtype}")
    clipped = np.minimum(np.maximum(x.astype(np.float64), float(low)), float(high))
    return clipped.astype(x.dtype)


def _float64(node: Node, values: Values, i: int) -> Array:
    array = array_at(values, i)
    node.refuse_unless(array.dtype == np.float32, f"an operand of type {array.dtype}")
    return array.astype(np.float64)
