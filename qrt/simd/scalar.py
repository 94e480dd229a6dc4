"""Scalar arithmetic that every kernel shares: exact 32-bit sums, rounding, splitting work."""

from __future__ import annotations

from typing import Any

import numpy as np

from qrt.jit.declare import helper, intrinsic
from qrt.simd.memory import bits_f32, f32_bits

# adding 1.5 * 2**23 leaves round-half-even of a small float in its low mantissa bits; it needs no
# rounding instruction and is exact for |t| <= 2**22 (callers clamp first)
_ROUND = np.float32(12582912.0)
_ROUND_BITS = np.int32(0x4B400000)


def _binary_i32(name: str, build: str, what: str) -> Any:
    def binary(typingctx: Any, a: Any, b: Any) -> Any:
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, build)(args[0], args[1])

        return types.int32(types.int32, types.int32), codegen

    binary.__name__ = name
    binary.__doc__ = f"int32 {what}, wrapping (numba would widen to int64)."
    return intrinsic(binary)


add32 = _binary_i32("add32", "add", "a + b")
sub32 = _binary_i32("sub32", "sub", "a - b")
mul32 = _binary_i32("mul32", "mul", "a * b")


@helper
def clamp_f32(t, low, high):  # type: ignore[no-untyped-def]
    """min(max(t, low), high) in float32; NaN gives low."""
    t = t if t > low else low
    return t if t < high else high


@helper
def round_i32(t):  # type: ignore[no-untyped-def]
    """round_half_even(t) as int32 for |t| <= 2**22."""
    return sub32(f32_bits(np.float32(t + _ROUND)), _ROUND_BITS)


@helper
def quantize_u8(t, low, high, zero_point):  # type: ignore[no-untyped-def]
    """uint8 of round_half_even(clamp(t, low, high)) + zero_point; low, high exclude it."""
    return np.uint8(add32(round_i32(clamp_f32(t, low, high)), zero_point))


@helper
def share(n, thread, threads, grain):  # type: ignore[no-untyped-def]
    """(start, stop) of this thread's part of n items, in whole grains; empty when too few."""
    grains = (n + grain - 1) // grain
    start = grains * thread // threads * grain
    stop = grains * (thread + 1) // threads * grain
    return min(start, n), min(stop, n)


__all__ = [
    "add32",
    "bits_f32",
    "clamp_f32",
    "f32_bits",
    "mul32",
    "quantize_u8",
    "round_i32",
    "share",
    "sub32",
]
