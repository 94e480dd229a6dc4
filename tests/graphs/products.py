"""Random Conv, MatMul and Gemm."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import draw
from .activations import narrowed
from .builder import Builder, Real, Tensor
from .draw import Array


def conv(b: Builder, x: Tensor) -> Tensor | Real:
    """One, two or three spatial axes; groups and depthwise; strides, dilations, all paddings."""
    rng, channels, spatial = b.rng, x.shape[1], x.shape[2:]
    group = draw.pick(rng, [g for g in range(1, channels + 1) if channels % g == 0])
    if draw.chance(rng, 0.3):
        group = channels
    filters = group * draw.integer(rng, 1, 3 if group > 1 else 17)
    attrs = window_attributes(b, spatial, dilate=True)
    kernel = attrs["kernel_shape"]
    if draw.chance(rng, 0.3):
        del attrs["kernel_shape"]
    if group > 1 or draw.chance(rng, 0.3):
        attrs["group"] = group
    axis = 0 if draw.chance(rng, 0.6) else None
    w = b.weights((filters, channels // group, *kernel), axis)
    acc_size = 255 * 32 * w.q[0].size
    scales = np.float32(x.scale) * w.scale
    return _product(b, "Conv", "QLinearConv", x, w, (filters,), scales, acc_size, attrs)


def matmul(b: Builder, x: Tensor) -> Tensor | Real:
    """Constant or computed right operand, two or more axes, batches that broadcast."""
    rng = b.rng
    n = draw.integer(rng, 1, 20)
    lead: tuple[int, ...] = ()
    if x.rank > 2 and draw.chance(rng, 0.3):
        lead = tuple(draw.pick(rng, (1, size)) for size in x.shape[:-2])
    shape = (*lead, x.shape[-1], n)
    if draw.chance(rng, 0.25):
        w = b.input(shape)
    else:
        per_column = not lead and draw.chance(rng, 0.5)
        w = b.weights(shape, 1 if per_column else None)
    value = b.outcome("MatMul", [x.value(), w.value()])
    if b.spelling == "qop":
        return b.qlinear_node("QLinearMatMul", [x, w], value)
    y = b.float_node("MatMul", [b.dequantize(x), b.dequantize(w)])
    return _finish(b, y)


def gemm(b: Builder, x: Tensor) -> Tensor | Real:
    """transA, transB, alpha, beta, and every shape of bias that broadcasts."""
    rng = b.rng
    attrs: dict[str, Any] = {}
    m, k = x.shape
    if draw.chance(rng, 0.2):
        attrs["transA"] = 1
        m, k = k, m
    if draw.chance(rng, 0.5):
        attrs["transB"] = 1
    if draw.chance(rng, 0.3):
        attrs["alpha"] = draw.pick(rng, (0.5, 2.0, 1.3, 0.1))
    n = draw.integer(rng, 1, 20)
    columns = 0 if attrs.get("transB") else 1
    axis = columns if draw.chance(rng, 0.5) else None
    w = b.weights((n, k) if attrs.get("transB") else (k, n), axis)
    bias_shape = draw.pick(rng, [(n,), (n,), (1, n), (m, n), (m, 1), (1,), ()])
    if b.spelling == "qdq" and draw.chance(rng, 0.2):
        attrs["beta"] = draw.pick(rng, (0.5, 2.0, 0.7))
    scales = np.float32(attrs.get("alpha", 1.0)) * np.float32(x.scale) * w.scale
    return _product(b, "Gemm", "QGemm", x, w, bias_shape, scales, 255 * 32 * k, attrs)


def window_attributes(b: Builder, spatial: tuple[int, ...], dilate: bool) -> dict[str, Any]:
    """kernel_shape, strides, dilations, pads or auto_pad that leave at least one window."""
    rng, rank = b.rng, len(spatial)
    kernel, strides, dilations, begins, ends = [], [], [], [], []
    auto_pad = draw.pick(rng, ("NOTSET",) * 6 + ("SAME_UPPER", "SAME_LOWER", "VALID"))
    padded = auto_pad == "NOTSET" and draw.chance(rng, 0.7)
    for size in spatial:
        k = draw.integer(rng, 1, 5)
        # taps no further apart than the input is long, so that no window misses it
        d = min(draw.pick(rng, (1, 1, 2, 3)) if dilate else 1, size)
        begin = draw.integer(rng, 0, k - 1) if padded else 0
        end = draw.integer(rng, 0, k - 1) if padded else 0
        # SAME pads as needed, yet a window should not lie in the padding alone
        room = size + begin + end
        if (k - 1) * d + 1 > room:
            d = 1
            k = min(k, size)
            begin, end = min(begin, k - 1), min(end, k - 1)
        kernel.append(k)
        strides.append(draw.pick(rng, (1, 1, 2, 3)))
        dilations.append(d)
        begins.append(begin)
        ends.append(end)
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if auto_pad != "NOTSET":
        attrs["auto_pad"] = auto_pad
        dilations = [1] * rank  # ONNX and its implementations disagree about SAME with dilations
    elif padded or draw.chance(rng, 0.3):
        attrs["pads"] = begins + ends
    if max(strides) > 1 or draw.chance(rng, 0.5):
        attrs["strides"] = strides
    if max(dilations) > 1:
        attrs["dilations"] = dilations
    return attrs


def _product(
    b: Builder,
    op: str,
    qop: str,
    x: Tensor,
    w: Tensor,
    bias_shape: tuple[int, ...],
    scales: Array,
    acc_size: int,
    attrs: dict[str, Any],
) -> Tensor | Real:
    """`scales` are real values of one step of the sums, `acc_size` what a sum may come to."""
    kind = draw.pick(b.rng, ("none", "int32", "int32", "float", "foreign"))
    if b.spelling == "qop":
        if kind == "none":
            return b.qlinear_node(
                qop, [x, w], b.outcome(op, [x.value(), w.value()], **attrs), **attrs
            )
        ints = b.rng.integers(-acc_size, acc_size + 1, bias_shape).astype(np.int32)
        value = b.outcome(op, [x.value(), w.value(), ints], **attrs)
        return b.qlinear_node(qop, [x, w], value, b.constant(ints, "bias"), **attrs)
    operands: list[Real | None] = [b.dequantize(x), b.dequantize(w)]
    if kind != "none":
        operands.append(_bias(b, kind, bias_shape, scales, acc_size))
    return _finish(b, b.float_node(op, operands, **attrs))


def _bias(b: Builder, kind: str, shape: tuple[int, ...], scales: Array, acc_size: int) -> Real:
    """Float; int32 in steps of the sums where the shape allows it; or int32 in foreign steps."""
    ints = np.asarray(b.rng.integers(-acc_size, acc_size + 1, shape)).astype(np.int32)
    per_tensor = scales.size == 1
    columns = len(shape) == 1 and shape[0] == scales.size and b.opset >= 13
    if kind == "float" or not (per_tensor or columns):
        return b.real_constant((ints * scales.flat[0]).astype(np.float32), "bias")
    scale = scales.reshape(()) if per_tensor else scales
    if kind == "foreign":
        scale = scale * np.float32(1.37)
    elif draw.chance(b.rng, 0.3):
        scale = scale * np.float32(1 + 1e-6)  # as exporters round it: still the same scale
    axis = None if per_tensor else 0
    zero = np.zeros(scale.shape, np.int32)
    return b.dequantize(Tensor(b.constant(ints, "bias"), ints, scale, zero, axis))


def _finish(b: Builder, y: Real) -> Tensor | Real:
    """Quantize, after an activation or none; or leave it float."""
    if draw.chance(b.rng, 0.06):
        return y
    return b.quantize(narrowed(b, y))
