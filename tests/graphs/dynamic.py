"""Random dynamic quantization: DynamicQuantizeLinear, an integer product, scaled to float."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.inputs import Values
from tests.contract.operators import OPERATORS as CONTRACT
from tests.contract.values import Value, real

from . import draw
from .builder import Builder, Real, Tensor
from .products import window_attributes


def conv(b: Builder, x: Tensor) -> Tensor | Real:
    """ConvInteger, Cast, Mul by both scales, sometimes a float bias."""
    group = x.shape[1] if draw.chance(b.rng, 0.3) else 1
    filters = group * draw.integer(b.rng, 1, 9)
    attrs: dict[str, Any] = {**window_attributes(b, x.shape[2:], dilate=True), "group": group}
    w = b.weights((filters, x.shape[1] // group, *attrs["kernel_shape"]), None)
    bias_shape = (1, filters, *(1,) * (x.rank - 2))
    return _scaled(b, x, w, "ConvInteger", bias_shape, attrs)


def conv_pair(b: Builder, x: Tensor) -> Tensor | Real:
    """Two in a row, the first one's floats clipped, added to or as they are, then quantized."""
    channels = draw.integer(b.rng, 1, 20)
    w = b.weights((channels, x.shape[1], *(1,) * (x.rank - 2)), None)
    y = _product(b, b.dequantize(x), w, "ConvInteger", (1, channels, *(1,) * (x.rank - 2)), {})
    kind = draw.pick(b.rng, ("clip", "clip", "relu", "add", ""))
    highest = np.float32(np.abs(real(y.value)).max(initial=0) * draw.pick(b.rng, (0.3, 2)) + 0.1)
    if kind == "clip":
        ends = [b.real_constant(np.asarray(v, np.float32), "end") for v in (0, highest)]
        y = b.float_node("Clip", [y, *ends])
    elif kind:
        y = b.float_node(kind.title(), [y] * (1 + (kind == "add")))
    attrs: dict[str, Any] = window_attributes(b, x.shape[2:], dilate=False)
    attrs["group"] = channels if draw.chance(b.rng, 0.6) else 1
    w = b.weights((channels, channels // attrs["group"], *attrs["kernel_shape"]), None)
    return _product(b, y, w, "ConvInteger", (1, channels, *(1,) * (x.rank - 2)), attrs)


def matmul(b: Builder, x: Tensor) -> Tensor | Real:
    """MatMulInteger, Cast, Mul by both scales, sometimes a float bias."""
    columns = draw.integer(b.rng, 1, 20)
    axis = 1 if draw.chance(b.rng, 0.4) else None
    w = b.weights((x.shape[-1], columns), axis)
    return _scaled(b, x, w, "MatMulInteger", (columns,), {})


def fused_matmul(b: Builder, x: Tensor) -> Tensor | Real:
    """com.microsoft DynamicQuantizeMatMul, or DynamicQuantizeLinear and MatMulIntegerToFloat."""
    columns = draw.integer(b.rng, 1, 20)
    w = b.weights((x.shape[-1], columns), 1 if draw.chance(b.rng, 0.4) else None)
    codes, scale, zero = (
        b.real_constant(array, name)
        for array, name in ((w.q, "w"), (w.scale, "scale"), (w.zero_point, "zero"))
    )
    source = b.dequantize(x)
    if draw.chance(b.rng, 0.5):
        operands, op = [source, codes, scale, zero], "DynamicQuantizeMatMul"
    else:
        q, x_scale, x_zero = _several(b, "DynamicQuantizeLinear", [source], 3)
        operands, op = [q, codes, x_scale, scale, x_zero, zero], "MatMulIntegerToFloat"
    if draw.chance(b.rng, 0.6):
        bias = b.rng.normal(0, 1, columns).astype(np.float32)
        operands.append(b.real_constant(bias, "bias"))
    (y,) = _several(b, op, operands, 1, domain="com.microsoft")
    return y if draw.chance(b.rng, 0.4) else b.quantize(y)


def _scaled(
    b: Builder, x: Tensor, w: Tensor, op: str, bias_shape: tuple[int, ...], attrs: dict[str, Any]
) -> Tensor | Real:
    y = _product(b, b.dequantize(x), w, op, bias_shape, attrs)
    if draw.chance(b.rng, 0.5):
        y = b.float_node("Relu", [y])
    return y if draw.chance(b.rng, 0.4) else b.quantize(y)


def _product(
    b: Builder, x: Real, w: Tensor, op: str, bias_shape: tuple[int, ...], attrs: dict[str, Any]
) -> Real:
    """The integer product of x, quantized by its own range, as floats."""
    q, scale, zero = _several(b, "DynamicQuantizeLinear", [x], 3)
    zero_of_w = b.real_constant(w.zero_point, "zero")
    (acc,) = _several(b, op, [q, b.real_constant(w.q, "w"), zero, zero_of_w], 1, attrs)
    sums = b.float_node("Cast", [acc], to=1)
    scales = b.float_node("Mul", [scale, b.real_constant(w.scale, "scale")])
    y = b.float_node("Mul", [sums, scales])
    if draw.chance(b.rng, 0.6):
        spread = float(np.abs(real(y.value)).max()) or 1.0
        bias = b.rng.normal(0, spread / 4, bias_shape).astype(np.float32)
        y = b.float_node("Add", [y, b.real_constant(bias, "bias")])
    return y


def _several(
    b: Builder, op: str, operands: list[Real], outputs: int, attrs: dict[str, Any] | None = None,
    domain: str = "",
) -> list[Real]:  # fmt: skip
    """Append a node with several outputs, or one that is not float, or of another domain."""
    values: Values = [o.value for o in operands]
    names = b.node_outputs(op, [o.name for o in operands], outputs, domain, **(attrs or {}))
    result = CONTRACT[domain, op](b.described(op, attrs or {}), values)
    found: tuple[Value, ...] = result if isinstance(result, tuple) else (result,)
    return [Real(name, value) for name, value in zip(names, found, strict=True)]
