"""exp, log, tanh, erf and rounding in float32, from fused multiply-adds alone.

No libm, and an exact emulation where a CPU lacks the instruction (`fma.py`), so the bits are equal
on every CPU; branch-free, so that LLVM vectorizes the loops around them. Polynomials are those of
Cephes (logf), of XLA (erf) and our own (exp); docstrings state errors, test_ops_float bounds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.jit.declare import helper, intrinsic
from qrt.simd.fma import fma_f32, fma_f32x16
from qrt.simd.memory import bits_f32, f32_bits
from qrt.simd.scalar import _ROUND as ROUND
from qrt.simd.scalar import sub32
from qrt.simd.vectors import (
    bits_f32x16,
    f32x16_bits,
    max_f32x16,
    mul_f32x16,
    shl_i32x16,
    splat_f32x16,
    splat_i32x16,
    sub_f32x16,
    zero_below_f32x16,
)

F = np.float32
ONE, HALF, TWO = F(1), F(0.5), F(2)
LOG2E = F(1.44269504088896341)
LN2_HIGH, LN2_LOW = F(0.693359375), F(-2.12194440e-4)  # the product n * LN2_HIGH is exact
MINUS_LN2_HIGH, MINUS_LN2_LOW = -LN2_HIGH, -LN2_LOW
SIGN = np.int32(-0x80000000)
BIAS = 127  # of an exponent
# added to a small float they leave it rounded to whole in the low bits, with one or two biases
ROUND_BIASED, ROUND_TWICE = ROUND + F(BIAS), ROUND + F(2 * BIAS)
EXP_LOW, EXP_HIGH = F(-104), F(88.8)  # below, exp is 0; above, inf
EXP_NORMAL = F(-86)  # exp and its scaling stay clear of subnormals
# (exp(r) - 1 - r) / r**2 for |r| <= log(2) / 2, within 4e-9 of exp(r): fitted by Lawson's method
EXP = tuple(
    F(c)
    for c in (1.381432056e-3, 8.3688511713e-3, 4.1668401091e-2, 1.6666519523e-1, 4.9999993373e-1)
)
LOG = tuple(
    F(c)
    for c in (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1,
              1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1,
              3.3333331174e-1)
)  # fmt: skip
SQRT_HALF = F(0.707106781186547524)
SMALLEST_NORMAL, TWO_23 = F(1.17549435e-38), F(8388608.0)
EXP_OF_TWICE = tuple(c * F(1 << 6 - i) for i, c in enumerate(EXP))  # in powers of x / 2
TANH_ONE = F(10)  # tanh is 1 from here on
ERF_LIMIT = F(3.832506856900711)
ERF_P = tuple(
    F(c)
    for c in (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06,
              -5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03,
              -1.60960333262415e-02)
)  # fmt: skip
ERF_Q = tuple(
    F(c)
    for c in (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03,
              -7.37332916720468e-03, -1.42647390514189e-02)
)  # fmt: skip
INF, NAN = F(np.inf), F(np.nan)


@intrinsic
def sqrt_f32(typingctx: Any, x: Any) -> Any:
    """The correctly rounded square root (an instruction on every CPU)."""
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        root = builder.module.declare_intrinsic("llvm.sqrt", [kind])
        return builder.call(root, args)

    return types.float32(types.float32), codegen


@helper
def abs_f32(x):  # type: ignore[no-untyped-def]
    """|x|, exact."""
    return bits_f32(f32_bits(x) & 0x7FFFFFFF)


@helper
def power_of_two(shifted):  # type: ignore[no-untyped-def]
    """2**n, -127 < n < 128, for shifted = n + ROUND_BIASED."""
    return bits_f32(f32_bits(shifted) << 23)


@helper
def scale_by_power(y, shifted):  # type: ignore[no-untyped-def]
    """y * 2**n for y in [0.5, 2], n in [-150, 128] and shifted = n + ROUND_TWICE; rounded once."""
    biased = f32_bits(shifted)
    half = biased >> 1  # a bias and a half of n; all above is shifted out
    return y * bits_f32(half << 23) * bits_f32(sub32(biased, half) << 23)


@helper
def expm1_small(r):  # type: ignore[no-untyped-def]
    """exp(r) - 1 for |r| <= 0.35."""
    return fma_f32(_exp_tail(r), r * r, r)


@helper
def _exp_tail(r):  # type: ignore[no-untyped-def]
    """(exp(r) - 1 - r) / r**2 for |r| <= 0.35."""
    p = fma_f32(EXP[0], r, EXP[1])
    p = fma_f32(p, r, EXP[2])
    p = fma_f32(p, r, EXP[3])
    return fma_f32(p, r, EXP[4])


@helper
def _exp_of_rest(t, steps):  # type: ignore[no-untyped-def]
    """exp(t - steps * log(2)), in [0.7, 1.42], where steps is the whole number next to it."""
    r = fma_f32(steps, MINUS_LN2_HIGH, t)
    r = fma_f32(steps, MINUS_LN2_LOW, r)
    return fma_f32(fma_f32(_exp_tail(r), r, ONE), r, ONE)


# Limits are spelled so that NaN stays NaN.


@helper
def exp_f32(x):  # type: ignore[no-untyped-def]
    """exp(x): at most 1.5 ulp."""
    t = EXP_LOW if x < EXP_LOW else x
    t = EXP_HIGH if t > EXP_HIGH else t
    shifted = fma_f32(t, LOG2E, ROUND_TWICE)
    return scale_by_power(_exp_of_rest(t, shifted - ROUND_TWICE), shifted)


@dataclass(frozen=True)
class _Arithmetic:
    """Of one float32, or of 16 in a vector."""

    of: Any  # a constant
    at_least: Any  # (x, limit): NaN stays NaN
    zero_below: Any  # (x, limit, y): 0 where x < limit, else y
    fma: Any
    sub: Any
    mul: Any
    power_of_two: Any


def _exp_not_positive(a: _Arithmetic) -> Any:
    of, fma, sub = a.of, a.fma, a.sub
    at_least, zero_below, mul, power_of_two = a.at_least, a.zero_below, a.mul, a.power_of_two

    @helper
    def exp(x):  # type: ignore[no-untyped-def]
        """exp(x) for x <= 0: as exp_f32 down to 4e-38, then 0."""
        lowest, one, rounding = of(EXP_NORMAL), of(ONE), of(ROUND_BIASED)
        t = at_least(x, lowest)
        shifted = fma(t, of(LOG2E), rounding)
        steps = sub(shifted, rounding)
        r = fma(steps, of(MINUS_LN2_HIGH), t)
        r = fma(steps, of(MINUS_LN2_LOW), r)
        p = fma(of(EXP[0]), r, of(EXP[1]))
        p = fma(p, r, of(EXP[2]))
        p = fma(p, r, of(EXP[3]))
        p = fma(p, r, of(EXP[4]))
        y = fma(fma(p, r, one), r, one)
        return zero_below(x, lowest, mul(y, power_of_two(shifted)))

    return exp


@helper
def _itself(x):  # type: ignore[no-untyped-def]
    return x


@helper
def _at_least(x, limit):  # type: ignore[no-untyped-def]
    return limit if x < limit else x


@helper
def _at_least_x16(x, limit):  # type: ignore[no-untyped-def]
    return max_f32x16(limit, x)


@helper
def _zero_below(x, limit, y):  # type: ignore[no-untyped-def]
    return F(0) if x < limit else y


@helper
def _minus(x, y):  # type: ignore[no-untyped-def]
    return x - y


@helper
def _times(x, y):  # type: ignore[no-untyped-def]
    return x * y


@helper
def _power_of_two_x16(shifted):  # type: ignore[no-untyped-def]
    return bits_f32x16(shl_i32x16(f32x16_bits(shifted), splat_i32x16(np.int32(23))))


exp_not_positive_f32 = _exp_not_positive(
    _Arithmetic(_itself, _at_least, _zero_below, fma_f32, _minus, _times, power_of_two)
)
# for loops that LLVM does not vectorize
exp_not_positive_f32x16 = _exp_not_positive(
    _Arithmetic(
        splat_f32x16, _at_least_x16, zero_below_f32x16, fma_f32x16, sub_f32x16, mul_f32x16,
        _power_of_two_x16,
    )
)  # fmt: skip


@helper
def expm1_f32(x):  # type: ignore[no-untyped-def]
    """exp(x) - 1: at most 3 ulp."""
    small = x if abs_f32(x) < F(0.34) else F(0)
    return expm1_small(small) if abs_f32(x) < F(0.34) else exp_f32(x) - ONE


@helper
def log_f32(x):  # type: ignore[no-untyped-def]
    """log(x): at most 1 ulp; -inf at 0, NaN below."""
    tiny = x < SMALLEST_NORMAL
    v = x * TWO_23 if tiny else x
    bits = f32_bits(v)
    e = np.float32(sub32((bits >> 23) & 0xFF, 126))
    m = bits_f32((bits & 0x007FFFFF) | 0x3F000000)  # in [0.5, 1)
    low = m < SQRT_HALF
    e = e - ONE if low else e
    e = e - F(23) if tiny else e
    r = (m + m if low else m) - ONE
    z = r * r
    p = fma_f32(LOG[0], r, LOG[1])
    p = fma_f32(p, r, LOG[2])
    p = fma_f32(p, r, LOG[3])
    p = fma_f32(p, r, LOG[4])
    p = fma_f32(p, r, LOG[5])
    p = fma_f32(p, r, LOG[6])
    p = fma_f32(p, r, LOG[7])
    p = fma_f32(p, r, LOG[8])
    y = fma_f32(e, LN2_LOW, p * r * z)
    y = fma_f32(z, -HALF, y)
    y = fma_f32(e, LN2_HIGH, r + y)
    y = y if x < INF else x
    y = y if x > F(0) else NAN
    return -INF if x == F(0) else y


@helper
def log1p_f32(x):  # type: ignore[no-untyped-def]
    """log(1 + x) for x in [0, 1]: at most 3 ulp."""
    u = ONE + x
    d = u - ONE
    # what rounding 1 + x took from x is put back as a factor
    return x if d == F(0) else log_f32(u) * (x / (d if d != F(0) else ONE))


@helper
def tanh_f32(x):  # type: ignore[no-untyped-def]
    """tanh(x) = m / (m + 2) of m = exp(2 |x|) - 1, with the sign of x: at most 2.5 ulp."""
    a = abs_f32(x)
    a = TANH_ONE if a > TANH_ONE else a
    shifted = fma_f32(a, TWO * LOG2E, ROUND_BIASED)
    steps = shifted - ROUND_BIASED
    r = fma_f32(steps, HALF * MINUS_LN2_HIGH, a)
    r = fma_f32(steps, HALF * MINUS_LN2_LOW, r)  # half of what is left of 2 a
    p = fma_f32(EXP_OF_TWICE[0], r, EXP_OF_TWICE[1])
    p = fma_f32(p, r, EXP_OF_TWICE[2])
    p = fma_f32(p, r, EXP_OF_TWICE[3])
    p = fma_f32(p, r, EXP_OF_TWICE[4])
    power = power_of_two(shifted)
    m = fma_f32(fma_f32(p, r * r, r + r), power, power - ONE)
    return bits_f32(f32_bits(m / (m + TWO)) | (f32_bits(x) & SIGN))


@helper
def sigmoid_f32(x):  # type: ignore[no-untyped-def]
    """1 / (1 + exp(-x)): at most 3 ulp down to 4e-38, then 0."""
    e = exp_not_positive_f32(-abs_f32(x))
    return (e if x < F(0) else ONE) / (e + ONE)


@helper
def softplus_f32(x):  # type: ignore[no-untyped-def]
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)): at most 4 ulp."""
    return (x if x > F(0) else F(0)) + log1p_f32(exp_f32(-abs_f32(x)))


@helper
def erf_f32(x):  # type: ignore[no-untyped-def]
    """erf(x): at most 5 ulp."""
    t = -ERF_LIMIT if x < -ERF_LIMIT else x
    t = ERF_LIMIT if t > ERF_LIMIT else t
    z = t * t
    p = fma_f32(ERF_P[0], z, ERF_P[1])
    p = fma_f32(p, z, ERF_P[2])
    p = fma_f32(p, z, ERF_P[3])
    p = fma_f32(p, z, ERF_P[4])
    p = fma_f32(p, z, ERF_P[5])
    p = fma_f32(p, z, ERF_P[6])
    q = fma_f32(ERF_Q[0], z, ERF_Q[1])
    q = fma_f32(q, z, ERF_Q[2])
    q = fma_f32(q, z, ERF_Q[3])
    q = fma_f32(q, z, ERF_Q[4])
    y = t * p / q
    y = -ONE if x <= -ERF_LIMIT else y
    return ONE if x >= ERF_LIMIT else y


@helper
def rint_f32(x):  # type: ignore[no-untyped-def]
    """round_half_even(x), exact; the sign of a zero is kept."""
    a = abs_f32(x)
    r = (a + TWO_23) - TWO_23
    r = r if a < TWO_23 else a
    y = bits_f32(f32_bits(r) | (f32_bits(x) & SIGN))
    return y if x == x else x


@helper
def floor_f32(x):  # type: ignore[no-untyped-def]
    """The largest integer not above x, exact."""
    r = rint_f32(x)
    return r - ONE if r > x else r


@helper
def ceil_f32(x):  # type: ignore[no-untyped-def]
    """The smallest integer not below x, exact."""
    return -floor_f32(-x)
