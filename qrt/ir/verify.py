"""verify_graph: the rules that every pass must leave intact; a failure is a bug of ours."""

from __future__ import annotations

from qrt.ir.graph import Deferred, Graph, Node, Value


def verify_graph(graph: Graph) -> None:
    """Raise AssertionError unless the graph is in SSA form, in order, and complete.

    Every input of a node is a constant, a graph input or an earlier output; every value is written
    once; one name is one Value; what a Value says about itself is consistent.
    """
    ready: set[Value] = set()
    names: dict[str, Value] = {}
    for value in graph.inputs:
        _require(not value.is_constant, f"input {value} is a constant")
        _require(value not in ready, f"input {value} is listed twice")
        _check_value(value, names, "an input")
        ready.add(value)
    seen: set[Node] = set()
    for node in graph.nodes:
        _require(node not in seen, f"{node.where}: is in the graph twice")
        seen.add(node)
        for i, read in enumerate(node.inputs):
            if read is None:
                continue
            _check_value(read, names, node.where)
            _require(
                read.is_constant or read in ready,
                f"{node.where}: input {i}, {read}, is not a constant, an input of the graph"
                " or an output of an earlier node",
            )
        _require(bool(node.outputs), f"{node.where}: has no outputs")
        for i, written in enumerate(node.outputs):
            _check_value(written, names, node.where)
            _require(not written.is_constant, f"{node.where}: output {i}, {written}, is a constant")
            _require(written not in ready, f"{node.where}: output {i}, {written}, is written twice")
            ready.add(written)
        for name, inner in node.subgraphs.items():
            _require(
                node.captures <= min(len(inner.inputs), len(node.inputs)),
                f"{node.where}: {name} captures {node.captures} values, has fewer inputs",
            )
            verify_graph(inner)
    _require(bool(graph.outputs), "the graph has no outputs")
    for value in graph.outputs:
        _check_value(value, names, "an output")
        _require(bool(value.name), "an output of the graph has no name")
        _require(
            value.is_constant or value in ready,
            f"output {value} is not a constant, an input or the output of a node",
        )


def _check_value(value: Value, names: dict[str, Value], where: str) -> None:
    """One Value by itself, and against the others of its name."""
    if value.name:
        other = names.setdefault(value.name, value)
        _require(other is value, f"{where}: two values have the name '{value.name}'")
    if value.layout is not None:
        rank = len(value.layout)
        _require(
            sorted(value.layout) == list(range(rank))
            and (value.shape is None or len(value.shape) == rank),
            f"{where}: layout {value.layout} of {value} is not an order of its axes",
        )
    if not isinstance(value, Deferred) and value.data is not None:
        _require(
            value.dtype == value.data.dtype,
            f"{where}: {value} has elements of {value.data.dtype}",
        )
        _require(
            value.shape is not None and tuple(value.shape) == value.data.shape,
            f"{where}: {value} has elements of shape {list(value.data.shape)}",
        )


def _require(rule: bool, message: str) -> None:
    # not `assert`: tests rely on it under -O too
    if not rule:
        raise AssertionError(message)
