"""Reshapes: one that changes nothing is dropped, one after another is one.

reshape(x, shape of x) = x; reshape(reshape(x, s), t) = reshape(x, t). Flatten, Squeeze and
Unsqueeze are reshapes. Shapes are bound.
"""

from __future__ import annotations

import numpy as np

from qrt.ir import Graph, Node, Value

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def merge_reshapes(graph: Graph) -> Graph:
    """All that remain are Reshape (opset 13) with a constant shape."""
    source: dict[Value, Value] = {}  # output of a reshape -> what it reshapes
    same: dict[Value, Value] = {}
    kept: list[Node] = []
    outputs = set(graph.outputs)
    for node in graph.nodes:
        node.inputs = [None if v is None else same.get(v, v) for v in node.inputs]
        kept.append(node)
        if node.domain or node.op not in (*RESHAPES, "Identity"):
            continue
        x, y = node.required(0), node.outputs[0]
        x = source.get(x, x)
        if x.static_shape == y.static_shape and y not in outputs:
            kept.pop()
            same[y] = x
        elif node.op in RESHAPES:
            source[y] = x
            kept[-1] = _reshape(node, x)
    graph.nodes = kept
    return graph


def _reshape(node: Node, x: Value) -> Node:
    y = node.outputs[0]
    data = np.array(y.static_shape, np.int64)
    shape = Value(f"{y.name}/shape", data.dtype, data.shape, data)
    # allowzero: a length of 0 means 0
    attrs = {"allowzero": 1}
    return Node(
        "Reshape", [x, shape], [y], attrs, "", node.name, node.index, 14, node.origin, node.why
    )
