"""exp, log, tanh, erf and rounding in float32, from sums and products alone.

No libm and no fused multiply-add, so the bits are equal on every CPU; branch-free, so that LLVM
vectorizes the loops around them. Polynomials are those of Cephes (expf, logf, tanhf) and of XLA
(erf); each docstring states the error measured over all floats of the range (test_float_math).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qrt.jit.declare import helper, intrinsic
from qrt.simd.memory import bits_f32, f32_bits
from qrt.simd.scalar import _ROUND as ROUND
from qrt.simd.scalar import add32, round_i32, sub32

F = np.float32
ONE, HALF, TWO = F(1), F(0.5), F(2)
LOG2E = F(1.44269504088896341)
LN2_HIGH, LN2_LOW = F(0.693359375), F(-2.12194440e-4)  # the product n * LN2_HIGH is exact
EXP_LOW, EXP_HIGH = F(-104), F(88.8)  # below, exp is 0; above, inf
EXP_NORMAL = F(-86)  # exp and its scaling stay clear of subnormals
EXP = tuple(
    F(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
              1.6666665459e-1, 5.0000001201e-1)
)  # fmt: skip
LOG = tuple(
    F(c)
    for c in (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1,
              1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1,
              3.3333331174e-1)
)  # fmt: skip
SQRT_HALF = F(0.707106781186547524)
SMALLEST_NORMAL, TWO_23 = F(1.17549435e-38), F(8388608.0)
TANH = tuple(
    F(c)
    for c in (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1,
              -3.33332819422e-1)
)  # fmt: skip
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
def scale_by_power(y, n):  # type: ignore[no-untyped-def]
    """y * 2**n for y in [0.5, 2] and n in [-150, 128], rounded once."""
    n1 = n >> 1
    n2 = sub32(n, n1)
    y = y * bits_f32(add32(n1, 127) << 23)
    return y * bits_f32(add32(n2, 127) << 23)


@helper
def expm1_small(r):  # type: ignore[no-untyped-def]
    """exp(r) - 1 for |r| <= 0.35."""
    p = EXP[0]
    p = p * r + EXP[1]
    p = p * r + EXP[2]
    p = p * r + EXP[3]
    p = p * r + EXP[4]
    p = p * r + EXP[5]
    return p * (r * r) + r


@helper
def exp_f32(x):  # type: ignore[no-untyped-def]
    """exp(x): at most 1.5 ulp; NaN stays NaN."""
    t = x if x > EXP_LOW else EXP_LOW
    t = t if t < EXP_HIGH else EXP_HIGH
    n = round_i32(t * LOG2E)
    steps = np.float32(n)
    r = t - steps * LN2_HIGH
    r = r - steps * LN2_LOW
    y = scale_by_power(expm1_small(r) + ONE, n)
    return y if x == x else x


@helper
def exp_not_positive_f32(x):  # type: ignore[no-untyped-def]
    """exp(x) for x <= 0: as exp_f32 down to 4e-38, then 0; NaN stays NaN."""
    t = x if x > EXP_NORMAL else EXP_NORMAL
    shifted = t * LOG2E + ROUND  # the whole number of halvings in its low bits
    steps = shifted - ROUND
    r = t - steps * LN2_HIGH
    r = r - steps * LN2_LOW
    y = expm1_small(r) + ONE  # at least 0.7: with more than -126 steps the exponent stays normal
    y = bits_f32(add32(f32_bits(y), f32_bits(shifted) << 23))
    y = y if x > EXP_NORMAL else F(0)
    return y if x == x else x


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
    p = LOG[0]
    p = p * r + LOG[1]
    p = p * r + LOG[2]
    p = p * r + LOG[3]
    p = p * r + LOG[4]
    p = p * r + LOG[5]
    p = p * r + LOG[6]
    p = p * r + LOG[7]
    p = p * r + LOG[8]
    y = p * r * z
    y = y + e * LN2_LOW
    y = y - HALF * z
    y = (r + y) + e * LN2_HIGH
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
    """tanh(x): at most 2 ulp."""
    a = abs_f32(x)
    z = x * x
    p = TANH[0]
    p = p * z + TANH[1]
    p = p * z + TANH[2]
    p = p * z + TANH[3]
    p = p * z + TANH[4]
    near = p * z * x + x
    far = ONE - TWO / (exp_f32(a + a) + ONE)
    far = -far if x < F(0) else far
    return near if a < F(0.625) else far


@helper
def sigmoid_f32(x):  # type: ignore[no-untyped-def]
    """1 / (1 + exp(-x)): at most 3 ulp down to the smallest normal float."""
    return ONE / (ONE + exp_f32(-x))


@helper
def softplus_f32(x):  # type: ignore[no-untyped-def]
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)): at most 4 ulp."""
    return (x if x > F(0) else F(0)) + log1p_f32(exp_f32(-abs_f32(x)))


@helper
def erf_f32(x):  # type: ignore[no-untyped-def]
    """erf(x): at most 6 ulp."""
    t = x if x > -ERF_LIMIT else -ERF_LIMIT
    t = t if t < ERF_LIMIT else ERF_LIMIT
    z = t * t
    p = ERF_P[0]
    p = p * z + ERF_P[1]
    p = p * z + ERF_P[2]
    p = p * z + ERF_P[3]
    p = p * z + ERF_P[4]
    p = p * z + ERF_P[5]
    p = p * z + ERF_P[6]
    q = ERF_Q[0]
    q = q * z + ERF_Q[1]
    q = q * z + ERF_Q[2]
    q = q * z + ERF_Q[3]
    q = q * z + ERF_Q[4]
    y = t * p / q
    y = ONE if x >= ERF_LIMIT else y
    y = -ONE if x <= -ERF_LIMIT else y
    return y if x == x else x


@helper
def rint_f32(x):  # type: ignore[no-untyped-def]
    """round_half_even(x), exact; the sign of a zero is kept."""
    a = abs_f32(x)
    r = (a + TWO_23) - TWO_23
    r = r if a < TWO_23 else a
    y = bits_f32(f32_bits(r) | (f32_bits(x) & np.int32(-0x80000000)))
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
