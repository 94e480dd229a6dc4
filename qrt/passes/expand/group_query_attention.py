"""com.microsoft GroupQueryAttention (opset 1) from its parts: cache, rotary embedding, attention.

Keys and values are appended to the cache where it is as long as what was seen, and written into it
where it is a buffer of the full length; `total_sequence_length`, bound by value, says which.
"""

from __future__ import annotations

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.expand.attend import (
    Heads,
    appended,
    attend,
    default_scale,
    fitted,
    masked,
    merged,
    split_heads,
    start_of,
    wanted,
    written,
)
from qrt.passes.expand.body import Body
from qrt.passes.expand.rotary import cache_rows, rotate

INF = float("-inf")
F32 = np.float32  # positions are counted in it


def group_query_attention(node: Node) -> list[Node]:
    """GroupQueryAttention of float32; one length of past for all texts of a batch, or one each."""
    attrs = AttrReader(node, ("do_rotary", "rotary_interleaved"))
    heads, shared = attrs.int("num_heads"), attrs.int("kv_num_heads")
    scale, softcap = attrs.float("scale", 0.0), attrs.float("softcap", 0.0)
    window = attrs.int("local_window_size", -1)
    smooth, output_qk = attrs.int("smooth_softmax", 0) > 0, attrs.int("qk_output", 0)
    for name in ("k_quant_type", "v_quant_type"):
        attrs.string(name, "NONE", ("NONE",))
    attrs.done()
    if heads < 1 or shared < 1 or heads % shared:
        raise ModelError(f"{heads} heads cannot share {shared} of keys and values")
    query, key, value, past_key, past_value, lengths = (node.input(i) for i in range(6))
    total = node.input(6)
    assert query is not None and lengths is not None
    if total is None or total.data is None or total.data.size != 1:
        raise UnsupportedError("total_sequence_length must be one number, known before the run")
    b = Body(node)
    q, k, v = _heads(b, query, key, value, heads, shared)
    if lengths.static_shape not in ((q.batch,), (q.batch, 1)):
        raise ModelError(f"seqlens_k must be [{q.batch}], got {list(lengths.static_shape)}")
    whole = int(total.data.reshape(-1)[0])
    held = 0 if past_key is None else past_key.static_shape[2]
    steps = b.constant(np.arange(q.length).reshape(1, -1), F32)
    if whole == q.length:  # the first run, whose texts may be padded to the right
        start = b.constant(np.zeros((q.batch, 1)), F32)
    else:  # seqlens_k are the positions of the last tokens
        first = lengths
        if q.length > 1:
            moved = b("Sub", b.cast(lengths, F32), b.constant(q.length - 1, F32))
            moved.shape = lengths.shape
            first = b.cast(moved, np.int64)
        start = start_of(b, first, q.batch, max(held, whole) - q.length + 1)
    positions = b("Add", start, steps)
    positions.shape = (q.batch, q.length)
    if node.attrs.get("do_rotary", 0):
        q, k = _rotated(b, node, q, k, positions)
    columns = max(held, whole)
    k, v = (
        _cached(b, past, new, start, columns) for past, new in ((past_key, k), (past_value, v))
    )
    places = b.constant(np.arange(columns).reshape(1, 1, 1, columns), F32)
    rows = b.reshape(positions, (q.batch, 1, q.length, 1))
    seen = b("LessOrEqual", places, rows)
    if window >= 0:
        recent = b("Greater", places, b("Sub", rows, b.constant(window, F32)))
        seen = b("And", seen, recent)
    biases = [masked(b, seen, INF)]
    bias = node.input(10)
    if bias is not None:
        biases.insert(0, fitted(b, bias, columns))
    sink = node.input(11)
    if sink is not None and sink.static_shape != (heads,):
        raise ModelError(f"head_sink must be [{heads}], got {list(sink.static_shape)}")
    if sink is None and smooth:
        sink = b.constant(np.zeros(heads), F32)
    found = attend(b, q, k, v, scale or default_scale(q), biases, softcap, sink=sink)
    scores = None
    if wanted(node, 3):
        if output_qk not in (1, 2):
            raise ModelError(f"output_qk needs a qk_output of 1 or 2, got {output_qk}")
        scores = found.weights
        if output_qk == 1:
            scores = b("Where", seen, found.biased, b.constant(0.0))
        if columns > whole:
            scores = b.slice(scores, 3, 0, whole)
    return b.finish(merged(b, found.y), k.value, v.value, scores)


def _heads(
    b: Body, query: Value, key: Value | None, value: Value | None, heads: int, shared: int
) -> tuple[Heads, Heads, Heads]:
    shape = query.static_shape
    if len(shape) != 3:
        raise ModelError(f"query must have 3 dimensions, got {len(shape)}")
    if key is None:
        if shape[2] % (heads + 2 * shared):
            raise ModelError(f"{shape[2]} columns are not {heads} + 2 * {shared} heads")
        size = shape[2] // (heads + 2 * shared)
        widths = [heads * size, shared * size, shared * size]
        parts = b.split(query, widths)
        q, k, v = (
            split_heads(b, part, (*shape[:2], width), count)
            for part, width, count in zip(parts, widths, (heads, shared, shared), strict=True)
        )
        return q, k, v
    assert value is not None
    return (
        split_heads(b, query, shape, heads),
        split_heads(b, key, key.static_shape, shared),
        split_heads(b, value, value.static_shape, shared),
    )


def _rotated(
    b: Body, node: Node, q: Heads, k: Heads, positions: Value
) -> tuple[Heads, Heads]:
    cos, sin, given = (node.input(i) for i in (7, 8, 9))
    if cos is None or sin is None:
        raise ModelError("cos_cache and sin_cache are required with do_rotary")
    places = b.cast(positions, np.int64) if given is None else given
    caches = cache_rows(b, cos, places), cache_rows(b, sin, places)
    interleaved = bool(node.attrs.get("rotary_interleaved", 0))
    made = []
    for part in (q, k):
        inner = b.transpose(part.value, 0, 2, 1, 3)
        shape = (part.batch, part.length, part.heads, part.size)
        turned = b.transpose(rotate(b, inner, shape, caches, interleaved), 0, 2, 1, 3)
        made.append(Heads(turned, part.batch, part.heads, part.length, part.size))
    return made[0], made[1]


def _cached(b: Body, past: Value | None, new: Heads, start: Value, columns: int) -> Heads:
    """(batch, heads, columns, size): the cache with `new` from each text's `start` on."""
    held = 0 if past is None else past.static_shape[2]
    if past is None or held == 0:
        if new.length == columns:
            return Heads(new.value, new.batch, new.heads, columns, new.size)
        raise ModelError(f"{new.length} new keys and no cache are not {columns}")
    if held + new.length == columns and new.batch == 1:
        return appended(b, past, new)
    if held < columns:
        pads = b.constant([0, 0, 0, 0, 0, 0, columns - held, 0])
        shape = past.static_shape
        past = b("Pad", past, pads, b.constant(0.0))
        past.shape = (*shape[:2], columns, *shape[3:])
    return written(b, past, new, start)
