"""Weights of few bits in blocks (com.microsoft MatMulNBits): docs/machine.md "Few-bit weights"."""

from __future__ import annotations

import numpy as np

from . import floats
from .inputs import Values, array_at, optional_array
from .node import Node
from .values import Array

F = np.float32


def unpacked(packed: Array, bits: int, count: int) -> Array:
    """int64 (rows, count): `count` numbers of each row of bytes, the lowest bits first."""
    rows = packed.shape[0]
    digits = np.unpackbits(packed, axis=-1, bitorder="little").reshape(rows, -1, bits)
    return (digits.astype(np.int64) << np.arange(bits)).sum(-1)[:, :count]


def quantized_rows(x: Array, block: int) -> tuple[Array, Array]:
    """(int64 (m, blocks, block), float32 scales (m, blocks)) of float32 (m, k)."""
    m, k = x.shape
    blocks = -(-k // block)
    codes = np.zeros((m, blocks, block), np.int64)
    scales = np.zeros((m, blocks), F)
    for r in range(m):
        for i in range(blocks):
            part = x[r, i * block : (i + 1) * block]
            high = np.abs(part).max()
            if not np.isfinite(high):
                scales[r, i] = np.nan
            elif high >= 2.0**-120:
                scales[r, i] = high / F(127)
                codes[r, i, : part.size] = np.rint(part * (F(127) / high))
    return codes, scales


def product(
    x: Array,
    q: Array,
    scales: Array,
    zero_points: Array | None,
    bits: int,
    bias: Array | None,
    *,
    integers: bool,
) -> Array:
    """x (m, k) float32 times weights q (n, blocks, block), scales and zero points (n, blocks)."""
    n, blocks, block = q.shape
    zero = np.full((n, blocks), 1 << bits - 1) if zero_points is None else zero_points
    with np.errstate(all="ignore"):
        if integers:
            codes, x_scales = quantized_rows(x, block)
            centered = q - zero[..., None].astype(np.int64)
            sums = np.einsum("mbk,nbk->mnb", codes, centered)
            y = np.zeros((x.shape[0], n), F)
            for i in range(blocks):
                factor = x_scales[:, None, i] * scales[None, :, i]
                y = floats.fma(sums[:, :, i].astype(F), factor, y)
        else:
            real = (q.astype(F) - zero[..., None].astype(F)) * scales[..., None]
            y = floats.matmul(x, np.ascontiguousarray(real.reshape(n, -1)[:, : x.shape[1]].T))
        return y if bias is None else y + bias


def matmul_nbits(node: Node, values: Values) -> Array:
    """com.microsoft MatMulNBits: A, B, scales, zero_points, g_idx, bias."""
    k, n, block = (node.integer(name, 0) for name in ("K", "N", "block_size"))
    bits, level = node.integer("bits", 4), node.integer("accuracy_level", 0)
    blocks = -(-k // block)
    x, packed = array_at(values, 0), array_at(values, 1)
    scales = array_at(values, 2).reshape(n, blocks)
    zero_points, g_idx = optional_array(values, 3), optional_array(values, 4)
    integers = level == 4 and g_idx is None
    if zero_points is not None and zero_points.dtype == np.uint8:
        zero_points = unpacked(zero_points.reshape(n, -1), bits, blocks)
    elif zero_points is not None:
        zero_points, integers = zero_points.reshape(n, blocks), False
    q = unpacked(packed.reshape(n, -1), bits, blocks * block)
    rows = x.reshape(-1, k)
    if g_idx is not None:
        order = np.argsort(g_idx[:k], kind="stable")
        q[:, :k], rows = q[:, order], rows[:, order]
    y = product(
        rows, q.reshape(n, blocks, block), scales, zero_points, bits, optional_array(values, 5),
        integers=integers,
    )  # fmt: skip
    return y.reshape(*x.shape[:-1], n)
