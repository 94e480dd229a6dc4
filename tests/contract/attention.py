"""What the operators of transformers mean, in NumPy and float64: norms, embeddings, attention.

Sources: ONNX Operators.md; ONNX Runtime docs/ContribOperators.md for com.microsoft.
"""

from __future__ import annotations

from math import erf

import numpy as np

from .values import Array

LOWEST = float(np.finfo(np.float32).min)


def layer_norm(x: Array, gamma: Array, beta: Array | None, epsilon: float) -> Array:
    """Over the last axis."""
    wide = x.astype(np.float64)
    centered = wide - wide.mean(-1, keepdims=True)
    y = centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + epsilon) * gamma
    return y if beta is None else y + beta


def rms_norm(x: Array, gamma: Array, epsilon: float) -> Array:
    """Over the last axis."""
    wide = x.astype(np.float64)
    return wide / np.sqrt(np.square(wide).mean(-1, keepdims=True) + epsilon) * gamma


def gelu(x: Array) -> Array:
    """x / 2 (1 + erf(x / sqrt 2))."""
    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


def fast_gelu(x: Array) -> Array:
    """Gelu by tanh."""
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def quick_gelu(x: Array, alpha: float = 1.702) -> Array:
    """x sigmoid(alpha x)."""
    return x / (1 + np.exp(-alpha * x))


def heads(x: Array, count: int) -> Array:
    """(batch, length, count * size) to (batch, count, length, size)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def merged(x: Array) -> Array:
    """(batch, heads, length, size) to (batch, length, heads * size)."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def scores(
    q: Array, k: Array, bias: Array | float = 0.0, scale: float = 0.0, softcap: float = 0
) -> Array:
    """scale q k', capped, + bias on heads; fewer heads of k serve several of q each."""
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    found = q.astype(np.float64) @ k.swapaxes(2, 3) * (scale or q.shape[-1] ** -0.5)
    if softcap:
        found = softcap * np.tanh(found / softcap)
    return np.asarray(found + bias)


def softmax(x: Array, sink: Array | None = None) -> Array:
    """Over the last axis of (batch, heads, rows, columns); `sink` (heads,) is one more score of a
    row, whose share nobody gets."""
    if sink is not None:
        column = np.broadcast_to(sink.reshape(1, -1, 1, 1), (*x.shape[:3], 1))
        return softmax(np.concatenate([x, column], -1))[..., :-1]
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def attend(
    q: Array, k: Array, v: Array, bias: Array | float = 0.0, scale: float = 0.0, softcap: float = 0,
    sink: Array | None = None,
) -> Array:  # fmt: skip
    """softmax(scale q k' + bias) v on heads; fewer heads of k and v serve several of q each."""
    weights = softmax(scores(q, k, bias, scale, softcap), sink)
    return np.asarray(weights @ np.repeat(v, q.shape[1] // v.shape[1], axis=1))


def causal(rows: int, columns: int, before: int = 0, window: int = 0) -> Array:
    """0 where row i sees column j <= i + before (the last `window`), else the lowest float."""
    gap = np.arange(rows)[:, None] + before - np.arange(columns)
    seen = (gap >= 0) & ((gap < window) | (window == 0))
    return np.where(seen, 0.0, LOWEST)


def rotary(x: Array, cos: Array, sin: Array, interleaved: bool = False) -> Array:
    """x (batch, heads, length, size), cos and sin (batch, length, turned / 2)."""
    half = cos.shape[-1]
    y = x.astype(np.float64)
    first = slice(0, 2 * half, 2) if interleaved else slice(0, half)
    second = slice(1, 2 * half, 2) if interleaved else slice(half, 2 * half)
    cos, sin = cos[:, None], sin[:, None]
    a, b = y[..., first].copy(), y[..., second].copy()
    y[..., first], y[..., second] = cos * a - sin * b, sin * a + cos * b
    return y
