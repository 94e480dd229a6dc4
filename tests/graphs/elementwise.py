"""Random element-wise operators: binary with broadcasting, unary chains, and x times f(x)."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import draw
from .activations import narrowed
from .builder import Builder, Real, Tensor

# operator -> attributes to choose from
UNARY: dict[str, list[dict[str, Any]]] = {
    "Abs": [{}],
    "Celu": [{}, {"alpha": 0.5}],
    "Elu": [{}, {"alpha": 0.3}],
    "Erf": [{}],
    "Exp": [{}],
    "HardSigmoid": [{}, {"alpha": 1 / 6, "beta": 0.5}],
    "HardSwish": [{}],
    "LeakyRelu": [{}, {"alpha": 0.1}, {"alpha": 0.25}],
    "Neg": [{}],
    "Relu": [{}],
    "Selu": [{}],
    "Sigmoid": [{}],
    "Softplus": [{}],
    "Softsign": [{}],
    "Tanh": [{}],
    "ThresholdedRelu": [{}, {"alpha": 0.5}],
}
SINCE = {"HardSwish": 14, "Gelu": 20, "Mish": 18}


def add(b: Builder, x: Tensor) -> Tensor:
    return _binary(b, x, "Add")


def mul(b: Builder, x: Tensor) -> Tensor:
    return _binary(b, x, "Mul")


def unary(b: Builder, x: Tensor) -> Tensor:
    """One or two operators between DequantizeLinear and QuantizeLinear."""
    if b.spelling == "qop" and draw.chance(b.rng, 0.8):
        op = draw.pick(b.rng, ("Sigmoid", "LeakyRelu"))
        attrs = draw.pick(b.rng, UNARY[op])
        return b.qlinear_node("QLinear" + op, [x], b.outcome(op, [x.value()], **attrs), **attrs)
    y = b.dequantize(x)
    for _ in range(draw.pick(b.rng, (1, 1, 2))):
        op = draw.pick(b.rng, [op for op in UNARY if SINCE.get(op, 0) <= b.opset])
        y = b.float_node(op, [y], **draw.pick(b.rng, UNARY[op]))
    return b.quantize(y)


def gate(b: Builder, x: Tensor) -> Tensor:
    """x * f(x), as Swish and HardSwish are exported, f(x) quantized in between or not."""
    shared = b.dequantize(x)
    op = draw.pick(b.rng, ("Sigmoid", "HardSigmoid", "Tanh"))
    y = b.float_node(op, [shared], **draw.pick(b.rng, UNARY[op]))
    if draw.chance(b.rng, 0.6):
        y = b.dequantize(b.quantize(y))
    operands = [y, b.dequantize(x)] if draw.chance(b.rng, 0.5) else [shared, y]
    return b.quantize(b.float_node("Mul", operands))


def requantize(b: Builder, x: Tensor) -> Tensor:
    """To other parameters, perhaps of the other signedness."""
    dtype = draw.other(x.q.dtype) if draw.chance(b.rng, 0.4) else x.q.dtype
    return b.quantize(b.dequantize(x), dtype, unit=float(x.scale))


def sums(b: Builder, x: Tensor) -> Tensor:
    """int32 sums from outside, of one scale or of one per index of an axis, to 8 bits."""
    reach = draw.pick(b.rng, (300, 30_000, 2**24, 2**31 - 1))
    q = b.rng.integers(-reach - 1, reach, x.shape, np.int32, endpoint=True)
    axis = draw.integer(b.rng, 0, x.rank - 1) if b.opset >= 13 and draw.chance(b.rng, 0.4) else None
    count = 1 if axis is None else x.shape[axis]
    scales = [b.scale_for(100 / reach) for _ in range(count)]
    shape = () if axis is None else (count,)
    parameters = np.array(scales, np.float32).reshape(shape), np.zeros(shape, np.int32)
    real_sums = b.dequantize(b.integers(q, *parameters, axis))
    return b.quantize(narrowed(b, real_sums), unit=float(scales[0]))


def concat(b: Builder, x: Tensor) -> Tensor:
    """Two or three tensors, some with the parameters of the output, some twice the same tensor."""
    axis = draw.integer(b.rng, 1, x.rank - 1)
    parts = [x]
    for _ in range(draw.pick(b.rng, (1, 1, 2))):
        shape = list(x.shape)
        shape[axis] = draw.integer(b.rng, 1, 5)
        parts.append(x if draw.chance(b.rng, 0.2) else _second(b, shape, x))
    if draw.chance(b.rng, 0.5):
        parts.reverse()
    signed = axis - x.rank if draw.chance(b.rng, 0.3) else axis
    value = b.outcome("Concat", [t.value() for t in parts], axis=signed)
    if b.spelling == "qop" and len({t.q.dtype for t in parts}) == 1:
        return b.qlinear_node("QLinearConcat", parts, value, axis=signed)
    y = b.float_node("Concat", [b.dequantize(t) for t in parts], axis=signed)
    if draw.chance(b.rng, 0.4):
        return b.quantize(y, x.q.dtype, x.parameters)
    return b.quantize(y, unit=float(x.scale))


def _binary(b: Builder, x: Tensor, op: str) -> Tensor:
    twice = draw.chance(b.rng, 0.1)
    operands = [x, x if twice else _second(b, _broadcasting_shape(b, x.shape), x)]
    if draw.chance(b.rng, 0.5):
        operands.reverse()
    if b.spelling == "qop" and operands[0].q.dtype == operands[1].q.dtype:
        value = b.outcome(op, [t.value() for t in operands])
        return b.qlinear_node("QLinear" + op, operands, value)
    y: Real = b.float_node(op, [b.dequantize(t) for t in operands])
    scales = [float(t.scale) for t in operands]
    return b.quantize(narrowed(b, y), unit=scales[0] * scales[1] if op == "Mul" else scales[0])


def _second(b: Builder, shape: list[int] | tuple[int, ...], x: Tensor) -> Tensor:
    """Another operand beside `x`: a graph input, or a quantized constant."""
    if draw.chance(b.rng, 0.6):
        return b.input(shape, like=x)
    dtype = b.output_type()
    q = draw.integers(b.rng, shape, dtype)
    zero = np.array(draw.zero_point(b.rng, dtype), dtype)
    return Tensor(b.constant(q, "c"), q, np.asarray(b.scale_for(0.03, float(x.scale))), zero)


def _broadcasting_shape(b: Builder, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape`, or with axes of length 1, or without its first axes, or a scalar."""
    kind = draw.pick(b.rng, ("same", "same", "same", "ones", "short", "channel", "scalar"))
    if kind == "ones":
        return tuple(draw.pick(b.rng, (1, size)) for size in shape)
    if kind == "short":
        return shape[draw.integer(b.rng, 0, len(shape) - 1) :]
    if kind == "channel" and len(shape) > 1:
        return (1, shape[1], *(1,) * (len(shape) - 2))
    return () if kind == "scalar" else shape
