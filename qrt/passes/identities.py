"""Identities: operators that give their input back are dropped.

Identity(x) = x; Dropout(x) = x at inference; Cast to the type x has = x; a Sum, Max, Min, Concat
of one tensor is that tensor.
"""

from __future__ import annotations

from qrt.ir import Graph, Node, Value
from qrt.passes.arithmetic import cast_dtype

SINGLE = ("Sum", "Max", "Min", "Mean", "Concat")


def drop_identities(graph: Graph) -> Graph:
    """Readers of an identity read its input; a graph output keeps its node."""
    same: dict[Value, Value] = {}
    kept: list[Node] = []
    outputs = set(graph.outputs)
    for node in graph.nodes:
        node.inputs = [None if v is None else same.get(v, v) for v in node.inputs]
        if _is_identity(node) and not outputs & set(node.outputs):
            same[node.outputs[0]] = node.required(0)
        else:
            kept.append(node)
    graph.nodes = kept
    return graph


def _is_identity(node: Node) -> bool:
    if node.domain:
        return False
    if node.op in SINGLE:
        return len(node.inputs) == 1
    if node.op == "Dropout":
        training = node.input(2)
        idle = training is None or (training.data is not None and not training.data.any())
        return idle and len(node.outputs) == 1
    if node.op == "Cast":
        dtype = cast_dtype(node)
        return dtype is not None and node.required(0).dtype == dtype
    return node.op == "Identity"
