"""Operators judged by the bytes that they move, which kernel benches run.

A builder takes the sizes in the order that its family names them (`bench/families.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qrt.bench.draft import (
    F32,
    INDEXED_ROWS,
    S32,
    U8,
    X_SCALE,
    X_ZERO_POINT,
    Array,
    Dims,
    Draft,
    windows,
)

if TYPE_CHECKING:
    import onnx


# pooling


def max_pool(d: Draft, h: int, w: int, c: int, kernel: int, stride: int) -> onnx.ModelProto:
    """Maximum of u8 windows."""
    return d.output_image(d.node("MaxPool", d.image(U8, h, w, c), **windows(h, w, kernel, stride)))


def max_pool_f32(d: Draft, h: int, w: int, c: int, kernel: int, stride: int) -> onnx.ModelProto:
    """Maximum of float32 windows."""
    return d.output_image(d.node("MaxPool", d.image(F32, h, w, c), **windows(h, w, kernel, stride)))


def average_pool(d: Draft, h: int, w: int, c: int, kernel: int, stride: int) -> onnx.ModelProto:
    """Mean of u8 windows, requantized; of the whole image where the window has its size."""
    x = d.dequantize(d.image(U8, h, w, c))
    if kernel == h == w:
        mean = d.node("GlobalAveragePool", x)
    else:
        mean = d.node("AveragePool", x, **windows(h, w, kernel, stride))
    return d.output_image(d.quantize(mean, X_SCALE))


def average_pool_f32(d: Draft, h: int, w: int, c: int, kernel: int, stride: int) -> onnx.ModelProto:
    """Mean of float32 windows; of the whole image where the window has its size."""
    x = d.image(F32, h, w, c)
    if kernel == h == w:
        return d.output_image(d.node("GlobalAveragePool", x))
    return d.output_image(d.node("AveragePool", x, **windows(h, w, kernel, stride)))


# element by element


def add(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 + u8 of two scales, requantized."""
    a, b = (d.dequantize(d.input(U8, (rows, n)), scale) for scale in (0.0213, 0.0317))
    return d.output(d.quantize(d.node("Add", a, b), 0.0479))


def mul(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 * u8, requantized."""
    a, b = (d.dequantize(d.input(U8, (rows, n))) for _ in range(2))
    return d.output(d.quantize(d.node("Mul", a, b), 0.05))


def sigmoid(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """A function of u8 to u8: a table of 256 entries."""
    return d.output(d.quantize(d.node("Sigmoid", d.dequantize(d.input(U8, (rows, n)))), 1 / 256, 0))


def sigmoid_to_float(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """A function of u8 to float32."""
    return d.output(d.node("Sigmoid", d.dequantize(d.input(U8, (rows, n)))))


def unary_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Sigmoid of float32."""
    return d.output(d.node("Sigmoid", d.input(F32, (rows, n))))


def add_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 + float32."""
    return d.output(d.node("Add", d.input(F32, (rows, n)), d.input(F32, (rows, n))))


def chain_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """What lies between two products of a transformer: bias, Gelu in five nodes, and quantized."""
    x = d.node("Add", d.input(F32, (rows, n)), d.weights(n, dtype=F32))
    t = d.node("Erf", d.node("Div", x, d.constant(2**0.5, F32)))
    t = d.node("Mul", x, d.node("Add", t, d.constant(1.0, F32)))
    return d.output(d.quantize(d.node("Mul", t, d.constant(0.5, F32)), 0.03))


def less_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Not (float32 < float32)."""
    less = d.node("Less", d.input(F32, (rows, n)), d.input(F32, (rows, n)))
    return d.output(d.node("Not", less))


def where_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """One of two float32 tensors, by a mask."""
    mask = d.input(np.bool_, (rows, n))
    return d.output(d.node("Where", mask, d.input(F32, (rows, n)), d.input(F32, (rows, n))))


# between real and integer


def quantize(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 to u8."""
    return d.output(d.quantize(d.input(F32, (rows, n)), X_SCALE))


def quantize_channels(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 to u8, a scale per row."""
    return _quantize_along(d, (rows, n), 0, np.zeros(rows))


def quantize_columns(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 to u8, a scale per column, as channels last in memory."""
    return _quantize_along(d, (rows, n), 1, np.zeros(n))


def quantize_columns_apart(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """The same with zero points that differ too."""
    return _quantize_along(d, (rows, n), 1, np.arange(n) % 256)


def _quantize_along(d: Draft, shape: Dims, axis: int, zero_points: Array) -> onnx.ModelProto:
    scales = d.constant(d.rng.random(shape[axis]) + 0.5, F32)
    zeros = d.constant(zero_points, U8)
    return d.output(d.node("QuantizeLinear", d.input(F32, shape), scales, zeros, axis=axis))


def dynamic_quantize(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 to u8 by its own extremes."""
    y = d.node("DynamicQuantizeLinear", d.input(F32, (rows, n)), outputs=3)
    return d.output(*(y[:-1] + str(i) for i in range(3)))


def dequantize(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 to float32."""
    return d.output(d.dequantize(d.input(U8, (rows, n))))


def dequantize_channels(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 to float32, a scale per row."""
    scales, zeros = d.constant(d.rng.random(rows) + 0.5, F32), d.constant(np.zeros(rows), U8)
    return d.output(d.node("DequantizeLinear", d.input(U8, (rows, n)), scales, zeros, axis=0))


def requantize(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 of one scale to u8 of another."""
    return d.output(d.quantize(d.dequantize(d.input(U8, (rows, n))), 0.03))


def requantize_s32(d: Draft, rows: int, n: int, scale: Any = 0.00093) -> onnx.ModelProto:
    """int32 sums to u8; one product does for these scales."""
    x = d.input(S32, (rows, n))
    real = d.node("DequantizeLinear", x, d.constant(scale, F32), axis=1)
    return d.output(d.quantize(real, 0.1))


def requantize_s32_fine(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """int32 sums to u8, whose steps are too many sums long for one product."""
    return requantize_s32(d, rows, n, 0.0000371)


def requantize_s32_columns(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """int32 sums to u8, a scale per column, as channels last in memory."""
    return requantize_s32(d, rows, n, (d.rng.random(n) + 0.5) * 0.001)


# along rows


def softmax(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Of the rows of u8, requantized."""
    real = d.dequantize(d.input(U8, (rows, n)))
    return d.output(d.quantize(d.node("Softmax", real, axis=-1), 1 / 256, 0))


def softmax_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Of the rows of float32."""
    return d.output(d.node("Softmax", d.input(F32, (rows, n)), axis=-1))


def masked_softmax(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Of attention's scores: scaled, masked, and quantized for the next product."""
    scores = d.node("Mul", d.input(F32, (rows, n)), d.constant(0.125, F32))
    real = d.node("Softmax", d.node("Add", scores, d.weights(n, dtype=F32)), axis=-1)
    return d.output(d.quantize(real, 1 / 256, 0))


def layer_norm(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Of the rows of float32."""
    scale, bias = d.weights(n, dtype=F32), d.weights(n, dtype=F32)
    return d.output(d.node("LayerNormalization", d.input(F32, (rows, n)), scale, bias, axis=-1))


def batch_norm(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 (rows, n) by channel, n channels."""
    scale, bias, mean = (d.weights(n, dtype=F32) for _ in range(3))
    variance = d.constant(d.rng.random(n) + 0.5, F32)
    x = d.input(F32, (rows, n))
    return d.output(d.node("BatchNormalization", x, scale, bias, mean, variance))


def reduce_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Mean of the rows of float32."""
    return d.output(d.node("ReduceMean", d.input(F32, (rows, n)), axes=[1], keepdims=1))


# movement


def transpose(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 (rows, n) to (n, rows), in memory."""
    return d.output(d.node("Transpose", d.input(U8, (rows, n)), perm=[1, 0]))


def slice_rows(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """The second half of every row of u8."""
    bounds = (d.constant([n // 2], np.int64), d.constant([n], np.int64))
    x = d.input(U8, (rows, n))
    return d.output(d.node("Slice", x, *bounds, d.constant([1], np.int64)))


def slice_steps(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Every second element of float32 rows."""
    bounds = (d.constant([0], np.int64), d.constant([n], np.int64), d.constant([1], np.int64))
    x = d.input(F32, (rows, n))
    return d.output(d.node("Slice", x, *bounds, d.constant([2], np.int64)))


def pad_image(d: Draft, h: int, w: int, c: int) -> onnx.ModelProto:
    """One pixel around an image of u8."""
    pads = d.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    return d.output_image(d.node("Pad", d.image(U8, h, w, c), pads, d.constant(7, U8)))


def resize_nearest(d: Draft, h: int, w: int, c: int) -> onnx.ModelProto:
    """An image of u8 in twice the size, pixels repeated."""
    return _resize(d, d.image(U8, h, w, c), "nearest")


def resize_linear(d: Draft, h: int, w: int, c: int) -> onnx.ModelProto:
    """An image of u8 in twice the size, interpolated."""
    x = d.dequantize(d.image(U8, h, w, c))
    return _resize(d, x, "linear", quantized=True)


def _resize(d: Draft, x: str, mode: str, *, quantized: bool = False) -> onnx.ModelProto:
    scales = d.constant([1, 1, 2, 2], F32)
    y = d.node(
        "Resize", x, "", scales, mode=mode, coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )  # fmt: skip
    return d.output_image(d.quantize(y, X_SCALE, X_ZERO_POINT) if quantized else y)


def gather(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Rows of a table of float32 by index, as embeddings are."""
    table = d.weights(INDEXED_ROWS, n, dtype=F32)
    return d.output(d.node("Gather", table, d.input(np.int64, (rows,))))


def cast(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """int32 to float32."""
    return d.output(d.node("Cast", d.input(S32, (rows, n)), to=1))
