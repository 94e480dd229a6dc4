"""Finding an operator that a file spells by its parts: who made a value, what may go with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from qrt.ir import Graph, Node, Value


class Parts:
    """The nodes of a graph by what they make and read."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers, self.consumers = graph.producers(), graph.consumers()
        self.outputs = set(graph.outputs)

    def maker(self, value: Value | None, *ops: str) -> Node | None:
        """The ONNX operator that computes `value`, where it is one of `ops`."""
        node = None if value is None else self.producers.get(value)
        return node if node is not None and node.domain == "" and node.op in ops else None

    def apart(self, nodes: Collection[Node], last: Node) -> bool:
        """True when only `nodes` read what they compute, but for the result of `last`."""
        return all(
            value not in self.outputs
            and all(reader in nodes for reader in self.consumers.get(value, ()))
            for node in nodes
            if node is not last
            for value in node.outputs
        )

    def replace(self, found: Mapping[Node, tuple[Collection[Node], Node]]) -> Graph:
        """Put a new node in the place of each last node, and leave out its parts."""
        gone = {part for parts, _ in found.values() for part in parts}
        kept: list[Node] = []
        for node in self.graph.nodes:
            if node in found:
                kept.append(found[node][1])
            elif node not in gone:
                kept.append(node)
        self.graph.nodes = kept
        return self.graph


def scalar(value: Value | None, rank: int) -> float | None:
    """The one element of a float32 constant that adds no axis to a tensor of `rank`."""
    data = None if value is None else value.data
    if data is None or data.dtype != np.float32 or data.size != 1 or data.ndim > rank:
        return None
    return float(data.reshape(()))


def origins(nodes: Iterable[Node], order: Graph) -> tuple[str, ...]:
    """The names of the ONNX nodes that `nodes` stand for, in the order of the graph."""
    chosen = set(nodes)
    ordered = [node for node in order.nodes if node in chosen]
    return tuple(dict.fromkeys(name for n in ordered for name in (n.origin or (n.name,))))
