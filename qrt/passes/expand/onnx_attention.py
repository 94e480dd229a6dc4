"""Attention (ONNX, opset 23 and 24) of float32 from its parts."""

from __future__ import annotations

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.expand.attend import (
    Heads,
    appended,
    attend,
    bias_of,
    default_scale,
    masked,
    merged,
    split_heads,
    whole,
)
from qrt.passes.expand.body import Body

INF = float("-inf")


def onnx_attention(node: Node) -> list[Node]:
    """The node itself where it is of other types, which are left to ONNX's reference."""
    inputs = [node.input(i) for i in range(7)]
    q, k, v, mask, past_key, past_value, filled = inputs
    floats = all(x is None or x.dtype == np.float32 for x in (q, k, v, past_key, past_value))
    plain = mask is None or mask.dtype in (np.float32, np.bool_)
    if not floats or not plain:
        return [node]
    assert q is not None and k is not None and v is not None
    attrs = AttrReader(node, ("softmax_precision",))
    scale, softcap = attrs.float("scale", 0.0), attrs.float("softcap", 0.0)
    one_way, mode = attrs.bool("is_causal", False), attrs.int("qk_matmul_output_mode", 0)
    left, right = (attrs.int(f"{side}_window_size", -1) for side in ("left", "right"))
    q_heads, k_heads = attrs.int("q_num_heads", 0), attrs.int("kv_num_heads", 0)
    attrs.done()
    if (past_key is None) != (past_value is None):
        raise ModelError("past_key and past_value must be given together")
    if filled is not None and past_key is not None:
        raise ModelError("nonpad_kv_seqlen and past_key cannot be given together")
    if not 0 <= mode <= 3:
        raise ModelError(f"qk_matmul_output_mode must be 0 to 3, got {mode}")
    b = Body(node)
    flat = len(q.static_shape) == 3
    if flat:
        if not q_heads or not k_heads:
            raise ModelError("q_num_heads and kv_num_heads are required with 3 dimensions")
        query = split_heads(b, q, q.static_shape, q_heads)
        key, value = (split_heads(b, x, x.static_shape, k_heads) for x in (k, v))
    else:
        query, key, value = whole(q), whole(k), whole(v)
    before = 0 if past_key is None else past_key.static_shape[2]
    key, value = appended(b, past_key, key), appended(b, past_value, value)
    biases = []
    if mask is not None:
        biases.append(_mask(b, mask, key.length))
    if one_way:  # a window that ends with the query
        right = 0
    if filled is not None:
        biases.append(_filled(b, filled, query, key, left, right))
    elif left >= 0 or right >= 0:
        gap = np.arange(query.length)[:, None] + before - np.arange(key.length)
        seen = (gap <= left) | (left < 0)
        biases.append(bias_of(b, seen & ((-gap <= right) | (right < 0)), INF))
    found = attend(
        b, query, key, value, scale or default_scale(query), biases, softcap, empty_rows=True
    )
    scores = (found.scaled, found.capped, found.biased, found.weights)[mode]
    y = merged(b, found.y) if flat else found.y.value
    return b.finish(y, key.value, value.value, scores)


def _filled(b: Body, filled: Value, q: Heads, k: Heads, left: int, right: int) -> Value:
    """The bias that hides keys behind the first `filled` (batch,) of each text, and those outside
    of windows around the queries, which are the last of these."""
    if filled.static_shape != (q.batch,):
        raise ModelError(f"nonpad_kv_seqlen must be [{q.batch}], got {list(filled.static_shape)}")
    count = b.reshape(b.cast(filled, np.float32), (q.batch, 1, 1, 1))
    places = b.constant(np.arange(k.length).reshape(1, 1, 1, -1), np.float32)
    steps = b.constant(np.arange(q.length).reshape(1, 1, -1, 1) - q.length, np.float32)
    seen = b("Less", places, count)
    position = b("Add", count, steps)
    if right >= 0:
        last = b("Add", position, b.constant(right, np.float32))
        seen = b("And", seen, b("LessOrEqual", places, last))
    if left >= 0:
        first = b("Sub", position, b.constant(left, np.float32))
        seen = b("And", seen, b("GreaterOrEqual", places, first))
    return masked(b, seen, INF)


def _mask(b: Body, mask: Value, columns: int) -> Value:
    """As a bias, -inf where the mask is too short."""
    bias = masked(b, mask, INF) if mask.dtype == np.bool_ else mask
    short = columns - mask.static_shape[-1]
    if short <= 0:
        return bias
    rank = len(mask.static_shape)
    pads = [0] * (2 * rank - 1) + [short]
    return b("Pad", bias, b.constant(pads), b.constant(INF))
