"""Lookup tables: an element-wise float function of an 8-bit tensor, evaluated once per code.

Equation: table[code] = Quantize(f(Dequantize(code))) for the 256 codes; f is rounded to float32
after each operator. NumPy builds it, so no table depends on a CPU's libm or vector width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qrt.ir import QParams
from qrt.quant.affine import Array, dequantize, quantize

CODES: Array = np.arange(256, dtype=np.uint8)
CODES.flags.writeable = False


def dequantize_table(x: QParams) -> Array:
    """float32[256]: the real value of each uint8 code; `x` is per_tensor."""
    return dequantize(CODES, x)


def quantize_table(reals: Array, y: QParams) -> Array:
    """uint8[256]: the code of `y` for each float32 of `reals`; `y` is per_tensor uint8."""
    return quantize(reals, y)


def compose(first: Array | None, then: Array) -> Array:
    """The table of `then` after `first` (None: identity)."""
    return then if first is None else then[first]


def is_identity(table: Array | None) -> bool:
    """True when every code stays what it is."""
    return table is None or (table.dtype == np.uint8 and np.array_equal(table, CODES))


def is_monotone(table: Array | None) -> bool:
    """True when larger codes never give smaller ones: then a maximum may be taken before."""
    return table is None or bool((np.diff(table.astype(np.int64)) >= 0).all())


def clamp_table(low: int, high: int) -> Array:
    """uint8[256]: min(max(code, low), high)."""
    clamped: np.ndarray[Any, Any] = np.minimum(np.maximum(CODES, low), high).astype(np.uint8)
    return clamped
