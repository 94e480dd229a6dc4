"""Dequantized constants of two axes as integers of few bits, in blocks along one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qrt.gemm.nbits_table import BLOCK_UNIT
from qrt.passes.recognise.views import Blocked, Fixed, View
from qrt.quant.affine import Array
from qrt.quant.nbits import pack_bits


@dataclass(frozen=True)
class Grouped:
    """`packed` (rows, blocks, block * bits / 8) uint8 of `length` integers a row; scales float32
    and zero points uint8 (rows, blocks), None: 2 ** (bits - 1)."""

    packed: Array
    scales: Array
    zero_points: Array | None
    bits: int
    length: int


def grouped(view: View | None, axis: int, most_bits: int) -> Grouped | None:
    """A constant of two axes with blocks along `axis`, the other axis being the rows.

    None for what has no such form, and for constants with one scale a row of more than `most_bits`.
    """
    if isinstance(view, Blocked):
        if view.q.ndim != 2 or view.axis != axis or view.block % BLOCK_UNIT:
            return None
        parts = (view.q, view.scale, view.zero_point)
        q, scales, zero_points = (None if a is None else (a.T if axis == 0 else a) for a in parts)
        assert q is not None and scales is not None
        return _grouped(q, scales, zero_points, view.block, view.bits)
    if not isinstance(view, Fixed) or view.q.ndim != 2 or view.bits > most_bits:
        return None
    if view.q.dtype.itemsize != 1 or view.qparams.axis not in (None, 1 - axis):
        return None
    q = view.q.T if axis == 0 else view.q
    rows, length = q.shape
    scales, zeros = (
        np.broadcast_to(a, rows)[:, None] for a in (view.qparams.scale, view.qparams.zero_point)
    )
    block = max(BLOCK_UNIT, -(-length // BLOCK_UNIT) * BLOCK_UNIT)
    return _grouped(q, scales, zeros, block, view.bits)


def _grouped(
    q: Array, scales: Array, zero_points: Array | None, block: int, bits: int
) -> Grouped | None:
    """`q` (rows, length) int8 or uint8 holds integers of `bits`, signed or not."""
    rows, length = q.shape
    if not rows or not length:
        return None
    usual = 1 << bits - 1
    zeros = np.zeros(scales.shape) if zero_points is None else zero_points
    zeros = zeros.astype(np.int64)
    # signed integers are raised, zero points with them; real = q - zero_point stays what it is
    raised = usual if q.min() < 0 or zeros.min() < 0 else 0
    zeros = zeros + raised
    if zeros.min() < 0 or zeros.max() >= 1 << bits or int(q.max()) + raised >= 1 << bits:
        return None
    codes = np.zeros((rows, -(-length // block) * block), np.uint8)
    codes[:, :length] = (q.astype(np.int16) + raised).astype(np.uint8)
    packed = pack_bits(codes, bits).reshape(rows, -1, block * bits // 8)
    found = None if (zeros == usual).all() else zeros.astype(np.uint8)
    return Grouped(packed, np.ascontiguousarray(scales), found, bits, length)
