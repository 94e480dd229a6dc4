"""Float sums of the contract: chains of fused multiply-adds, each rounded once to float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def fma(x: Array, w: Array, acc: Array) -> Array:
    """float32(x * w + acc), rounded once, of float32 arrays that broadcast.

    The product is exact in float64. Where the sum with acc is not, it is replaced by the neighbour
    in float64 with an odd last bit: halfway between two float32 only when the exact sum is.
    """
    with np.errstate(all="ignore"):
        product = np.asarray(x, np.float64) * np.asarray(w, np.float64)
        addend = np.broadcast_to(np.asarray(acc, np.float64), product.shape)
        total = np.asarray(product + addend)
        large = np.where(np.abs(product) >= np.abs(addend), product, addend)
        small = np.where(np.abs(product) >= np.abs(addend), addend, product)
        error = small - (total - large)  # exact: |large| >= |small|
        even = total.view(np.int64) % 2 == 0
        fix = np.isfinite(total) & (error != 0) & even
        towards = np.where(error > 0, np.inf, -np.inf)
        return np.asarray(np.where(fix, np.nextafter(total, towards), total).astype(np.float32))


def matmul(a: Array, b: Array, alpha: float = 1.0, addend: Array | None = None) -> Array:
    """alpha * (a @ b) + addend of float32 (..., m, k) and (..., k, n): the sum in the order of k
    from +0, then two roundings; without an addend none is added."""
    shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = np.zeros((*shape, a.shape[-2], b.shape[-1]), np.float32)
    for k in range(a.shape[-1]):
        total = fma(a[..., :, k, None], b[..., None, k, :], total)
    with np.errstate(all="ignore"):
        scaled = total * np.float32(alpha)
        return scaled if addend is None else scaled + np.asarray(addend, np.float32)


def conv(
    x: Array,
    w: Array,
    bias: Array | None,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Array:
    """Conv of x (N, C, spatial...) and w (O, C / group, kernel...): for each output the sum over
    taps, the last axis fastest, and per tap over channels; padding reads +0; then the bias."""
    rank = x.ndim - 2
    widths = [(0, 0), (0, 0), *((pads[i], pads[rank + i]) for i in range(rank))]
    padded = np.pad(x, widths)
    out = [
        (padded.shape[2 + i] - dilations[i] * (w.shape[2 + i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    ]
    inputs, outputs = w.shape[1], w.shape[0] // group
    y = np.zeros((x.shape[0], w.shape[0], *out), np.float32)
    for tap in np.ndindex(*w.shape[2:]):
        window = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, dilations, out, strides, strict=True)
        )
        for g in range(group):
            mine = slice(g * outputs, (g + 1) * outputs)
            for c in range(inputs):
                values = padded[(slice(None), g * inputs + c, *window)][:, None]
                factors = w[(mine, c, *tap)].reshape(1, outputs, *(1,) * rank)
                y[:, mine] = fma(values, factors, y[:, mine])
    with np.errstate(all="ignore"):
        return y if bias is None else y + bias.reshape(1, -1, *(1,) * rank)
