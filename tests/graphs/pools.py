"""Random poolings, means and softmaxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import draw
from .activations import narrowed
from .builder import Builder, Real, Tensor
from .products import window_attributes


def average_pool(b: Builder, x: Tensor) -> Tensor | Real:
    """count_include_pad, ceil_mode, all paddings; channels_last in the QOperator spelling."""
    attrs = window_attributes(b, x.shape[2:], dilate=b.opset >= 19 and draw.chance(b.rng, 0.3))
    if draw.chance(b.rng, 0.5):
        attrs["count_include_pad"] = 1
    if "auto_pad" not in attrs and draw.chance(b.rng, 0.3):
        attrs["ceil_mode"] = 1
    return _average(b, x, "AveragePool", attrs)


def global_average_pool(b: Builder, x: Tensor) -> Tensor | Real:
    return _average(b, x, "GlobalAveragePool", {})


def reduce_mean(b: Builder, x: Tensor) -> Tensor | Real:
    """Over the spatial axes, or some of them; positive or negative."""
    axes = list(range(2, x.rank))
    if draw.chance(b.rng, 0.3):
        axes = axes[-1:]
    if draw.chance(b.rng, 0.5):
        axes = [axis - x.rank for axis in axes]
    keepdims = int(draw.chance(b.rng, 0.5))
    operands: list[Real | None] = [b.dequantize(x)]
    if b.opset < 18:
        y = b.float_node("ReduceMean", operands, axes=axes, keepdims=keepdims)
    else:
        operands.append(b.real_constant(np.array(axes, np.int64)))
        y = b.float_node("ReduceMean", operands, keepdims=keepdims)
    return b.quantize(narrowed(b, y))


def max_pool(b: Builder, x: Tensor) -> Tensor:
    """On integers, or between DequantizeLinear and QuantizeLinear of the same or new parameters."""
    attrs = window_attributes(b, x.shape[2:], dilate=True)
    if "auto_pad" not in attrs and draw.chance(b.rng, 0.3):
        attrs["ceil_mode"] = 1
    if b.spelling == "qop":
        q = b.outcome("MaxPool", [x.q], **attrs)
        assert isinstance(q, np.ndarray)
        return b.moved(b.node("MaxPool", [x.name], **attrs), x, q)
    y = b.float_node("MaxPool", [b.dequantize(x)], **attrs)
    if draw.chance(b.rng, 0.6):
        return b.quantize(y, x.q.dtype, x.parameters)
    return b.quantize(y)


def softmax(b: Builder, x: Tensor) -> Tensor | Real:
    """Any axis; before opset 13 all axes from it on are one."""
    attrs: dict[str, Any] = {}
    if draw.chance(b.rng, 0.8):
        attrs["axis"] = draw.integer(b.rng, -x.rank, x.rank - 1)
    usual = (np.float32(1 / 256), draw.limits(x.q.dtype)[0])  # what converters choose
    parameters = usual if draw.chance(b.rng, 0.6) else None
    if b.spelling == "qop":
        attrs.setdefault("axis", -1)  # the operator's default is said to depend on the opset
        value = b.outcome("Softmax", [x.value()], **attrs)
        return b.qlinear_node(
            "QLinearSoftmax", [x], value, parameters=parameters, opset=b.opset, **attrs
        )
    y = b.float_node("Softmax", [b.dequantize(x)], **attrs)
    if draw.chance(b.rng, 0.1):
        return y
    return b.quantize(y, x.q.dtype if parameters else None, parameters)


def _average(b: Builder, x: Tensor, op: str, attrs: dict[str, Any]) -> Tensor | Real:
    if b.spelling == "qop" and "dilations" not in attrs:
        value = b.outcome(op, [x.value()], **attrs)
        if not draw.chance(b.rng, 0.25):
            return b.qlinear_node("QLinear" + op, [x], value, **attrs)
        last = [0, *range(2, x.rank), 1]
        turned = b.moved(b.node("Transpose", [x.name], perm=last), x, x.q.transpose(last))
        pooled = b.qlinear_node("QLinear" + op, [turned], value, channels_last=1, **attrs)
        back = [0, x.rank - 1, *range(1, x.rank - 1)]
        return b.moved(b.node("Transpose", [pooled.name], perm=back), pooled, pooled.q)
    y = b.float_node(op, [b.dequantize(x)], **attrs)
    if draw.chance(b.rng, 0.06):
        return y
    return b.quantize(narrowed(b, y))
