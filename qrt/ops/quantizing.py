"""The end of a kernel that makes bytes of float32: scale, round, add the zero point, clamp, store.

One row per instruction set, and records of what a scale and a zero point mean to them. Where two
products are proved to round as the quotient by a scale does (`quant/division.py`), they take its
place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.ir import QParams
from qrt.jit.declare import helper
from qrt.ops.spec import Array
from qrt.quant.division import division_factors
from qrt.simd.memory import as_f32, as_i32, as_u8
from qrt.simd.narrow import (
    narrow_u8x64_avx2,
    narrow_u8x64_avx512,
    narrow_u8x64_neon,
    narrow_u8x64_sse41,
)
from qrt.simd.scalar import quantize_u8
from qrt.simd.vectors import (
    add_u8x64,
    div_f32x16,
    fma_f32x16,
    load_f32x16,
    min_f32x16,
    min_u8x64,
    mul_f32x16,
    quantize_u8x16,
    splat_f32x16,
    splat_i32x16,
    splat_u8x64,
    store_u8x16,
    store_u8x64,
)

# `low` and `high` exclude the zero point
RECORD = ("scale", "factor", "rest", "low", "high", "zero_point")
RECORD_NBYTES = 4 * len(RECORD)
WIDTH = 64  # codes that `store` makes at once
FACTORS = "factors"  # the precondition of rows that multiply instead of dividing


def make_records(
    scale: Array, factor: Array, rest: Array, zero_point: Array, qmin: int, qmax: int
) -> Array:
    """int32 (channels, 6), the bits of `RECORD` for 8 bits; parameters have one element each, or
    one per channel."""
    zero_point = zero_point.astype(np.int32)
    columns = np.broadcast_arrays(
        *(np.atleast_1d(v).astype(np.float32).view(np.int32) for v in (scale, factor, rest)),
        *(np.atleast_1d(q - zero_point).astype(np.float32).view(np.int32) for q in (qmin, qmax)),
        np.atleast_1d(zero_point),
    )
    return np.stack(columns, axis=1)


def division_records(y: QParams) -> tuple[Array, dict[str, int]]:
    """Records of division by the scales of `y` (8 bits), and what kernels are chosen by: whether
    the products are proved for all of them."""
    zero_points = np.broadcast_to(y.zero_point, y.scale.shape)
    found = [
        division_factors(float(scale), y.qmin - int(zero), y.qmax - int(zero))
        for scale, zero in zip(y.scale.reshape(-1), zero_points.reshape(-1), strict=True)
    ]
    pairs = np.array([factors or (0, 0) for factors in found], np.float32).reshape(-1, 2)
    records = make_records(y.scale, pairs[:, 0], pairs[:, 1], y.zero_point, y.qmin, y.qmax)
    return records, {FACTORS: int(all(factors is not None for factors in found))}


@dataclass(frozen=True)
class Scaling:
    """`vector(t, scale, factor, rest)` of f32x16, and `scalar` of one float32: what is rounded.

    `varies` says which of the three differ from channel to channel.
    """

    vector: Any
    scalar: Any
    varies: tuple[bool, bool, bool] = (True, True, True)


@dataclass(frozen=True)
class Quantizer:
    """`store(y, a, b, c, d, end)` makes 64 codes of four f32x16, `divide` comes before; `end` is a
    record. `store_small` needs numbers below 2**31."""

    isa: str
    features: tuple[str, ...]
    store: Any
    store_small: Any
    divide: Scaling
    preconditions: dict[str, int]

    def name(self, family: str) -> str:
        """The kernel of `family` for this instruction set."""
        return f"{family}_{self.isa}" if self.isa else family


@helper
def read_record(address):  # type: ignore[no-untyped-def]
    """The numbers of `RECORD`."""
    reals, integers = as_f32(address), as_i32(address)
    return reals[0], reals[1], reals[2], reals[3], reals[4], integers[5]


@helper
def _quotient(t, scale, factor, rest):  # type: ignore[no-untyped-def]
    return div_f32x16(t, scale)


@helper
def _quotient_of_one(t, scale, factor, rest):  # type: ignore[no-untyped-def]
    return t / scale


@helper
def _products(t, scale, factor, rest):  # type: ignore[no-untyped-def]
    return fma_f32x16(t, factor, mul_f32x16(t, rest))


@helper
def _store_portable(y, a, b, c, d, end):  # type: ignore[no-untyped-def]
    low = splat_f32x16(end[3])
    high = splat_f32x16(end[4])
    zero_point = splat_i32x16(end[5])
    store_u8x16(y, quantize_u8x16(a, low, high, zero_point))
    store_u8x16(y + 16, quantize_u8x16(b, low, high, zero_point))
    store_u8x16(y + 32, quantize_u8x16(c, low, high, zero_point))
    store_u8x16(y + 48, quantize_u8x16(d, low, high, zero_point))


def _store(narrow: Any) -> Any:
    @helper
    def store(y, a, b, c, d, end):  # type: ignore[no-untyped-def]
        high = splat_f32x16(end[4])
        # what is too high would not fit int32; the packs clamp what is too low at 0
        q = narrow(
            min_f32x16(high, a),
            min_f32x16(high, b),
            min_f32x16(high, c),
            min_f32x16(high, d),
            np.int16(-np.int32(end[3])),
        )
        store_u8x64(y, add_u8x64(q, _lowest(end)))

    return store


def _store_small(narrow: Any) -> Any:
    @helper
    def store(y, a, b, c, d, end):  # type: ignore[no-untyped-def]
        low = np.int32(end[3])
        span = np.uint8(np.int32(end[4]) - low)
        q = min_u8x64(narrow(a, b, c, d, np.int16(-low)), splat_u8x64(span))
        store_u8x64(y, add_u8x64(q, _lowest(end)))

    return store


@helper
def _lowest(end):  # type: ignore[no-untyped-def]
    """The lowest code, in 64 bytes."""
    return splat_u8x64(np.uint8(np.int32(end[3]) + end[5]))


def _quantizer(
    isa: str, needs: tuple[str, ...], narrow: Any, divide: Scaling, *, saturates: bool = False
) -> Quantizer:
    """A row of a `narrow` that `saturates` what int32 does not hold, or does not."""
    small = _store_small(narrow)
    store = small if saturates else _store(narrow)
    return Quantizer(isa, needs, store, small, divide, {} if divide is QUOTIENT else {FACTORS: 1})


QUOTIENT = Scaling(_quotient, _quotient_of_one)
PRODUCTS = Scaling(_products, _quotient_of_one)
QUANTIZERS: tuple[Quantizer, ...] = (
    _quantizer("avx512", ("avx512", "fma"), narrow_u8x64_avx512, PRODUCTS),
    _quantizer("avx2", ("avx2", "fma"), narrow_u8x64_avx2, PRODUCTS),
    _quantizer("sse41", ("sse41",), narrow_u8x64_sse41, QUOTIENT),
    _quantizer("neon", ("neon",), narrow_u8x64_neon, PRODUCTS, saturates=True),
    Quantizer("", (), _store_portable, _store_portable, QUOTIENT, {}),
)


def declare_span(quantizer: Quantizer) -> Any:
    """A helper (x, y, n, record): n codes of as many floats, by a record of `division_records`."""
    divide, store = quantizer.divide.vector, quantizer.store

    @helper
    def quantize_span(x, y, n, record):  # type: ignore[no-untyped-def]
        end = read_record(record)
        scale = splat_f32x16(end[0])
        factor = splat_f32x16(end[1])
        rest = splat_f32x16(end[2])
        i = 0
        while i + WIDTH <= n:
            at = x + 4 * i
            store(
                y + i,
                divide(load_f32x16(at), scale, factor, rest),
                divide(load_f32x16(at + 64), scale, factor, rest),
                divide(load_f32x16(at + 128), scale, factor, rest),
                divide(load_f32x16(at + 192), scale, factor, rest),
                end,
            )
            i += WIDTH
        while i < n:
            as_u8(y)[i] = quantize_u8(as_f32(x)[i] / end[0], end[3], end[4], end[5])
            i += 1

    return quantize_span
