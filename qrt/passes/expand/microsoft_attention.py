"""com.microsoft Attention, QAttention and MultiHeadAttention (opset 1) from their parts.

Attention and QAttention multiply by one matrix of all three projections first, which happens before
quantization is recognised (`project`), so that it is an integer product where it can be.
"""

from __future__ import annotations

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.expand.attend import (
    LOWEST,
    Heads,
    appended,
    attend,
    bias_of,
    causal,
    default_scale,
    fitted,
    masked,
    merged,
    split_heads,
    start_of,
    wanted,
    whole,
    written,
)
from qrt.passes.expand.body import Body
from qrt.passes.expand.rotary import cache_rows, rotate

FILTER = -10000.0  # mask_filter_value's default
THETA = 10000.0  # of Attention's rotary embedding
PROJECTED = "__projected"  # attribute of an Attention whose input is its projections


def project(node: Node) -> list[Node]:
    """Attention of input @ weights + bias; of what QAttention dequantizes them to."""
    b = Body(node)
    if node.op == "QAttention":
        x, w, bias, x_scale, w_scale, mask, x_zero, w_zero, past = (
            node.input(i) for i in range(9)
        )
        sums = b("MatMulInteger", x, w, x_zero, w_zero)
        y = b("Mul", b.cast(sums, np.float32), b("Mul", x_scale, w_scale))
        rest = [mask, past, None, None]
    else:
        x, w, bias, mask, past, added, length = (node.input(i) for i in range(7))
        y = b("MatMul", x, w)
        rest = [mask, past, added, length]
    if bias is not None:
        y = b("Add", y, bias)
    attrs = {**node.attrs, PROJECTED: 1}
    count = len(node.outputs)
    made = b.several("Attention", [y, *rest], count, attrs, "com.microsoft", node.version)
    return b.finish(*made)


def attention(node: Node) -> list[Node]:
    """Attention of projections (batch, length, 3 * hidden); inputs mask, past, bias, length."""
    attrs = AttrReader(node, (PROJECTED, "past_present_share_buffer"))
    heads = attrs.int("num_heads")
    scale, low = attrs.float("scale", 0.0), attrs.float("mask_filter_value", FILTER)
    one_way, turned = attrs.bool("unidirectional", False), attrs.bool("do_rotary", False)
    dims = attrs.int("rotary_embedding_dim", 0)
    x, mask, past, added = node.required(0), *(node.input(i) for i in (1, 2, 3))
    if len(x.static_shape) != 3:
        raise ModelError(f"input must have 3 dimensions, got {len(x.static_shape)}")
    batch, length, width = x.static_shape
    if not attrs.has("qkv_hidden_sizes") and width % 3:
        raise ModelError(f"{width} columns of weights are not three projections")
    sizes = attrs.ints("qkv_hidden_sizes", [width // 3] * 3, 3)
    attrs.done()
    if sum(sizes) != width:
        raise ModelError(f"qkv_hidden_sizes {sizes} are not {width} columns")
    b = Body(node)
    q, k, v = (
        split_heads(b, part, (batch, length, size), heads)
        for part, size in zip(b.split(x, sizes), sizes, strict=True)
    )
    caches: list[Value | None] = [None, None]
    if past is not None:
        shape = past.static_shape
        if len(shape) != 5 or shape[0] != 2:
            raise ModelError(f"past must be (2, batch, heads, length, size), got {list(shape)}")
        for i, part in enumerate(b.split(past, [1, 1], axis=0) if shape[3] else ()):
            caches[i] = b.reshape(part, shape[1:])
    cache = _Cache(b, caches[0], caches[1], node.input(4), length)
    if turned:
        q, k = (_turned(b, part, cache, dims or part.size) for part in (q, k))
    k, v = cache.extended(k, v)
    biases = cache.biases(b, mask, added, q, k, low, one_way)
    y = attend(b, q, k, v, scale or default_scale(q), biases).y
    present = None
    if wanted(node, 1):
        stack = [b.reshape(h.value, (1, batch, heads, h.length, h.size)) for h in (k, v)]
        present = b.concat(stack, 0)
    return b.finish(merged(b, y), present)


def multi_head_attention(node: Node) -> list[Node]:
    """MultiHeadAttention of separate, of packed, and of cached keys and values."""
    attrs = AttrReader(node)
    heads = attrs.int("num_heads")
    scale, low = attrs.float("scale", 0.0), attrs.float("mask_filter_value", FILTER)
    one_way = attrs.bool("unidirectional", False)
    attrs.done()
    query, key, value, bias, mask, added, past_key, past_value = (node.input(i) for i in range(8))
    if node.input(9) is not None:
        raise UnsupportedError("cache_indirection is not supported")
    assert query is not None
    b = Body(node)
    parts = _parts(b, query, key, value, heads)
    if bias is not None:
        parts = _with_bias(b, parts, bias)
    q, k, v = parts
    cache = _Cache(b, past_key, past_value, node.input(8), q.length)
    k, v = cache.extended(k, v)
    biases = cache.biases(b, mask, added, q, k, low, one_way)
    found = attend(b, q, k, v, scale or default_scale(q), biases)
    return b.finish(merged(b, found.y), k.value, v.value, found.biased)


class _Cache:
    """Keys and values of before, which new ones are put behind, or, where `filled` says how many
    they are, written into; `length` are the queries."""

    def __init__(
        self,
        b: Body,
        key: Value | None,
        value: Value | None,
        filled: Value | None,
        length: int,
    ) -> None:
        if (key is None) != (value is None):
            raise ModelError("past keys and values must be given together")
        if filled is not None and key is None:
            raise ModelError("past_sequence_length needs a cache that it is the length of")
        if filled is not None and filled.static_shape not in ((), (1,)):
            raise ModelError(
                f"past_sequence_length must be one number, got {list(filled.static_shape)}"
            )
        self.b, self.key, self.value, self.length = b, key, value, length
        self.before = 0 if key is None else key.static_shape[2]
        self.start: Value | None = None
        if filled is not None:
            self.start = start_of(b, filled, 1, self.before - length + 1)

    def positions(self) -> Value:
        """Of the queries: float32 (1, length)."""
        steps = np.arange(self.length).reshape(1, -1)
        if self.start is None:
            return self.b.constant(steps + self.before, np.float32)
        found = self.b("Add", self.start, self.b.constant(steps, np.float32))
        found.shape = (1, self.length)
        return found

    def extended(self, k: Heads, v: Heads) -> tuple[Heads, Heads]:
        """Keys and values with those of before."""
        if self.start is None:
            return appended(self.b, self.key, k), appended(self.b, self.value, v)
        assert self.key is not None and self.value is not None
        if k.length != self.length:
            raise ModelError(f"{self.length} queries and {k.length} keys share one cache")
        return (
            written(self.b, self.key, k, self.start),
            written(self.b, self.value, v, self.start),
        )

    def biases(
        self, b: Body, mask: Value | None, added: Value | None, q: Heads, k: Heads, low: float,
        one_way: bool,
    ) -> list[Value]:  # fmt: skip
        """The mask, what hides keys behind a query (`one_way`) and places of the cache that are
        empty, and what is added."""
        made = []
        if mask is not None:
            if self.start is not None and len(mask.static_shape) > 1:
                # of a cache that is not full the mask tells the places that are
                mask = fitted(b, mask, k.length)
            made.append(_mask(b, mask, q.batch, q.length, k.length, low))
        if self.start is not None:
            places = b.constant(np.arange(k.length).reshape(1, k.length), np.float32)
            last = b.reshape(self.positions(), (q.length, 1))
            if not one_way:
                last = b("Add", self.start, b.constant(q.length - 1, np.float32))
            made.append(masked(b, b("LessOrEqual", places, last), LOWEST))
        elif one_way:
            made.append(bias_of(b, causal(q.length, k.length, self.before), LOWEST))
        if added is not None:
            made.append(fitted(b, added, k.length))
        return made


def _turned(b: Body, x: Heads, cache: _Cache, dims: int) -> Heads:
    """do_rotary: the first `dims` of each head turned by their position, halves being pairs, at
    10000 ** (-2 i / dims) radians a position."""
    if dims % 2 or not 0 < dims <= x.size:
        raise ModelError(f"rotary_embedding_dim must be even and at most {x.size}, got {dims}")
    count = cache.before + (0 if cache.start is not None else cache.length)
    angles = np.outer(np.arange(count), THETA ** -np.linspace(0, 1, dims // 2, False))
    places = b.cast(cache.positions(), np.int64)
    rows = [cache_rows(b, b.constant(f(angles), np.float32), places) for f in (np.cos, np.sin)]
    shape = (x.batch, x.length, x.heads, x.size)
    inner = b.transpose(x.value, 0, 2, 1, 3)
    turned = b.transpose(rotate(b, inner, shape, (rows[0], rows[1]), False), 0, 2, 1, 3)
    return Heads(turned, x.batch, x.heads, x.length, x.size)


def _parts(
    b: Body, query: Value, key: Value | None, value: Value | None, heads: int
) -> tuple[Heads, Heads, Heads]:
    shape = query.static_shape
    if key is None and len(shape) == 5:
        # (batch, length, heads, 3, size)
        batch, length, count, three, size = shape
        if three != 3 or count != heads:
            raise ModelError(f"packed queries must be (.., {heads}, 3, size), got {list(shape)}")
        q, k, v = (
            split_heads(b, b.reshape(part, (batch, length, heads * size)),
                        (batch, length, heads * size), heads)
            for part in b.split(query, [1, 1, 1], axis=3)
        )  # fmt: skip
        return q, k, v
    q = split_heads(b, query, shape, heads)
    if key is None:
        raise ModelError("key is required where query is not packed")
    if value is None:
        packed = key.static_shape
        if len(packed) != 5 or packed[2:4] != (heads, 2):
            raise ModelError(f"packed keys must be (.., {heads}, 2, size), got {list(packed)}")
        flat = (packed[0], packed[1], heads * packed[4])
        k, v = (
            split_heads(b, b.reshape(part, flat), flat, heads)
            for part in b.split(key, [1, 1], axis=3)
        )
        return q, k, v
    if len(key.static_shape) == 4:
        return q, whole(key), whole(value)
    return (
        q,
        split_heads(b, key, key.static_shape, heads),
        split_heads(b, value, value.static_shape, heads),
    )


def _with_bias(
    b: Body, parts: tuple[Heads, Heads, Heads], bias: Value
) -> tuple[Heads, Heads, Heads]:
    """Add each part's piece of the bias (3 * hidden)."""
    sizes = [part.heads * part.size for part in parts]
    if bias.static_shape != (sum(sizes),):
        raise ModelError(f"bias must have {sum(sizes)} elements, got {list(bias.static_shape)}")
    made = []
    for part, piece in zip(parts, b.split(bias, sizes), strict=True):
        row = b.reshape(piece, (1, part.heads, 1, part.size))
        value = b("Add", part.value, row)
        made.append(Heads(value, part.batch, part.heads, part.length, part.size))
    return made[0], made[1], made[2]


def _mask(b: Body, mask: Value, batch: int, rows: int, columns: int, low: float) -> Value:
    """The bias of mask_index or key_padding_mask in each of their forms."""
    shape = mask.static_shape
    if len(shape) == 1 and shape[0] == 3 * batch + 2:
        # lengths of the keys, then where texts begin in a packed form, which this is not
        mask, shape = b.slice(mask, 0, 0, batch), (batch,)
    if len(shape) == 1 and shape[0] in (batch, 2 * batch) and (batch, shape[0]) != (columns, 1):
        # where the tokens of each text end (and begin)
        places = b.constant(np.arange(columns).reshape(1, columns), np.int32)
        count = shape[0] // batch
        ends, *starts = b.split(mask, [batch] * count, axis=0)
        seen = b("Less", places, b.reshape(ends, (batch, 1)))
        if starts:
            late = b("GreaterOrEqual", places, b.reshape(starts[0], (batch, 1)))
            seen = b("And", seen, late)
        return masked(b, b.reshape(seen, (batch, 1, 1, columns)), low)
    if shape == (batch, columns):
        seen = b.reshape(mask, (batch, 1, 1, columns))
    elif shape == (batch, rows, columns):
        seen = b.reshape(mask, (batch, 1, rows, columns))
    elif len(shape) == 4 and shape[:2] == (batch, 1) and min(shape[2:]) >= columns:
        part = b.slice(b.slice(mask, 2, columns - rows, columns), 3, 0, columns)
        seen = part
    else:
        raise ModelError(
            f"a mask of shape {list(shape)} does not fit {batch} texts, {rows} queries and"
            f" {columns} keys"
        )
    return masked(b, b.cast(seen, np.bool_), low)
