"""Scale and zero point: real <-> integer, and the one form (uint8) that the machine stores.

Equation: real = (q - zero_point) * scale, DESIGN.md "Numerics".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qrt.errors import QuantizationError
from qrt.ir import QParams

Array = np.ndarray[Any, Any]

U8 = np.dtype(np.uint8)
S8 = np.dtype(np.int8)


def make_qparams(
    scale: Array, zero_point: Array | None, dtype: np.dtype[Any], axis: int | None
) -> QParams:
    """QParams from what a model holds; `axis` counts only when there are several scales.

    Raises QuantizationError when a scale is not a positive finite float32, or when the zero point
    has another type than `dtype` or another length than the scale.
    """
    if scale.dtype != np.float32:
        raise QuantizationError(f"a scale must be float32, got {scale.dtype}")
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        bad = scale.reshape(-1)[~(np.isfinite(scale) & (scale > 0)).reshape(-1)][0]
        raise QuantizationError(f"a scale must be positive and finite, got {bad}")
    if zero_point is None:
        zero_point = np.zeros(scale.shape, dtype)
    if zero_point.dtype != dtype:
        raise QuantizationError(f"the zero point must be {dtype}, got {zero_point.dtype}")
    if scale.size == 1 and zero_point.size == 1:
        return QParams(scale.reshape(()), zero_point.reshape(()), dtype)
    if scale.ndim != 1 or (zero_point.size != 1 and zero_point.shape != scale.shape):
        raise QuantizationError(
            "scale and zero point must have one element, or one per index of the axis each,"
            f" got shapes {list(scale.shape)} and {list(zero_point.shape)}"
        )
    return QParams(scale, np.broadcast_to(zero_point.reshape(-1), scale.shape), dtype, axis)


def spread(parameter: Array, rank: int, axis: int | None) -> Array:
    """A scale or zero point (scalar, or one per index of `axis`) that broadcasts to `rank` axes."""
    if parameter.ndim == 0 or axis is None:
        return parameter
    shape = [1] * rank
    shape[axis] = parameter.size
    return parameter.reshape(shape)


def spread_over(parameter: Array, shape: tuple[int, ...], q: QParams) -> Array:
    """A scale or zero point of `q` that broadcasts to a tensor of `shape`, blocks repeated."""
    if q.block_size is None or q.axis is None:
        return spread(parameter, len(shape), q.axis)
    repeated = np.repeat(parameter, q.block_size, q.axis)
    return repeated.take(np.arange(shape[q.axis]), q.axis)


def quantize(x: Array, y: QParams) -> Array:
    """clamp(round_half_even(x / scale) + zero_point); NaN gives qmin (ONNX QuantizeLinear)."""
    scale, zero_point = spread_over(y.scale, x.shape, y), spread_over(y.zero_point, x.shape, y)
    with np.errstate(all="ignore"):
        steps = np.rint(x / scale)
    # float64 holds every rounded float32 that is not clamped, plus any zero point, exactly
    q = np.where(np.isnan(steps), -np.inf, steps).astype(np.float64) + zero_point.astype(np.float64)
    clipped: Array = np.clip(q, y.qmin, y.qmax).astype(y.dtype)
    return clipped


def dequantize(q: Array, x: QParams) -> Array:
    """float32(q - zero_point) * scale (ONNX DequantizeLinear)."""
    centered = q.astype(np.int64) - spread_over(x.zero_point, q.shape, x).astype(np.int64)
    real: Array = centered.astype(np.float32) * spread_over(x.scale, q.shape, x)
    return real


def unsigned(qparams: QParams) -> QParams:
    """The same real values for uint8 codes: int8 q is stored as q + 128, its zero point too."""
    if qparams.dtype == U8:
        return qparams
    assert qparams.dtype == S8, qparams.dtype
    raised = np.asarray(qparams.zero_point.astype(np.int16) + 128, np.uint8)
    return QParams(qparams.scale, raised, U8, qparams.axis)


def flip(q: Array) -> Array:
    """int8 to uint8 codes (q + 128) and back: the sign bit is flipped, exactly."""
    assert q.dtype in (U8, S8), q.dtype
    other: Array = (q.view(np.uint8) ^ np.uint8(128)).view(np.int8 if q.dtype == U8 else np.uint8)
    return other
