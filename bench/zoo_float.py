"""Float operators of the benchmark zoo in plain NumPy; images are (channels, height, width).

The zoo runs one sample through its own networks to find activation ranges, as a calibrator would.
Everything is float64: with `portable` on top, the same seed gives the same model on every CPU.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Pads = tuple[int, int, int, int]  # ONNX order: top, left, bottom, right


def portable(x: FloatArray) -> FloatArray:
    """Round to 12 bits of mantissa, so that the order of a BLAS sum cannot show in the model."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 4096) / 4096, exponent)


def windows(
    x: FloatArray, kernel: tuple[int, int], stride: int, pads: Pads, fill: float
) -> FloatArray:
    """View `x` (c, h, w) as sliding windows (c, oh, ow, kh, kw), padded with `fill`."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=fill)
    return sliding_window_view(padded, kernel, axis=(1, 2))[:, ::stride, ::stride]


def conv(x: FloatArray, w: FloatArray, stride: int, pads: Pads) -> FloatArray:
    """Conv (ONNX opset 11) of `x` (c, h, w); `w` is (cout, c, kh, kw), depthwise (c, 1, kh, kw)."""
    cout, per_group, kh, kw = w.shape
    taps = windows(x, (kh, kw), stride, pads, 0.0)
    _, oh, ow = taps.shape[:3]
    if per_group == x.shape[0]:
        columns = taps.transpose(0, 3, 4, 1, 2).reshape(per_group * kh * kw, oh * ow)
        return (w.reshape(cout, -1) @ columns).reshape(cout, oh, ow)
    out = np.zeros((cout, oh, ow))
    for i in range(kh):
        for j in range(kw):
            out += w[:, 0, i, j, None, None] * taps[..., i, j]
    return out


def max_pool(x: FloatArray, kernel: int, stride: int, pads: Pads) -> FloatArray:
    """MaxPool (ONNX opset 12) of `x` (c, h, w)."""
    return np.asarray(windows(x, (kernel, kernel), stride, pads, -np.inf).max(axis=(3, 4)))


def sigmoid(x: FloatArray) -> FloatArray:
    """Sigmoid (ONNX opset 13)."""
    return 1.0 / (1.0 + np.exp(-x))


def hard_sigmoid(x: FloatArray) -> FloatArray:
    """HardSigmoid (ONNX opset 6) with alpha 1/6 and beta 1/2."""
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


def hard_swish(x: FloatArray) -> FloatArray:
    """HardSwish (ONNX opset 14): x * HardSigmoid(x)."""
    return x * hard_sigmoid(x)


def softmax(x: FloatArray) -> FloatArray:
    """Softmax (ONNX opset 13) over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


UNARY: dict[str, Callable[[FloatArray], FloatArray]] = {
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Sigmoid": sigmoid,
}
