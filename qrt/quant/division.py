"""Division by a scale as one or two products, which are cheaper than a quotient.

x / scale is close to x * factor + x * rest, where factor is 1 / scale rounded down and rest is what
that left out. Both that and the quotient grow with x, so they round to the same integers for every
float32 x if they do around each x where the integer changes; there are at most 255 of those.

Where x is an integer times another scale, one product does: integers rarely come near such an x.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from qrt.quant.affine import Array

NEAR = 4  # floats tried on each side of where an integer should begin
# scales beyond leave the range where products are exact to half an ulp
SMALLEST, LARGEST = 2.0**-90, 2.0**90


ULPS = (0, 1, -1, 2, -2)  # from the ratio of two scales to the factors that are tried


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


@lru_cache(maxsize=4096)
def requantization_factor(
    scale: float, y_scale: float, low: int, high: int
) -> np.float32 | None:
    """A float32 factor, or None: for every int32 q

    round_half_even(clamp(float32(q) * factor, low, high)) is that of float32(q) * scale / y_scale,
    each operation rounded to float32. `low` and `high` are within 2**15; proved here.
    """
    ratio = np.float32(scale / y_scale)
    if not SMALLEST <= ratio <= LARGEST:
        return None
    begins = np.arange(low + 1, high + 1)
    x = _integers_around((begins - 0.5) * y_scale / scale)
    with np.errstate(over="ignore"):
        want = np.rint(np.clip(x * np.float32(scale) / np.float32(y_scale), low, high))
    begun = want >= begins[:, None]
    first, last = x[:, 0] == -(2.0**31), x[:, -1] == 2.0**31
    if not (first | ~begun[:, 0]).all() or not (last | begun[:, -1]).all():
        return None
    for ulps in ULPS:
        factor = (ratio.view(np.int32) + np.int32(ulps)).view(np.float32)
        if np.array_equal(np.rint(np.clip(x * factor, low, high)), want):
            return np.float32(factor)
    return None


def _integers_around(middle: Array) -> Array:
    """float32 (n, 2 * NEAR): neighbours among the values of float32(q) for int32 q, in order,
    around each of `middle` (n,) float64; the ends of int32 stand for what is beyond them."""
    near = np.arange(-NEAR, NEAR, dtype=np.int32)
    integers = np.floor(np.clip(middle, -(2.0**31), 2.0**31))[:, None] + near + 1
    # floats of one sign are in the order of their bits; from 2**23 on all of them are integers
    bits = np.abs(middle).clip(2.0**22, 2.0**31).astype(np.float32).view(np.int32)[:, None] + near
    large = np.ascontiguousarray(bits).view(np.float32)
    large = np.where(middle[:, None] < 0, -large[:, ::-1], large)
    found = np.where(np.abs(middle)[:, None] < 2.0**23, integers, large)
    clipped: Array = np.clip(found, -(2.0**31), 2.0**31).astype(np.float32)
    return clipped


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
