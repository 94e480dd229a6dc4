"""Element-wise float32 operators of one input, as one table: a scalar function per operator.

Constants are folded with the float64 functions of `quant.functions`; a kernel computes in float32
within a few ulp of them (`float_math` states how many), with the same bits on every CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant import functions
from qrt.simd.float_math import (
    abs_f32,
    ceil_f32,
    erf_f32,
    exp_f32,
    expm1_f32,
    floor_f32,
    log_f32,
    rint_f32,
    sigmoid_f32,
    softplus_f32,
    sqrt_f32,
    tanh_f32,
)
from qrt.simd.memory import as_f32, operand, row_f32
from qrt.simd.scalar import share

FIELDS = ("x", "y", "n", "alpha", "beta")
X, Y, N, ALPHA, BETA = slots(FIELDS)
GRAIN = 2048  # elements; below this a second thread costs more than it saves

ZERO, ONE, TWO, HALF = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)
SQRT_HALF = np.float32(0.707106781186547524)
SQRT_2_PI, CUBIC = np.float32(0.7978845608028654), np.float32(0.044715)
SIXTH = np.float32(1 / 6)


@helper
def _positive(x):  # type: ignore[no-untyped-def]
    return ZERO if x < ZERO else x


@helper
def _negative(x):  # type: ignore[no-untyped-def]
    return ZERO if x > ZERO else x


@helper
def _unit(x):  # type: ignore[no-untyped-def]
    x = ZERO if x < ZERO else x
    return ONE if x > ONE else x


@helper
def _mish(x):  # type: ignore[no-untyped-def]
    # tanh(log(1 + e)) = (e*e + 2e) / (e*e + 2e + 2); for large x it is 1
    e = exp_f32(x if x < np.float32(20) else np.float32(20))
    n = e * (e + TWO)
    return x * (n / (n + TWO))


@helper
def abs_(x, a, b):  # type: ignore[no-untyped-def]
    return abs_f32(x)


@helper
def celu(x, a, b):  # type: ignore[no-untyped-def]
    return _positive(x) + _negative(a * expm1_f32(_negative(x) / a))


@helper
def ceil(x, a, b):  # type: ignore[no-untyped-def]
    return ceil_f32(x)


@helper
def clip(x, a, b):  # type: ignore[no-untyped-def]
    x = a if x < a else x
    return b if x > b else x


@helper
def elu(x, a, b):  # type: ignore[no-untyped-def]
    return a * expm1_f32(_negative(x)) if x < ZERO else x


@helper
def erf(x, a, b):  # type: ignore[no-untyped-def]
    return erf_f32(x)


@helper
def exp(x, a, b):  # type: ignore[no-untyped-def]
    return exp_f32(x)


@helper
def floor(x, a, b):  # type: ignore[no-untyped-def]
    return floor_f32(x)


@helper
def gelu(x, a, b):  # type: ignore[no-untyped-def]
    return HALF * x * (ONE + erf_f32(x * SQRT_HALF))


@helper
def gelu_tanh(x, a, b):  # type: ignore[no-untyped-def]
    return HALF * x * (ONE + tanh_f32(SQRT_2_PI * (x + CUBIC * (x * x * x))))


@helper
def hard_sigmoid(x, a, b):  # type: ignore[no-untyped-def]
    return _unit(a * x + b)


@helper
def hard_swish(x, a, b):  # type: ignore[no-untyped-def]
    return x * _unit(x * SIXTH + HALF)


@helper
def leaky_relu(x, a, b):  # type: ignore[no-untyped-def]
    return a * x if x < ZERO else x


@helper
def log(x, a, b):  # type: ignore[no-untyped-def]
    return log_f32(x)


@helper
def mish(x, a, b):  # type: ignore[no-untyped-def]
    return _mish(x)


@helper
def neg(x, a, b):  # type: ignore[no-untyped-def]
    return -x


@helper
def reciprocal(x, a, b):  # type: ignore[no-untyped-def]
    return ONE / x


@helper
def relu(x, a, b):  # type: ignore[no-untyped-def]
    return ZERO if x < ZERO else x


@helper
def round_(x, a, b):  # type: ignore[no-untyped-def]
    return rint_f32(x)


@helper
def selu(x, a, b):  # type: ignore[no-untyped-def]
    return b * (a * expm1_f32(_negative(x)) if x <= ZERO else x)


@helper
def shrink(x, a, b):  # type: ignore[no-untyped-def]
    y = x - b if x > a else ZERO
    return x + b if x < -a else y


@helper
def sigmoid(x, a, b):  # type: ignore[no-untyped-def]
    return sigmoid_f32(x)


@helper
def sign(x, a, b):  # type: ignore[no-untyped-def]
    y = -ONE if x < ZERO else x
    return ONE if x > ZERO else y


@helper
def softplus(x, a, b):  # type: ignore[no-untyped-def]
    return softplus_f32(x)


@helper
def softsign(x, a, b):  # type: ignore[no-untyped-def]
    return x / (ONE + abs_f32(x))


@helper
def sqrt(x, a, b):  # type: ignore[no-untyped-def]
    return sqrt_f32(x)


@helper
def swish(x, a, b):  # type: ignore[no-untyped-def]
    return x / (ONE + exp_f32(-a * x))


@helper
def tanh(x, a, b):  # type: ignore[no-untyped-def]
    return tanh_f32(x)


@helper
def thresholded_relu(x, a, b):  # type: ignore[no-untyped-def]
    return x if x > a else ZERO


@dataclass(frozen=True)
class Unary:
    """A scalar function of (x, alpha, beta), and which attributes alpha and beta are."""

    function: Callable[..., Any]
    alpha: tuple[str, float] | None = None
    beta: tuple[str, float] | None = None


UNARY: dict[str, Unary] = {
    "Abs": Unary(abs_),
    "Celu": Unary(celu, ("alpha", 1.0)),
    "Ceil": Unary(ceil),
    "Clip": Unary(clip),
    "Elu": Unary(elu, ("alpha", 1.0)),
    "Erf": Unary(erf),
    "Exp": Unary(exp),
    "Floor": Unary(floor),
    "Gelu": Unary(gelu),
    "HardSigmoid": Unary(hard_sigmoid, ("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": Unary(hard_swish),
    "LeakyRelu": Unary(leaky_relu, ("alpha", 0.01)),
    "Log": Unary(log),
    "Mish": Unary(mish),
    "Neg": Unary(neg),
    "Reciprocal": Unary(reciprocal),
    "Relu": Unary(relu),
    "Round": Unary(round_),
    "Selu": Unary(selu, ("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875)),
    "Shrink": Unary(shrink, ("lambd", 0.5), ("bias", 0.0)),
    "Sigmoid": Unary(sigmoid),
    "Sign": Unary(sign),
    "Softplus": Unary(softplus),
    "Softsign": Unary(softsign),
    "Sqrt": Unary(sqrt),
    "Swish": Unary(swish, ("alpha", 1.0)),
    "Tanh": Unary(tanh),
    "ThresholdedRelu": Unary(thresholded_relu, ("alpha", 1.0)),
}
# another form of an operator, chosen by an attribute
VARIANTS = {"Gelu": {"tanh": Unary(gelu_tanh)}}


def scalar_functions() -> dict[str, Callable[..., Any]]:
    """The scalar function (x, alpha, beta) of every kernel, by the name that `parse` gives."""
    found = {op.lower(): entry.function for op, entry in UNARY.items()}
    for op, variants in VARIANTS.items():
        found |= {f"{op.lower()}_{name}": entry.function for name, entry in variants.items()}
    return found


def parse(node: Node) -> tuple[str, float, float]:
    """(kernel name, alpha, beta)."""
    entry = UNARY[node.op]
    attrs = AttrReader(node)
    name = node.op.lower()
    if node.op in VARIANTS:
        variant = attrs.string("approximate", "none", ("none", *VARIANTS[node.op]))
        name += "" if variant == "none" else f"_{variant}"
    alpha = attrs.float(*entry.alpha) if entry.alpha else 0.0
    beta = attrs.float(*entry.beta) if entry.beta else 0.0
    if node.op == "Clip":
        alpha, beta = _bounds(node, attrs)
    attrs.done()
    return name, alpha, beta


def _bounds(node: Node, attrs: AttrReader) -> tuple[float, float]:
    """(min, max) of Clip: attributes before opset 11, constant inputs since."""
    limit = float(np.finfo(np.float32).max)
    if node.version < 11:
        return attrs.float("min", -limit), attrs.float("max", limit)
    found = [-np.inf, np.inf]
    for i in (0, 1):
        value = node.input(i + 1)
        if value is not None:
            if value.data is None:
                raise UnsupportedError("the bounds of Clip must be constant")
            if value.data.size != 1:
                name = ("min", "max")[i]
                raise ModelError(f"{name} must have 1 element, got {value.data.size}")
            found[i] = float(value.data.reshape(()))
    return found[0], found[1]


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x = node.required(0)
    return [(x.static_shape, x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x = inputs[0]
    assert x is not None
    _, low, high = parse(node)
    if node.op == "Clip":
        # integers too; NaN stays NaN
        limits = np.iinfo(x.dtype) if x.dtype.kind in "iu" else np.finfo(x.dtype)
        ends = [np.clip(v, limits.min, limits.max) if np.isfinite(v) else v for v in (low, high)]
        return [np.minimum(np.maximum(x, ends[0]), ends[1]).astype(x.dtype)]
    if x.dtype != np.float32:
        y = functions.UNARY[node.op](x.astype(np.float64), node.attrs)
        return [np.asarray(y).astype(x.dtype)]
    return [functions.unary(node.op, x, node.attrs)]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    name, alpha, beta = parse(node)
    if x.dtype != np.float32:
        raise UnsupportedError(f"{node.op} of {x.dtype} is not supported, only float32")
    program.emit(
        KERNELS[name],
        x=program.operand(x),
        y=program.operand(y),
        n=int(np.prod(x.static_shape)),
        alpha=np.float32(alpha),
        beta=np.float32(beta),
    )


def extents(row: Mapping[str, int]) -> list[Extent]:
    nbytes = 4 * product(row, "n")
    return [Extent("x", nbytes), Extent("y", nbytes, writes=True)]


def _declare(name: str, function: Callable[..., Any]) -> Kernel:
    @kernel(f"{name}_f32", FIELDS, extents, family="float_unary")
    def unary_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = as_f32(operand(row, X, arena, constants))
        y = as_f32(operand(row, Y, arena, constants))
        alpha = row_f32(row, ALPHA)
        beta = row_f32(row, BETA)
        start, stop = share(row[N], thread, threads, GRAIN)
        for i in range(start, stop):
            y[i] = function(x[i], alpha, beta)
        return 0

    return unary_kernel


KERNELS = {name: _declare(name, function) for name, function in scalar_functions().items()}

SPECS = tuple(OpSpec(op, "", infer, reference, lower, layout="any") for op in UNARY)
