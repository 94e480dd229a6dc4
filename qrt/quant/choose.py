"""Choose scale and zero point for an array: linear quantization r = scale * (q - zero_point).

Asymmetric: scale = (r_max - r_min) / (q_max - q_min), zero_point = round(q_min - r_min / scale),
clamped to [q_min, q_max] (Jacob et al. 2018, section 2.1). Symmetric: scale = r_max / q_max with
r_max = max |r|, zero_point = 0. Ranges are widened to hold 0, so that 0 has an integer of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.quant.affine import Array

MIN_BITS, MAX_BITS = 2, 16
# below this a float32 scale loses bits, and x / scale may pass the largest float32
LEAST_SCALE = float(np.finfo(np.float32).tiny)


def choose_qparams(
    x: Any,
    bits: int = 8,
    *,
    signed: bool | None = None,
    symmetric: bool = False,
    axis: int | None = None,
    block_size: int | None = None,
    narrow: bool = False,
) -> QParams:
    """QParams for real `x` of any shape: per tensor, per index of `axis`, or per block along it.

    bits: 2 to 16. signed: int rather than uint; by default what `symmetric` is. axis: per channel;
    with `block_size`, blocks of so many along it, the last one may be shorter. narrow: leave out
    the smallest integer (-127 to 127). A range of zeros, or an empty one, has scale 1.

    Raises QuantizationError for NaN, infinities, complex or non-numeric x, an axis that x does not
    have, and for an unsigned symmetric grid of negative values.
    """
    real = checked_real(x)
    if not MIN_BITS <= bits <= MAX_BITS:
        raise QuantizationError(f"bits must be {MIN_BITS} to {MAX_BITS}, got {bits}")
    if block_size is not None and (block_size < 1 or axis is None):
        raise QuantizationError(
            f"a block needs an axis and at least 1 element, got axis={axis},"
            f" block_size={block_size}"
        )
    if axis is not None:
        axis = checked_axis(axis, real)
    low, high = ranges(real, axis, block_size)
    return qparams_of_ranges(
        low,
        high,
        bits,
        signed=symmetric if signed is None else signed,
        symmetric=symmetric,
        axis=axis,
        block_size=block_size,
        narrow=narrow,
    )


def qparams_of_ranges(
    low: Array,
    high: Array,
    bits: int = 8,
    *,
    signed: bool = False,
    symmetric: bool = False,
    axis: int | None = None,
    block_size: int | None = None,
    narrow: bool = False,
) -> QParams:
    """QParams for real ranges [low, high] of the shape that scales are to have; see above."""
    low, high = np.minimum(low, 0).astype(np.float64), np.maximum(high, 0).astype(np.float64)
    grid = QParams(
        np.ones((), np.float32), np.zeros((), np.int8), integer_dtype(bits, signed),
        bits=None if bits in (8, 16) else bits, narrow=narrow,
    )  # fmt: skip
    qmin, qmax = grid.qmin, grid.qmax
    if symmetric and not signed and (low < 0).any():
        raise QuantizationError(
            f"an unsigned symmetric grid has no negative values, the least is {low.min()}:"
            " take signed=True or symmetric=False"
        )
    if symmetric:
        scale = positive_scale(np.maximum(-low, high) / qmax)
        zero_point = np.zeros(scale.shape, np.int64)
    else:
        scale = positive_scale((high - low) / (qmax - qmin))
        zero_point = np.clip(np.rint(qmin - low / scale), qmin, qmax).astype(np.int64)
    return QParams(
        scale, np.asarray(zero_point, grid.dtype), grid.dtype, axis, block_size, grid.bits, narrow
    )


def integer_dtype(bits: int, signed: bool) -> np.dtype[Any]:
    """What integers of so many bits are held in."""
    return np.dtype(f"{'' if signed else 'u'}int{8 if bits <= 8 else 16}")


def positive_scale(step: Array) -> Array:
    """Real steps as float32 scales: 1 where the step is 0, never one that float32 rounds to 0."""
    scale = np.where(step == 0, 1.0, np.maximum(step, LEAST_SCALE))
    return np.asarray(scale, np.float32)


def ranges(x: Array, axis: int | None, block_size: int | None) -> tuple[Array, Array]:
    """(low, high) of finite x per tensor, per index of `axis`, or per block; 0 where empty."""
    if axis is None:
        return (np.asarray(x.min(initial=0, where=True)) if x.size == 0 else np.asarray(x.min()),
                np.asarray(0.0 if x.size == 0 else x.max()))  # fmt: skip
    if block_size is None:
        others = tuple(a for a in range(x.ndim) if a != axis)
        if x.size == 0:
            zeros = np.zeros(x.shape[axis])
            return zeros, zeros
        return np.asarray(x.min(axis=others)), np.asarray(x.max(axis=others))
    if x.size == 0:
        shape = list(x.shape)
        shape[axis] = -(-shape[axis] // block_size)
        return np.zeros(shape), np.zeros(shape)
    starts = np.arange(0, x.shape[axis], block_size)
    return np.minimum.reduceat(x, starts, axis), np.maximum.reduceat(x, starts, axis)


def checked_real(x: Any) -> Array:
    """`x` as a float32 or float64 array. Raises QuantizationError for what is no finite number."""
    array = np.asarray(x)
    if array.dtype.kind not in "fiub" and array.dtype.name not in ("bfloat16",):
        raise QuantizationError(f"real numbers are needed, got an array of {array.dtype}")
    if array.dtype != np.float64:
        array = array.astype(np.float32 if array.dtype.kind not in "iu" else np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise QuantizationError(
            f"{int(bad.sum())} of {array.size} values are not finite; the first, at"
            f" {list(at)}, is {array[at]}"
        )
    return array


def checked_axis(axis: int, x: Array) -> int:
    """`axis` counted from the front. Raises QuantizationError when `x` does not have it."""
    if not -x.ndim <= axis < x.ndim:
        raise QuantizationError(f"axis {axis} is not one of {x.ndim} axes of shape {list(x.shape)}")
    return axis % x.ndim
