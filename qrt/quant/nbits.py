"""Weights of 2, 4 and 8 bits, several to a byte, and activations quantized block by block.

Sources: com.microsoft MatMulNBits (ONNX Runtime docs/ContribOperators.md); ONNX int4, int2: the
first element lies in the lowest bits of a byte.
"""

from __future__ import annotations

import numpy as np

from qrt.quant.affine import Array

# an activation block whose largest magnitude is below this is a block of zeros: 127 / it overflows
LEAST = np.float32(2.0**-120)


def unpack_bits(packed: Array, bits: int) -> Array:
    """uint8 (..., n) to uint8 (..., n * 8 / bits), the lowest bits of a byte first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return values.reshape(*packed.shape[:-1], -1)


def pack_bits(values: Array, bits: int) -> Array:
    """The inverse of `unpack_bits`; values (..., n) uint8 below 2**bits, n whole bytes."""
    per_byte = 8 // bits
    split = values.reshape(*values.shape[:-1], -1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed: Array = np.bitwise_or.reduce(split << shifts, axis=-1)
    return packed


def dequantize_blocks(q: Array, scales: Array, zero_points: Array | None, bits: int) -> Array:
    """(float32(q) - zero_point) * scale, each rounded: float32 (n, blocks, block) of `q` uint8.

    `scales` and `zero_points` are (n, blocks); None: 2 ** (bits - 1).
    """
    zero: Array = np.float32(1 << bits - 1) * np.ones((1, 1), np.float32)
    if zero_points is not None:
        zero = zero_points.astype(np.float32)
    real: Array = (q.astype(np.float32) - zero[..., None]) * scales[..., None]
    return real


def quantize_rows(x: Array, block: int) -> tuple[Array, Array]:
    """Activations (m, k) float32 in blocks along k: int8 (m, blocks, block), zeros behind k, and
    float32 scales (m, blocks).

    scale = high / 127 with high = max |x|; q = round_half_even(x * (127 / high)). A block with
    high < LEAST is zeros of scale 0; one that is not finite is zeros of scale NaN.
    """
    m, k = x.shape
    padded = np.zeros((m, -(-k // block) * block), np.float32)
    padded[:, :k] = x
    blocks = padded.reshape(m, -1, block)
    with np.errstate(all="ignore"):
        high = np.abs(blocks).max(axis=-1, initial=0)
        usual = np.isfinite(high) & (high >= LEAST)
        inverse = np.float32(127) / np.where(usual, high, np.float32(1))
        q = np.rint(blocks * inverse[..., None])
        scale = np.where(usual, high / np.float32(127), np.float32(0))
        scale = np.where(np.isfinite(high), scale, np.float32(np.nan))
    q = np.where(usual[..., None], q, 0)
    return q.astype(np.int8), scale.astype(np.float32)
