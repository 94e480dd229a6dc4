"""QuantizedArray: integers with what they mean, as one thing that knows its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.ir import QParams
from qrt.quant.affine import Array, dequantize, quantize
from qrt.quant.choose import checked_real, choose_qparams
from qrt.quant.packing import pack, packed_nbytes


@dataclass(frozen=True, eq=False)
class QuantizedArray:
    """Integers `q` (one an element of `qparams.dtype`) and the QParams that give them meaning."""

    q: Array
    qparams: QParams

    def dequantize(self) -> Array:
        """The real values, float32."""
        return dequantize(self.q, self.qparams)

    @property
    def bits(self) -> int:
        """Bits of one integer."""
        return self.qparams.bits or self.qparams.dtype.itemsize * 8

    @property
    def nbytes(self) -> int:
        """Bytes when packed: integers, float32 scales and, where not all 0, zero points."""
        zero_points = self.qparams.zero_point
        scales = 4 * self.qparams.scale.size
        corrections = packed_nbytes(zero_points.size, self.bits) if zero_points.any() else 0
        return packed_nbytes(self.q.size, self.bits) + scales + corrections

    def packed(self) -> Array:
        """The integers as a stream of bits, uint8; see `qrt.quant.pack`."""
        return pack(self.q, self.bits)

    def clipped(self, x: Array) -> Array:
        """True where the grid ends before the element of `x`, more than half a step away."""
        low, high = (
            dequantize(np.full(self.q.shape, end, self.qparams.dtype), self.qparams)
            for end in (self.qparams.qmin, self.qparams.qmax)
        )
        half = (high.astype(np.float64) - low) / (self.qparams.qmax - self.qparams.qmin) / 2
        # a hair of float32 more: the end of a grid is itself rounded
        slack = half + 1e-6 * np.maximum(np.abs(low), np.abs(high))
        return np.asarray((x < low - slack) | (x > high + slack))


def quantize_array(x: Any, bits: int = 8, **options: Any) -> QuantizedArray:
    """`x` on the grid that `choose_qparams(x, bits, **options)` chooses."""
    real = checked_real(x)
    qparams = choose_qparams(real, bits, **options)
    return QuantizedArray(quantize(real, qparams), qparams)
