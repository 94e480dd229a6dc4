"""qrt.Add as one integer formula: y = clamp((a * ma + b * mb + c) >> bits), for given scales.

The contract rounds in float32 at every step; the formula does not, so it is used only where it was
compared with the contract on all 65536 pairs of codes. Where a pair differs by a float32 rounding,
the multipliers are moved within that rounding until none does (a projection onto the violated
inequality, `_repaired`); scales that make exact ties (half to even) have no such formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from qrt.ir import QParams
from qrt.ops.spec import Array
from qrt.quant.affine import dequantize

LOW_BITS = 15  # of a multiplier; the upper ones fit 16 bits signed
MAX_SHIFT = 15
TRIES = 60


@dataclass(frozen=True)
class FixedAdd:
    """bits = LOW_BITS + shift."""

    ma: int
    mb: int
    c: int
    shift: int

    def fields(self) -> dict[str, int]:
        """Row fields: pairs of 16-bit halves of the multipliers, c in two parts, the shift."""
        mask = (1 << LOW_BITS) - 1
        upper = [(m >> LOW_BITS) & 0xFFFF for m in (self.ma, self.mb)]
        lower = [m & mask for m in (self.ma, self.mb)]
        return {
            "high": _signed(upper[0] | upper[1] << 16),
            "low": _signed(lower[0] | lower[1] << 16),
            "c_high": self.c >> LOW_BITS,
            "c_low": self.c & mask,
            "shift": self.shift,
        }


def fixed_add(attrs: Mapping[str, Any]) -> dict[str, int] | None:
    """Row fields of the formula for a node's attributes, proved on all pairs of codes; None when
    there is none."""
    a, b, y = (attrs[name] for name in "aby")
    found = _fixed_add(
        float(a.scale), int(a.zero_point), float(b.scale), int(b.zero_point),
        float(y.scale), int(y.zero_point), attrs["qmin"], attrs["qmax"],
    )  # fmt: skip
    return None if found is None else found.fields()


@lru_cache(maxsize=4096)
def _fixed_add(
    a_scale: float, a_zero: int, b_scale: float, b_zero: int,
    y_scale: float, y_zero: int, qmin: int, qmax: int,
) -> FixedAdd | None:  # fmt: skip
    ratio_a, ratio_b = a_scale / y_scale, b_scale / y_scale
    shift = MAX_SHIFT
    while shift >= 0 and max(ratio_a, ratio_b) * 2**shift >= 32767:
        shift -= 1
    if shift < 0:
        return None
    unit = 2.0 ** (LOW_BITS + shift)
    offset = y_zero + 0.5 - ratio_a * a_zero - ratio_b * b_zero
    if abs(offset) * 2**shift >= 2**30:
        return None  # the sums would leave int32
    want = _contract(a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, qmin, qmax)
    # exact on a pair when want <= formula < want + 1; at the clamps only one side counts
    exact = np.add.outer(np.arange(256) * ratio_a, np.arange(256) * ratio_b) + offset
    low = np.where(want > qmin, want, -np.inf) * unit
    high = np.where(want < qmax, want + 1, np.inf) * unit
    if ((exact * unit - low).min() < -unit / 64) or ((high - exact * unit).min() < -unit / 64):
        return None
    near = np.minimum(exact * unit - low, high - exact * unit) < unit / 64
    ia, ib = np.nonzero(near)
    found = _repaired(
        np.array([ratio_a, ratio_b, offset]) * unit, ia, ib, low[ia, ib], high[ia, ib]
    )
    if found is None:
        return None
    ma, mb, c = found
    if max(ma, mb) >> LOW_BITS > 32767 or min(ma, mb) < 0:
        return None
    formula = (np.add.outer(np.arange(256) * ma, np.arange(256) * mb) + c) >> (LOW_BITS + shift)
    if not np.array_equal(np.clip(formula, qmin, qmax), want):
        return None
    return FixedAdd(ma, mb, c, shift)


def _repaired(start: Array, a: Array, b: Array, low: Array, high: Array) -> list[int] | None:
    """Integers (ma, mb, c) near `start` with low <= a * ma + b * mb + c < high on all pairs."""
    features = np.stack([a, b, np.full(a.size, 256)]).astype(np.float64)
    norms = (features**2).sum(axis=0)
    weights = start / np.array([1, 1, 256])
    for _ in range(TRIES):
        ma, mb, c = (int(v) for v in np.rint(weights * np.array([1, 1, 256])))
        sums = a * ma + b * mb + c
        lack = np.maximum(low - sums, 0) - np.maximum(sums - (high - 1), 0)
        if not a.size or not lack.any():
            return [ma, mb, c]
        worst = int(np.abs(lack).argmax())
        # a little further than needed, since weights are rounded to integers
        step = lack[worst] + np.sign(lack[worst]) * 256
        weights = weights + features[:, worst] * (step / norms[worst])
    return None


def _contract(
    a_scale: float, a_zero: int, b_scale: float, b_zero: int,
    y_scale: float, y_zero: int, qmin: int, qmax: int,
) -> Array:  # fmt: skip
    """int64 (256, 256): what qrt.Add gives for codes a (rows) and b (columns)."""
    codes, u8 = np.arange(256, dtype=np.uint8), np.dtype(np.uint8)
    a, b = (
        dequantize(codes, QParams(np.asarray(s, np.float32), np.asarray(z, np.uint8), u8))
        for s, z in ((a_scale, a_zero), (b_scale, b_zero))
    )
    y = np.rint(np.add.outer(a, b) / np.float32(y_scale)).astype(np.float64) + y_zero
    return np.asarray(np.clip(y, qmin, qmax), np.int64)


def _signed(bits: int) -> int:
    return bits - (1 << 32) if bits >= 1 << 31 else bits
