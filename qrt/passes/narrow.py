"""Clip between QuantizeLinear and DequantizeLinear (QCDQ) narrows the integers, to 4 bits or so.

Clip(QuantizeLinear(x), low, high) = QuantizeLinear(x) with `qmin` and `qmax`, two attributes that
only recognition knows; so only what recognition makes integers of is rewritten.
"""

from __future__ import annotations

import numpy as np

from qrt.ir import Graph, Node, Value
from qrt.quant.affine import S8, U8


def narrow_quantize(graph: Graph) -> Graph:
    """Clip that alone reads a per_tensor 8-bit QuantizeLinear goes into it."""
    producers, consumers = graph.producers(), graph.consumers()
    outputs = set(graph.outputs)
    gone: set[Node] = set()
    for clip in graph.nodes:
        if clip.op != "Clip" or clip.domain or clip.version < 12:
            continue
        q = producers.get(clip.required(0))
        if q is None or q.op != "QuantizeLinear" or "qmin" in q.attrs:
            continue
        value = q.outputs[0]
        limits = _limits(q, clip)
        if limits is None or value in outputs or len(consumers.get(value, ())) != 1:
            continue
        q.attrs["qmin"], q.attrs["qmax"] = limits
        q.outputs = [clip.outputs[0]]
        q.outputs[0].dtype = q.outputs[0].dtype or value.dtype
        gone.add(clip)
    graph.nodes = [node for node in graph.nodes if node not in gone]
    return graph


def _special(q: Node) -> bool:
    return any(q.attrs.get(name) for name in ("precision", "block_size"))


def _limits(q: Node, clip: Node) -> tuple[int, int] | None:
    """The bounds that the two have together; None where only they themselves may say."""
    x, scale, zero_point = q.required(0), q.required(1).data, q.input(2)
    if scale is None or scale.size != 1 or scale.dtype != np.float32 or _special(q):
        return None
    if x.dtype not in (None, np.dtype(np.float32)) or (x.dtype is None and q.version > 22):
        return None
    dtype = U8 if zero_point is None and not q.attrs.get("output_dtype") else None
    if zero_point is not None and zero_point.data is not None:
        dtype = zero_point.data.dtype
    if dtype not in (U8, S8):
        return None
    limits = np.iinfo(dtype)
    bounds = [int(limits.min), int(limits.max)]
    for i in (0, 1):
        value: Value | None = clip.input(i + 1)
        if value is not None:
            if value.data is None or value.data.size != 1 or value.data.dtype != dtype:
                return None
            bounds[i] = int(value.data.reshape(()))
    return (bounds[0], bounds[1]) if bounds[0] <= bounds[1] else None
