"""Products and convolutions that kernel benches run.

A builder takes the sizes in the order that its family names them (`bench/families.py`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qrt.bench.draft import (
    F32,
    S8,
    S32,
    U8,
    X_SCALE,
    X_ZERO_POINT,
    Y_ZERO_POINT,
    Draft,
    windows,
)

if TYPE_CHECKING:
    import onnx


# products


def qlinear_matmul(d: Draft, m: int, n: int, k: int, *, zero_point: int = 0) -> onnx.ModelProto:
    """u8 (m, k) * s8 weights (k, n), requantized to u8."""
    w = (d.weights(k, n), *d.qparams(1.0, zero_point, S8))
    y = d.qparams(spread_of(k), Y_ZERO_POINT)
    x = d.input(U8, (m, k))
    return d.output(d.node("QLinearMatMul", x, *d.qparams(X_SCALE, X_ZERO_POINT), *w, *y))


def qlinear_matmul_asymmetric(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """The same with weights around a zero point other than 0."""
    return qlinear_matmul(d, m, n, k, zero_point=3)


def qlinear_matmul_two_inputs(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """u8 (m, k) * u8 (k, n), both computed by the network, as in attention."""
    a = (d.input(U8, (m, k)), *d.qparams(X_SCALE, X_ZERO_POINT))
    b = (d.input(U8, (k, n)), *d.qparams(1.0, 128))
    return d.output(d.node("QLinearMatMul", *a, *b, *d.qparams(spread_of(k), Y_ZERO_POINT)))


def matmul_to_float(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """u8 * s8 weights with float32 results."""
    w = d.node("DequantizeLinear", d.weights(k, n), *d.qparams(1.0, 0, S8))
    return d.output(d.node("MatMul", d.dequantize(d.input(U8, (m, k))), w))


def matmul_words(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """u16 * s8 weights with float32 results (com.microsoft: before opset 21)."""
    qparams = d.qparams(X_SCALE / 256, 2**15, np.uint16)
    x = d.node(
        "DequantizeLinear", d.input(np.uint16, (m, k)), *qparams, domain="com.microsoft"
    )
    w = d.node("DequantizeLinear", d.weights(k, n), *d.qparams(2**-10, 0, S8))
    return d.output(d.node("MatMul", x, w))


def matmul_dynamic(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """float32, quantized by its own range, * s8 weights, with float32 results."""
    x, scale, zero_point = d.nodes("DynamicQuantizeLinear", d.input(F32, (m, k)), outputs=3)
    sums = d.node("MatMulInteger", x, d.weights(k, n), zero_point)
    factor = d.node("Mul", scale, d.constant(1 / 127, F32))
    return d.output(d.node("Mul", d.node("Cast", sums, to=1), factor))


def lstm_f32(d: Draft, steps: int, inputs: int, hidden: int) -> onnx.ModelProto:
    """An LSTM over one sequence, with all its states as the result."""
    w = d.weights(1, 4 * hidden, inputs, dtype=F32)
    r = d.weights(1, 4 * hidden, hidden, dtype=F32)
    return d.output(d.node("LSTM", d.input(F32, (steps, 1, inputs)), w, r, hidden_size=hidden))


def matmul_f32(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """float32 (m, k) * weights (k, n)."""
    return d.output(d.node("MatMul", d.input(F32, (m, k)), d.weights(k, n, dtype=F32)))


def matmul_f32_words(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """float32 (m, k) * s16 weights (k, n), dequantized (com.microsoft: before opset 21)."""
    words = d.constant(d.rng.integers(-(2**15), 2**15, (k, n)), np.int16)
    scales = d.constant((d.rng.random(n) + 0.5) * 2**-18, F32)
    w = d.node("DequantizeLinear", words, scales, axis=1, domain="com.microsoft")
    return d.output(d.node("MatMul", d.input(F32, (m, k)), w))


def matmul_f32_two_inputs(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """float32 (m, k) * (k, n), both computed by the network, as in attention."""
    return d.output(d.node("MatMul", d.input(F32, (m, k)), d.input(F32, (k, n))))


def gemm_f32_added(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """float32 (m, k) * weights (k, n) + a computed (m, n)."""
    x, c = d.input(F32, (m, k)), d.input(F32, (m, n))
    return d.output(d.node("Gemm", x, d.weights(k, n, dtype=F32), c))


def nbits(
    d: Draft, m: int, n: int, k: int, block: int, *, bits: int, level: int,
    asymmetric: bool = False,
) -> onnx.ModelProto:  # fmt: skip
    """float32 (m, k) * weights of `bits` in blocks along k; `level` is the accuracy_level."""
    blocks = -(-k // block)

    def random(*shape: int) -> str:
        return d.constant(d.rng.integers(0, 256, shape), U8)

    inputs = [d.input(F32, (m, k)), random(n, blocks, block * bits // 8)]
    inputs.append(d.constant((d.rng.random(n * blocks) + 0.5) / (np.sqrt(k) * 2**bits), F32))
    if asymmetric:
        inputs.append(random(n * -(-blocks * bits // 8)))
    attrs = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": level}
    return d.output(d.node("MatMulNBits", *inputs, domain="com.microsoft", **attrs))


nbits_s8_2b, nbits_s8_4b, nbits_s8_8b = (partial(nbits, bits=bits, level=4) for bits in (2, 4, 8))
nbits_s8_4b_asymmetric = partial(nbits, bits=4, level=4, asymmetric=True)
nbits_f32_4b = partial(nbits, bits=4, level=0)


# convolutions


def qlinear_conv(
    d: Draft, h: int, w: int, c: int, o: int, kernel: int, stride: int, group: int = 1
) -> onnx.ModelProto:
    """u8 image * s8 weights per channel, requantized to u8."""
    x = (d.image(U8, h, w, c), *d.qparams(X_SCALE, X_ZERO_POINT))
    scales = d.constant(d.rng.random(o) + 0.5, F32)
    weights = (d.weights(o, c // group, kernel, kernel), scales, d.constant(np.zeros(o), S8))
    k = c // group * kernel**2
    y = d.qparams(spread_of(k), Y_ZERO_POINT)
    bias = d.constant(d.rng.integers(-3000, 3000, o), S32)
    window = windows(h, w, kernel, stride)
    conv = d.node("QLinearConv", *x, *weights, *y, bias, group=group, **window)
    return d.output_image(conv)


def qlinear_depthwise(
    d: Draft, h: int, w: int, c: int, kernel: int, stride: int
) -> onnx.ModelProto:
    """The same, a kernel of its own for each channel."""
    return qlinear_conv(d, h, w, c, c, kernel, stride, group=c)


def conv_f32(
    d: Draft, h: int, w: int, c: int, o: int, kernel: int, stride: int, group: int = 1
) -> onnx.ModelProto:
    """float32 image * weights, with a bias."""
    weights = d.weights(o, c // group, kernel, kernel, dtype=F32)
    bias = d.weights(o, dtype=F32)
    x = d.image(F32, h, w, c)
    return d.output_image(
        d.node("Conv", x, weights, bias, group=group, **windows(h, w, kernel, stride))
    )


def depthwise_f32(d: Draft, h: int, w: int, c: int, kernel: int, stride: int) -> onnx.ModelProto:
    """The same, a kernel of its own for each channel."""
    return conv_f32(d, h, w, c, c, kernel, stride, group=c)


def spread_of(k: int) -> float:
    """A scale of outputs that uses uint8 well, for sums of k products of random bytes."""
    return float(np.sqrt(k) * 110 * X_SCALE)
