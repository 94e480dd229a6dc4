"""Numbers of a quantized product: int8 weights, int32 biases, and the proof that sums fit int32."""

from __future__ import annotations

import numpy as np

from qrt.ir import QParams
from qrt.quant.affine import S8, U8, Array, flip, spread

BIAS_SCALE_TOLERANCE = 1e-5  # relative; two float32 products in different order differ by 1e-7
INT32 = np.iinfo(np.int32)


def signed_weights(q: Array, zero_point: Array) -> tuple[Array, Array]:
    """Weights as int8 and their zero point as int32 (scalar, or broadcasting to `q`).

    uint8 becomes int8 by taking 128 from both. Where all of q - zero_point fits int8, that is the
    weight and the zero point is a scalar 0.
    """
    if not zero_point.any():
        zero_point = np.zeros((), zero_point.dtype)
    centered = q.astype(np.int16) - zero_point.astype(np.int16)
    low, high = (centered.min(), centered.max()) if centered.size else (0, 0)
    if low >= -128 and high <= 127:
        return np.ascontiguousarray(centered.astype(np.int8)), np.zeros((), np.int32)
    zero = zero_point.astype(np.int32)
    if q.dtype == U8:
        q, zero = flip(q), zero - 128
    assert q.dtype == S8, q.dtype
    if zero.size and (zero == zero.flat[0]).all():
        zero = zero.reshape(-1)[0].reshape(())
    return np.ascontiguousarray(q), zero


def same_scale(bias_scale: Array, x_scale: Array, w_scale: Array) -> bool:
    """True when an int32 bias with `bias_scale` counts steps of x_scale * w_scale."""
    exact = x_scale.astype(np.float64) * w_scale.astype(np.float64)
    gap = np.abs(bias_scale.astype(np.float64) - exact)
    return bool((gap <= BIAS_SCALE_TOLERANCE * np.abs(exact)).all())


def quantize_bias(bias: Array, x_scale: Array, w_scale: Array) -> Array:
    """int64 clip(rint(bias / (x_scale * w_scale)), int32) in float64 (docs/machine.md)."""
    exact = x_scale.astype(np.float64) * w_scale.astype(np.float64)
    steps = np.rint(bias.astype(np.float64) / exact)
    return np.clip(steps, INT32.min, INT32.max).astype(np.int64)


def largest_sum(w: Array, zero_point: Array, x: QParams, axis: int) -> Array:
    """int64: per output channel the largest |sum (x - x_zp) (w - w_zp)| of any input.

    `axis` is 0 of convolution weights (O, I, k...), -1 of matrices (..., K, N).
    """
    reach = max(int(x.zero_point) - x.qmin, x.qmax - int(x.zero_point))
    centered = np.abs(w.astype(np.int32) - spread(zero_point, w.ndim, axis))
    summed = tuple(range(1, w.ndim)) if axis == 0 else (-2,)
    total: Array = centered.sum(axis=summed, dtype=np.int64) * reach
    return total
