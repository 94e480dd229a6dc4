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
    masked,
    merged,
    split_heads,
    whole,
)
from qrt.passes.expand.body import Body

FILTER = -10000.0  # mask_filter_value's default
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
    one_way = attrs.bool("unidirectional", False)
    if attrs.bool("do_rotary", False) or attrs.int("rotary_embedding_dim", 0):
        raise UnsupportedError("do_rotary is not supported")
    x, mask, past, added = node.required(0), *(node.input(i) for i in (1, 2, 3))
    if node.input(4) is not None:
        raise UnsupportedError("past_sequence_length is not supported")
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
        for i, part in enumerate(b.split(past, [1, 1], axis=0)):
            caches[i] = b.reshape(part, shape[1:])
    before = 0 if past is None else past.static_shape[3]
    k, v = appended(b, caches[0], k), appended(b, caches[1], v)
    biases = [] if mask is None else [_mask(b, mask, batch, length, k.length, low)]
    if one_way:
        biases.append(bias_of(b, causal(length, k.length, before), LOWEST))
    if added is not None:
        biases.append(added)
    y, _ = attend(b, q, k, v, scale or _scale(q), biases)
    present = None
    if len(node.outputs) > 1 and node.outputs[1].name:
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
    if node.input(8) is not None or node.input(9) is not None:
        raise UnsupportedError("past_sequence_length and cache_indirection are not supported")
    if len(node.outputs) > 3 and node.outputs[3].name:
        raise UnsupportedError("the output qk is not supported")
    assert query is not None
    b = Body(node)
    parts = _parts(b, query, key, value, heads)
    if bias is not None:
        parts = _with_bias(b, parts, bias)
    q, k, v = parts
    before = 0 if past_key is None else past_key.static_shape[2]
    k, v = appended(b, past_key, k), appended(b, past_value, v)
    biases = [] if mask is None else [_mask(b, mask, q.batch, q.length, k.length, low)]
    if one_way:
        biases.append(bias_of(b, causal(q.length, k.length, before), LOWEST))
    if added is not None:
        biases.append(added)
    y, _ = attend(b, q, k, v, scale or _scale(q), biases)
    return b.finish(merged(b, y), k.value, v.value)


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


def _scale(q: Heads) -> float:
    return float(np.float32(1) / np.sqrt(np.float32(q.size)))


def _mask(b: Body, mask: Value, batch: int, rows: int, columns: int, low: float) -> Value:
    """The bias of mask_index or key_padding_mask in each of their forms."""
    shape = mask.static_shape
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
