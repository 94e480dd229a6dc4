"""Fake quantization: quantize and dequantize in one step, with the gradients that training uses.

The gradient of rounding is taken as 1 inside the grid and as 0 outside (straight-through estimator,
Bengio et al. 2013). `lsq` learns the scale too (Esser et al. 2020, equations 1 to 3 and 5).
"""

from __future__ import annotations

import numpy as np

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.quant.affine import Array, dequantize, quantize, spread_over
from qrt.quant.choose import integer_dtype


def fake_quantize(x: Array, qparams: QParams) -> Array:
    """The nearest values of the grid, float32: dequantize(quantize(x))."""
    return dequantize(quantize(x, qparams), qparams)


def fake_quantize_gradient(x: Array, qparams: QParams, upstream: Array) -> Array:
    """Gradient by `x` of what follows `fake_quantize`, whose gradient by its result is `upstream`.

    `upstream` where x falls on the grid, 0 where it is clipped.
    """
    _check_same_shape(x, upstream)
    return np.where(_inside(x, qparams), upstream, 0).astype(upstream.dtype)


def lsq(x: Array, scale: float, bits: int = 8, *, signed: bool = True) -> Array:
    """scale * round(clip(x / scale, q_min, q_max)), float32: a grid whose scale is learned."""
    return fake_quantize(x, _lsq_grid(scale, bits, signed))


def lsq_gradient(
    x: Array, scale: float, upstream: Array, bits: int = 8, *, signed: bool = True
) -> tuple[Array, float]:
    """Gradients by x and by the scale of what follows `lsq`.

    The scale's is sum(upstream * d) / sqrt(count * q_max), with d = round(v) - v inside the grid
    (v = x / scale) and q_min or q_max where clipped; the factor is LSQ's step-size gradient scale.
    """
    _check_same_shape(x, upstream)
    grid = _lsq_grid(scale, bits, signed)
    v = x.astype(np.float64) / scale
    inside = (v >= grid.qmin) & (v <= grid.qmax)
    slope = np.where(inside, np.rint(v) - v, np.clip(v, grid.qmin, grid.qmax))
    by_x = np.where(inside, upstream, 0).astype(upstream.dtype)
    factor = 1 / np.sqrt(max(x.size, 1) * grid.qmax)
    return by_x, float((upstream.astype(np.float64) * slope).sum() * factor)


def _inside(x: Array, q: QParams) -> Array:
    scale, zero_point = spread_over(q.scale, x.shape, q), spread_over(q.zero_point, x.shape, q)
    steps = np.rint(x / scale) + zero_point.astype(np.float64)
    return np.asarray((steps >= q.qmin) & (steps <= q.qmax))


def _lsq_grid(scale: float, bits: int, signed: bool) -> QParams:
    if not (np.isfinite(scale) and scale > 0):
        raise QuantizationError(f"a scale must be positive and finite, got {scale}")
    dtype = integer_dtype(bits, signed)
    return QParams(np.asarray(scale, np.float32), np.zeros((), dtype), dtype, bits=bits)


def _check_same_shape(x: Array, upstream: Array) -> None:
    if x.shape != upstream.shape:
        raise QuantizationError(
            f"a gradient has the shape of its tensor, {list(x.shape)}, got {list(upstream.shape)}"
        )
