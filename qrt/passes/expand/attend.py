"""Attention from its parts: softmax(scale q k' + bias) v, which every operator of the family is.

Several heads of q may share one of k and v: those are read by all of them, not repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Value
from qrt.passes.expand.body import Body
from qrt.quant.affine import Array

LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Heads:
    """A tensor (batch, heads, length, size), its shape known."""

    value: Value
    batch: int
    heads: int
    length: int
    size: int


def split_heads(b: Body, x: Value, shape: tuple[int, ...], heads: int) -> Heads:
    """(batch, length, heads * size) of `shape` as heads."""
    if len(shape) != 3 or heads < 1 or shape[2] % heads:
        raise ModelError(f"a tensor of shape {list(shape)} is not {heads} heads")
    batch, length, width = shape
    parts = b.reshape(x, (batch, length, heads, width // heads))
    return Heads(b.transpose(parts, 0, 2, 1, 3), batch, heads, length, width // heads)


def whole(x: Value) -> Heads:
    """A tensor that is heads already."""
    shape = x.static_shape
    if len(shape) != 4:
        raise ModelError(f"'{x.name}' must have 4 dimensions, got {len(shape)}")
    return Heads(x, *shape)


def merged(b: Body, y: Heads) -> Value:
    """(batch, length, heads * size)."""
    return b.reshape(b.transpose(y.value, 0, 2, 1, 3), (y.batch, y.length, y.heads * y.size))


def appended(b: Body, past: Value | None, new: Heads) -> Heads:
    """`new` behind the cache `past` (batch, heads, length, size)."""
    if past is None:
        return new
    shape = past.static_shape
    if len(shape) != 4 or (shape[0], shape[1], shape[3]) != (new.batch, new.heads, new.size):
        raise ModelError(
            f"a cache of shape {list(shape)} does not fit"
            f" {[new.batch, new.heads, '...', new.size]}"
        )
    if shape[2] == 0:
        return new
    value = b.concat([past, new.value], 2)
    return Heads(value, new.batch, new.heads, shape[2] + new.length, new.size)


def causal(rows: int, columns: int, offset: int, window: int = -1) -> Array:
    """bool (rows, columns): row i sees column j <= i + offset, the last `window` of them."""
    i, j = np.arange(rows)[:, None] + offset, np.arange(columns)[None]
    seen = j <= i
    return seen & (j > i - window) if window >= 0 else seen


def attend(
    b: Body,
    q: Heads,
    k: Heads,
    v: Heads,
    scale: float,
    biases: list[Value],
    softcap: float = 0.0,
    empty_rows: bool = False,
) -> tuple[Heads, Value]:
    """The result, and the scores before the mask; each bias broadcasts to (batch, heads, rows,
    columns). With `empty_rows` a row whose bias is -inf everywhere gives 0 instead of NaN."""
    if k.heads != v.heads or k.length != v.length or q.size != k.size or q.heads % k.heads:
        raise ModelError(
            f"queries {[q.heads, q.size]}, keys {[k.heads, k.length, k.size]} and values"
            f" {[v.heads, v.length, v.size]} (heads, length, size) do not fit"
        )
    shared = q.heads // k.heads
    queries, keys, values = q.value, b.transpose(k.value, 0, 1, 3, 2), v.value
    if shared > 1:
        queries = b.reshape(queries, (q.batch, k.heads, shared * q.length, q.size))
    scores = b("MatMul", queries, keys)
    if shared > 1:
        scores = b.reshape(scores, (q.batch, q.heads, q.length, k.length))
    scores = b("Mul", scores, b.constant(scale))
    if softcap > 0:
        limit = b.constant(softcap)
        scores = b("Mul", b("Tanh", b("Div", scores, limit)), limit)
    raw = scores
    for bias in biases:
        scores = b("Add", scores, bias)
    if empty_rows and biases:
        scores = b("Max", scores, b.constant(LOWEST))
    weights = b("Softmax", scores, axis=-1)
    if empty_rows and biases:
        seen = b("ReduceMax", scores, b.constant([-1]), keepdims=1)
        there = b("Greater", seen, b.constant(LOWEST))
        weights = b("Where", there, weights, b.constant(0.0))
    if shared > 1:
        weights = b.reshape(weights, (q.batch, k.heads, shared * q.length, k.length))
    y = b("MatMul", weights, values)
    if shared > 1:
        y = b.reshape(y, (q.batch, q.heads, q.length, v.size))
    return Heads(y, q.batch, q.heads, q.length, v.size), raw


def bias_of(b: Body, seen: Array, low: float) -> Value:
    """0 where `seen`, `low` elsewhere."""
    return b.constant(np.where(seen, np.float32(0), np.float32(low)))


def masked(b: Body, seen: Value, low: float) -> Value:
    """0 where the bool `seen`, `low` elsewhere."""
    return b("Where", seen, b.constant(0.0), b.constant(low))
