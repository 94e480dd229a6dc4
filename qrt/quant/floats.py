"""Small floating-point formats: float16, bfloat16, and the float8 and float4 formats with a scale.

q = round_half_even(x / scale) to the format, saturated to its largest finite value; scale = 1 for
float16 and bfloat16, whose range needs none, else max |x| / largest. Formats: ONNX "float8 types"
(Micikevicius et al. 2022), OCP Microscaling (float4e2m1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import QuantizationError
from qrt.quant.affine import Array, spread
from qrt.quant.choose import checked_axis, checked_real, positive_scale, ranges
from qrt.quant.packing import packed_nbytes

# name: bits
FORMATS = {
    "float16": 16,
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float4_e2m1fn": 4,
}


@dataclass(frozen=True, eq=False)
class FloatQuantizedArray:
    """Values `q` of a small float dtype and the float32 `scale` (per tensor, or along `axis`)."""

    q: Array
    scale: Array
    axis: int | None = None

    def dequantize(self) -> Array:
        """The real values, float32."""
        real: Array = self.q.astype(np.float32) * spread(self.scale, self.q.ndim, self.axis)
        return real

    @property
    def bits(self) -> int:
        """Bits of one value."""
        return FORMATS[self.q.dtype.name]

    @property
    def nbytes(self) -> int:
        """Bytes when packed: values, and scales that are not all 1."""
        scales = 4 * self.scale.size if (self.scale != 1).any() else 0
        return packed_nbytes(self.q.size, self.bits) + scales

    def clipped(self, x: Array) -> Array:
        """True where the element of `x` is beyond the largest value of the format."""
        largest = _largest(self.q.dtype) * spread(self.scale, self.q.ndim, self.axis)
        return np.asarray(np.abs(x) > largest * (1 + 1e-6))


def to_float(
    x: Any, dtype: str, *, axis: int | None = None, scaled: bool | None = None
) -> FloatQuantizedArray:
    """`x` in the format called `dtype` (`FORMATS`), with one scale or one per index of `axis`.

    scaled: whether to choose a scale; by default below 16 bits. Raises QuantizationError for an
    unknown format and what is no finite number.
    """
    real = checked_real(x)
    if dtype not in FORMATS:
        raise QuantizationError(f"a format is one of {', '.join(FORMATS)}, got {dtype!r}")
    import ml_dtypes  # comes with onnx

    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    if axis is not None:
        axis = checked_axis(axis, real)
    largest = _largest(kind)
    scale = np.ones((), np.float32)
    if FORMATS[dtype] < 16 if scaled is None else scaled:
        low, high = ranges(real, axis, None)
        scale = positive_scale(np.maximum(-low.astype(np.float64), high) / largest)
    else:
        axis = None
    stretched = real / spread(scale, real.ndim, axis)
    return FloatQuantizedArray(np.clip(stretched, -largest, largest).astype(kind), scale, axis)


def _largest(dtype: np.dtype[Any]) -> float:
    """The largest finite value."""
    if dtype == np.float16:
        return float(np.finfo(np.float16).max)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).max)
