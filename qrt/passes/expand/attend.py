"""Attention from its parts: softmax(scale q k' + bias) v, which every operator of the family is.

Several heads of q may share one of k and v: those are read by all of them, not repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node, Value
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


def written(b: Body, past: Value, new: Heads, start: Value) -> Heads:
    """The cache `past`, a buffer of (batch, heads, columns, size), with `new` in the places from
    `start` (batch or 1, 1) float32 on."""
    shape = past.static_shape
    if len(shape) != 4 or (shape[0], shape[1], shape[3]) != (new.batch, new.heads, new.size):
        raise ModelError(
            f"a cache of shape {list(shape)} does not fit"
            f" {[new.batch, new.heads, '...', new.size]}"
        )
    columns, texts = shape[2], start.static_shape[0]
    if new.length > columns:
        raise ModelError(f"{new.length} new keys do not fit into a cache of {columns}")
    # position j holds new[j - start] where that exists, else what it held
    places = b.constant(np.arange(columns).reshape(1, columns), np.float32)
    offset = b("Sub", places, start)
    least, most = b.constant(0.0), b.constant(new.length - 1, np.float32)
    there = b("And", b("GreaterOrEqual", offset, least), b("LessOrEqual", offset, most))
    moved = new.value
    if new.length > 1:
        index = b.cast(b("Clip", offset, least, most), np.int64)
        if texts == 1:
            moved = b("Gather", moved, b.reshape(index, (columns,)), axis=2)
        else:
            whole_shape = b.constant([new.batch, new.heads, columns, new.size])
            index = b("Expand", b.reshape(index, (texts, 1, columns, 1)), whole_shape)
            moved = b("GatherElements", moved, index, axis=2)
    value = b("Where", b.reshape(there, (texts, 1, columns, 1)), moved, past)
    return Heads(value, new.batch, new.heads, columns, new.size)


def start_of(b: Body, filled: Value, batch: int, places: int) -> Value:
    """Where new keys go in a cache: `filled` int32 or int64, one or one per text, as float32
    (count, 1). Anything but 0 to `places` - 1 ends the run, as an index out of range does."""
    count = batch if filled.static_shape in ((batch,), (batch, 1)) else 1
    index = b.reshape(filled, (count, 1))
    bad = b("Less", index, b.constant(0, filled.dtype))
    index = b("Where", bad, b.constant(places, filled.dtype), index)
    table = b.constant(np.arange(max(places, 0)), np.float32)
    start = b("Gather", table, index, axis=0)
    start.shape = (count, 1)
    return start


@dataclass(frozen=True)
class Attended:
    """The result of attention, and its scores (batch, heads, rows, columns) on the way: scaled,
    capped, with all biases, and as weights."""

    y: Heads
    scaled: Value
    capped: Value
    biased: Value
    weights: Value


def attend(
    b: Body,
    q: Heads,
    k: Heads,
    v: Heads,
    scale: float,
    biases: list[Value],
    softcap: float = 0.0,
    empty_rows: bool = False,
    sink: Value | None = None,
) -> Attended:
    """Each bias broadcasts to (batch, heads, rows, columns). With `empty_rows` a row whose bias is
    -inf everywhere gives 0 instead of NaN; `sink` (heads,) is the score of a column of value 0."""
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
    scaled = capped = b("Mul", scores, b.constant(scale))
    if softcap > 0:
        limit = b.constant(softcap)
        capped = b("Mul", b("Tanh", b("Div", scaled, limit)), limit)
    biased = capped
    for bias in biases:
        biased = b("Add", biased, bias)
    scores = biased
    if empty_rows and biases:
        scores = b("Max", scores, b.constant(LOWEST))
    if sink is not None:
        column = b("Expand", b.reshape(sink, (1, q.heads, 1, 1)),
                   b.constant([q.batch, q.heads, q.length, 1]))  # fmt: skip
        weights = b("Softmax", b.concat([scores, column], 3), axis=-1)
        weights = b.slice(weights, 3, 0, k.length)
    else:
        weights = b("Softmax", scores, axis=-1)
    if empty_rows and biases:
        seen = b("ReduceMax", scores, b.constant([-1]), keepdims=1)
        there = b("Greater", seen, b.constant(LOWEST))
        weights = b("Where", there, weights, b.constant(0.0))
    given = weights
    if shared > 1:
        given = b.reshape(weights, (q.batch, k.heads, shared * q.length, k.length))
    y = b("MatMul", given, values)
    if shared > 1:
        y = b.reshape(y, (q.batch, q.heads, q.length, v.size))
    result = Heads(y, q.batch, q.heads, q.length, v.size)
    return Attended(result, scaled, capped, biased, weights)


def fitted(b: Body, bias: Value, columns: int) -> Value:
    """`bias`, or a mask, with as many columns, zeros behind its own."""
    shape = bias.static_shape
    if shape[-1] in (1, columns):
        return bias
    if shape[-1] > columns:
        y = b.slice(bias, len(shape) - 1, 0, columns)
    else:
        pads = [0] * (2 * len(shape) - 1) + [columns - shape[-1]]
        y = b("Pad", bias, b.constant(pads), b.constant(0, bias.dtype))
    y.shape, y.dtype = (*shape[:-1], columns), bias.dtype
    return y


def default_scale(q: Heads) -> float:
    """1 / sqrt(size), in float32."""
    return float(np.float32(1) / np.sqrt(np.float32(q.size)))


def wanted(node: Node, i: int) -> bool:
    """True when output `i` of the node is there."""
    return len(node.outputs) > i and bool(node.outputs[i].name)


def bias_of(b: Body, seen: Array, low: float) -> Value:
    """0 where `seen`, `low` elsewhere."""
    return b.constant(np.where(seen, np.float32(0), np.float32(low)))


def masked(b: Body, seen: Value, low: float) -> Value:
    """0 where the bool `seen`, `low` elsewhere."""
    return b("Where", seen, b.constant(0.0), b.constant(low))
