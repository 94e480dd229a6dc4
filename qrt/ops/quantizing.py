"""The end of a kernel that makes bytes of float32: divide by the scale, round, add, clamp, store.

One row per instruction set, which Quantize walks. Where two products are proved to round as the
quotient does (`quant/division.py`), they take its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.jit.declare import helper
from qrt.quant.division import division_factors
from qrt.simd.memory import row_f32
from qrt.simd.narrow import (
    narrow_u8x64_avx2,
    narrow_u8x64_avx512,
    narrow_u8x64_neon,
    narrow_u8x64_sse41,
)
from qrt.simd.vectors import (
    div_f32x16,
    fma_f32x16,
    min_f32x16,
    min_u8x64,
    mul_f32x16,
    quantize_u8x16,
    splat_f32x16,
    splat_i32x16,
    splat_u8x64,
    store_u8x16,
    store_u8x64,
    xor_u8x64,
)

# `low` and `high` exclude the zero point; int8 is made of uint8 by `flip` = 128, its sign bit
FIELDS = ("y_scale", "factor", "rest", "low", "high", "y_zero_point", "flip")
WIDTH = 64  # codes that `store` makes at once
FACTORS = "factors"  # the precondition of rows that multiply


def quantizing_fields(
    scale: Any, zero_point: Any, qmin: int, qmax: int
) -> tuple[dict[str, Any], dict[str, int]]:
    """Row fields `FIELDS` for 8 bits, and the facts that `best_kernel` takes."""
    low, high = qmin - int(zero_point), qmax - int(zero_point)
    factors = division_factors(float(scale), low, high)
    factor, rest = factors or (np.float32(0), np.float32(0))
    fields = {
        "y_scale": np.float32(scale),
        "factor": factor,
        "rest": rest,
        "low": np.float32(low),
        "high": np.float32(high),
        "y_zero_point": int(zero_point),
        "flip": 128 if qmin < 0 else 0,
    }
    return fields, {FACTORS: int(factors is not None)}


@dataclass(frozen=True)
class Quantizer:
    """`store(y, a, b, c, d, end)` makes 64 codes of four f32x16, `divide(t, end)` comes before;
    `end` is what `read_end` made of the row."""

    isa: str
    features: tuple[str, ...]
    store: Any
    divide: Any
    preconditions: dict[str, int]

    def name(self, family: str) -> str:
        """The kernel of `family` for this instruction set."""
        return f"{family}_{self.isa}" if self.isa else family


def read_end(first: int) -> Any:
    """Helper row -> values of `FIELDS`, which begin at slot `first`."""

    @helper
    def read(row):  # type: ignore[no-untyped-def]
        return (
            row_f32(row, first),
            row_f32(row, first + 1),
            row_f32(row, first + 2),
            row_f32(row, first + 3),
            row_f32(row, first + 4),
            np.int32(row[first + 5]),
            np.int32(row[first + 6]),
        )

    return read


@helper
def _quotient(t, end):  # type: ignore[no-untyped-def]
    return div_f32x16(t, splat_f32x16(end[0]))


@helper
def _products(t, end):  # type: ignore[no-untyped-def]
    return fma_f32x16(t, splat_f32x16(end[1]), mul_f32x16(t, splat_f32x16(end[2])))


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
        raised = end[5] + end[6]
        # what is too high would not fit int32; the packs clamp what is too low
        q = narrow(
            min_f32x16(high, a),
            min_f32x16(high, b),
            min_f32x16(high, c),
            min_f32x16(high, d),
            np.int16(raised),
            np.uint8(np.int32(end[3]) + raised),
        )
        store_u8x64(y, xor_u8x64(q, splat_u8x64(np.uint8(end[6]))))

    return store


@helper
def _store_neon(y, a, b, c, d, end):  # type: ignore[no-untyped-def]
    raised = end[5] + end[6]
    low = np.uint8(np.int32(end[3]) + raised)
    q = narrow_u8x64_neon(a, b, c, d, np.int16(raised), low)  # saturates whatever is too high
    q = min_u8x64(q, splat_u8x64(np.uint8(np.int32(end[4]) + raised)))
    store_u8x64(y, xor_u8x64(q, splat_u8x64(np.uint8(end[6]))))


QUANTIZERS: tuple[Quantizer, ...] = (
    Quantizer("avx512", ("avx512", "fma"), _store(narrow_u8x64_avx512), _products, {FACTORS: 1}),
    Quantizer("avx2", ("avx2", "fma"), _store(narrow_u8x64_avx2), _products, {FACTORS: 1}),
    Quantizer("sse41", ("sse41",), _store(narrow_u8x64_sse41), _quotient, {}),
    Quantizer("neon", ("neon",), _store_neon, _products, {FACTORS: 1}),
    Quantizer("", (), _store_portable, _quotient, {}),
)
