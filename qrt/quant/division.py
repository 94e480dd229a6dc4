"""Division by a scale as two products: a fused multiply-add is cheaper than a quotient.

x / scale is close to x * factor + x * rest, where factor is 1 / scale rounded down and rest is what
that left out. Both that and the quotient grow with x, so they round to the same integers for every
float32 x if they do around each x where the integer changes; there are at most 255 of those.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from qrt.quant.affine import Array

NEAR = 4  # floats tried on each side of where an integer should begin
# scales beyond leave the range where products are exact to half an ulp
SMALLEST, LARGEST = 2.0**-90, 2.0**90


@lru_cache(maxsize=4096)
def division_factors(scale: float, low: int, high: int) -> tuple[np.float32, np.float32] | None:
    """float32 (factor, rest), rest > 0, or None: for every float32 x, infinities too,

    round_half_even(clamp(fma(x, factor, x * rest), low, high)) is that of x / scale in float32.
    `low` and `high` are within 2**15; proved here for this scale.
    """
    if not SMALLEST <= scale <= LARGEST:
        return None
    exact = 1 / scale
    factor = np.float32(exact)
    if factor >= exact:  # so that rest is positive: inf * factor + inf * rest is no NaN
        factor = np.nextafter(factor, np.float32(0))
    rest = np.float32(exact - np.float64(factor))
    begins = np.arange(low + 1, high + 1)
    middle = ((begins - 0.5) * scale).astype(np.float32)
    # floats of one sign are in the order of their bits
    bits = middle.view(np.int32)[:, None] + np.arange(-NEAR, NEAR + 1, dtype=np.int32)
    x = np.ascontiguousarray(bits).view(np.float32)
    x = np.where(middle[:, None] < 0, x[:, ::-1], x)
    want = np.rint(np.clip(x / np.float32(scale), low, high))
    got = np.rint(np.clip(_fused(x, factor, x * rest), low, high))
    begun = want >= begins[:, None]
    proved = not begun[:, 0].any() and begun[:, -1].all() and np.array_equal(got, want)
    return (factor, rest) if proved else None


def _fused(a: Array, b: np.float32, c: Array) -> Array:
    """a * b + c of float32, rounded once."""
    product = a.astype(np.float64) * np.float64(b)  # exact: 24 bits times 24
    addend = c.astype(np.float64)
    total = product + addend
    # what the sum lost; kept as an odd last bit, it makes the rounding to float32 the right one
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    odd = total.view(np.int64) & 1 == 1
    toward = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    return np.where((lost == 0) | odd, total, toward).astype(np.float32)
