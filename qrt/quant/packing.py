"""Integers of 2 to 16 bits as a stream of bits, nothing between them.

The first integer lies in the lowest bits of the first byte; for 2 and 4 bits that is how ONNX
stores int2, uint2, int4 and uint4. Signed integers are kept in two's complement.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qrt.errors import QuantizationError
from qrt.quant.affine import Array


def pack(q: Array, bits: int) -> Array:
    """uint8 (packed_nbytes,) of the integers `q` (any shape, C order), `bits` each.

    Raises QuantizationError when an integer needs more.
    """
    _check_bits(bits)
    signed = q.dtype.kind == "i"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if q.dtype.kind not in "iu" or (q.size and not (low <= int(q.min()) <= int(q.max()) <= high)):
        given = f"{q.dtype}" if q.dtype.kind not in "iu" else f"{q.min()} to {q.max()}"
        raise QuantizationError(f"integers of {bits} bits are {low} to {high}, got {given}")
    codes = q.reshape(-1).astype(np.int64) & ((1 << bits) - 1)
    stream = (codes[:, None] >> np.arange(bits)) & 1
    return np.packbits(stream.astype(np.uint8).reshape(-1), bitorder="little")


def unpack(packed: Array, bits: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """The inverse of `pack`: integers of `shape` and `dtype`.

    Raises QuantizationError when `packed` has another number of bytes than they take.
    """
    _check_bits(bits)
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    if packed.dtype != np.uint8 or packed.size != packed_nbytes(count, bits):
        raise QuantizationError(
            f"{count} integers of {bits} bits take {packed_nbytes(count, bits)} bytes of uint8,"
            f" got {packed.size} of {packed.dtype}"
        )
    stream = np.unpackbits(packed.reshape(-1), count=count * bits, bitorder="little")
    codes = stream.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits))
    if dtype.kind == "i":
        codes = (codes ^ (1 << bits - 1)) - (1 << bits - 1)  # the sign bit, spread
    return codes.astype(dtype).reshape(shape)


def packed_nbytes(count: int, bits: int) -> int:
    """Bytes of `count` integers of `bits` each."""
    return -(-count * bits // 8)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 16:
        raise QuantizationError(f"bits must be 1 to 16, got {bits}")
