"""Dead code: a node whose outputs nobody reads is dropped."""

from __future__ import annotations

from qrt.ir import Graph, Value


def remove_dead(graph: Graph) -> Graph:
    """Keep what a graph output depends on, in order."""
    needed: set[Value] = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if any(v in needed for v in node.outputs):
            kept.append(node)
            needed.update(v for v in node.inputs if v is not None)
    graph.nodes = kept[::-1]
    return graph
