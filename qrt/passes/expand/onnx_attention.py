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
    causal,
    masked,
    merged,
    split_heads,
    whole,
)
from qrt.passes.expand.body import Body

INF = float("-inf")


def onnx_attention(node: Node) -> list[Node]:
    """The node itself where it asks for what is left to ONNX's reference: other types, its scores
    as an output, windows (opset 25), a cache whose filling is data."""
    inputs = [node.input(i) for i in range(7)]
    q, k, v, mask, past_key, past_value, filled = inputs
    scores = len(node.outputs) > 3 and node.outputs[3].name
    floats = all(x is None or x.dtype == np.float32 for x in (q, k, v, past_key, past_value))
    plain = mask is None or mask.dtype in (np.float32, np.bool_)
    windows = any(node.attrs.get(f"{side}_window_size", -1) >= 0 for side in ("left", "right"))
    if not floats or not plain or scores or filled is not None or windows:
        return [node]
    assert q is not None and k is not None and v is not None
    attrs = AttrReader(
        node, ("softmax_precision", "qk_matmul_output_mode", "left_window_size",
               "right_window_size")
    )  # fmt: skip
    scale, softcap = attrs.float("scale", 0.0), attrs.float("softcap", 0.0)
    one_way = attrs.bool("is_causal", False)
    q_heads, k_heads = attrs.int("q_num_heads", 0), attrs.int("kv_num_heads", 0)
    attrs.done()
    if (past_key is None) != (past_value is None):
        raise ModelError("past_key and past_value must be given together")
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
    if one_way:
        biases.append(bias_of(b, causal(query.length, key.length, before), INF))
    factor = scale or float(np.float32(1) / np.sqrt(np.float32(query.size)))
    y, _ = attend(b, query, key, value, factor, biases, softcap, empty_rows=True)
    return b.finish(merged(b, y) if flat else y.value, _of(key), _of(value))


def _of(heads: Heads) -> Value:
    return heads.value


def _mask(b: Body, mask: Value, columns: int) -> Value:
    """As a bias, -inf where the mask is too short."""
    bias = masked(b, mask, INF) if mask.dtype == np.bool_ else mask
    short = columns - mask.static_shape[-1]
    if short <= 0:
        return bias
    rank = len(mask.static_shape)
    pads = [0] * (2 * rank - 1) + [short]
    return b("Pad", bias, b.constant(pads), b.constant(INF))
