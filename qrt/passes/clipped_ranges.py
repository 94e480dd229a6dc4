"""A Relu or Clip that only a DynamicQuantizeLinear reads becomes the limits of its range.

quantize(clip(x, low, high)) = DynamicQuantize(x) with low and high, where low <= 0 <= high: clip
never decreases, so the extremes of clip(x) are the clipped extremes of x.
"""

from __future__ import annotations

import numpy as np

from qrt.errors import QrtError
from qrt.ir import Graph, Node
from qrt.ops import float_unary


def clip_ranges(graph: Graph) -> Graph:
    """DynamicQuantizeLinear behind Relu and Clip becomes qrt.DynamicQuantize."""
    producers, consumers = graph.producers(), graph.consumers()
    outputs = set(graph.outputs)
    gone: set[Node] = set()
    for node in graph.nodes:
        if node.domain or node.op != "DynamicQuantizeLinear":
            continue
        x = node.required(0)
        clip = producers.get(x)
        if clip is None or x in outputs or len(consumers[x]) != 1:
            continue
        limits = _limits(clip)
        if limits is None:
            continue
        node.op, node.domain, node.version = "DynamicQuantize", "qrt", 1
        node.onnx_op = node.onnx_op or "DynamicQuantizeLinear"
        node.attrs = {"low": limits[0], "high": limits[1]}
        node.inputs = [clip.required(0)]
        node.origin = (*clip.origin, *node.origin)
        gone.add(clip)
    graph.nodes = [n for n in graph.nodes if n not in gone]
    return graph


def _limits(clip: Node) -> tuple[np.float32, np.float32] | None:
    """(low, high) of a Relu or Clip around 0; None where it is neither or they are computed."""
    if clip.domain or clip.op not in ("Relu", "Clip"):
        return None
    if clip.op == "Relu":
        return np.float32(0), np.float32(np.inf)
    try:
        _, low, high = float_unary.parse(clip)
    except QrtError:
        return None
    return (np.float32(low), np.float32(high)) if low <= 0 <= high else None
