"""Subgraphs (If, Loop, Scan, SequenceMap): what they declare, and what they capture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qrt.ir.graph import Graph, Node, Value

# a value a node can read; None stands for an optional function input that the call leaves out
Scope = dict[str, Value | None]


@dataclass
class Declared:
    """A subgraph as far as it is the same wherever it is emitted.

    `formals` and `constants` are templates: each emission has values of its own. `free` are the
    names that it reads of the graphs around it.
    """

    name: str
    formals: list[Value]
    constants: Mapping[str, Value]
    hints: Mapping[str, Value]
    outputs: list[str]
    free: frozenset[str]


class InnerScope(Scope):
    """Names of a subgraph; one that it lacks is captured from the scope around it, once."""

    def __init__(self, outer: Scope, capture: Callable[[Value], Value]) -> None:
        super().__init__()
        self.outer = outer
        self._capture = capture

    def __missing__(self, name: str) -> Value | None:
        value = self.outer[name]  # an InnerScope captures it in turn
        self[name] = None if value is None else self._capture(value)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.outer

    def local(self, name: str) -> bool:
        """True when the subgraph has the name itself."""
        return super().__contains__(name)


@dataclass
class Captures:
    """What the subgraphs of one node read of the scope around it, in the order first met."""

    fresh: Callable[[str], str]
    outer: dict[Value, None] = field(default_factory=dict)
    _inner: list[dict[Value, Value]] = field(default_factory=list)

    def scope(self, outer: Scope) -> InnerScope:
        """The scope of the next subgraph."""
        inner: dict[Value, Value] = {}
        self._inner.append(inner)

        def capture(value: Value) -> Value:
            twin = Value(
                self.fresh(value.name), value.dtype, value.shape, value.data,
                container=value.container,
            )  # fmt: skip
            if value.data is None:
                inner[value] = twin
                self.outer[value] = None
            return twin

        return InnerScope(outer, capture)

    def attach(self, node: Node, graphs: Mapping[str, Graph]) -> None:
        """Make `graphs`, whose scopes were asked for in this order, attributes of `node`."""
        node.inputs += self.outer
        node.captures = len(self.outer)
        for (name, graph), inner in zip(graphs.items(), self._inner, strict=True):
            for value in self.outer:
                graph.inputs.append(inner.get(value) or Value(self.fresh(value.name)))
            node.attrs[name] = graph
