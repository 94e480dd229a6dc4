"""Stages: a graph cut where only a run can tell the shapes, or where values are no tensors.

A program has static shapes. A node ends a stage when its output shape depends on data, when it runs
subgraphs, or when it reads or writes sequences, optionals or strings; it runs by itself, in Python,
and the nodes after it are planned when their shapes are known. Each other node goes into the
earliest stage that may have it, so there are as few stages as possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qrt.ir import Graph, Node, Value
from qrt.ops.host import DATA_DEPENDENT
from qrt.passes.containers import infer_containers
from qrt.passes.dead import remove_dead
from qrt.passes.fold import fold_constants
from qrt.passes.identities import drop_identities
from qrt.passes.inline import inline_branches
from qrt.passes.values import (
    NONE,
    Roots,
    is_planned,
    open_shape,
    parameters,
    wanted_captures,
    wanted_inputs,
)


@dataclass(frozen=True, eq=False)
class TensorStage:
    """Nodes that become a program per input shape, and per value of the inputs in `fixed`."""

    graph: Graph
    fixed: frozenset[str]


@dataclass(frozen=True, eq=False)
class SingleNode:
    """A node that runs by itself. `fixed`: which of its inputs are known when shapes are."""

    node: Node
    why: str
    fixed: frozenset[Value]


Stage = TensorStage | SingleNode


@dataclass(frozen=True)
class Learned:
    """What runs have shown: nodes that end a stage, by their first output, and why; values that
    are no tensors of numbers."""

    nodes: Mapping[str, str]
    values: frozenset[str] = frozenset()


NOTHING = Learned({})


def prepare_stages(graph: Graph) -> Graph:
    """A graph of its own, simplified as far as that decides about stages."""
    graph = graph.copy()
    for rewrite in (fold_constants, inline_branches, drop_identities, fold_constants, remove_dead):
        graph = rewrite(graph)
    return infer_containers(graph)


def plan_stages(
    graph: Graph, known: Iterable[Value], learned: Learned = NOTHING
) -> list[Stage]:
    """The stages of a prepared graph, in order; `known` are inputs that a program may be made for.

    Values are shared with `graph`. Constants, and inputs that are outputs, are in no stage.
    """
    roots = parameters(graph, known)
    after: dict[Value, int] = {}  # the first stage that may read it
    beside: dict[Value, int] = {}  # the first stage whose single nodes may read it
    tensors: dict[int, list[Node]] = {}
    singles: dict[int, list[SingleNode]] = {}
    for node in graph.nodes:
        inputs = [v for v in node.inputs if v is not None]
        why = _ends_stage(node, roots, learned)
        if why:
            i = max((beside.get(v, 0) for v in inputs), default=0)
            fixed = frozenset(v for v in inputs if v in roots)
            singles.setdefault(i, []).append(SingleNode(node, why, fixed))
            after.update(dict.fromkeys(node.outputs, i + 1))
        else:
            i = max((after.get(v, 0) for v in inputs), default=0)
            tensors.setdefault(i, []).append(node)
            after.update(dict.fromkeys(node.outputs, i))
        beside.update(dict.fromkeys(node.outputs, i))
    stages: list[Stage] = []
    readers = graph.consumers()
    for i in range(max((*tensors, *singles), default=-1) + 1):
        if i in tensors:
            stages.append(_tensor_stage(graph, tensors[i], roots, readers))
        stages += singles.get(i, ())
    if not singles and all(v.is_numeric for v in (*graph.inputs, *graph.outputs)):
        # the graph itself: its inputs may be unread, or outputs
        return [TensorStage(graph, frozenset(wanted_inputs(graph, roots)))]
    return stages


def _tensor_stage(
    graph: Graph, nodes: list[Node], roots: Roots, readers: Mapping[Value, list[Node]]
) -> TensorStage:
    """A graph of `nodes`: its inputs are what they read of others, its outputs what others read."""
    mine = set(nodes)
    made = {value for node in nodes for value in node.outputs}
    read = {
        value: None
        for node in nodes
        for value in node.inputs
        if value is not None and value not in made and not value.is_constant
    }
    results = set(graph.outputs)
    outputs = [
        value
        for node in nodes
        for value in node.outputs
        if value in results or any(reader not in mine for reader in readers.get(value, ()))
    ]
    stage = Graph(nodes, list(read), outputs, graph.opsets, graph.name, graph.overridable)
    # what a program may be made for by value: parameters of the whole, and what they are made of
    inner = parameters(stage, [value for value in read if value in roots])
    return TensorStage(stage, frozenset(wanted_inputs(stage, inner)))


def _is_planned(node: Node, roots: Roots) -> bool:
    """True for an If that may be part of a program: `bind_shapes` puts the branch that shapes
    choose in its place, else both as a qrt.Branch."""
    if node.op != "If" or node.domain or not all(map(is_planned, node.subgraphs.values())):
        return False
    return roots.get(node.required(0)) == NONE or all(
        value.is_constant or roots.get(value) == NONE for value in wanted_captures(node)
    )


def _ends_stage(node: Node, roots: Roots, learned: Learned) -> str:
    """Why `node` runs by itself; empty where it is part of a program."""
    if node.subgraphs and not _is_planned(node, roots):
        return "it runs subgraphs"
    name = next((value.name for value in node.outputs if value.name), "")
    if name in learned.nodes:
        return learned.nodes[name]
    for what, values in (("input", node.inputs), ("output", node.outputs)):
        for i, value in enumerate(values):
            if value is None or (value.is_numeric and value.name not in learned.values):
                continue
            kind = value.container or ("tensor(string)" if value.dtype is not None else "no tensor")
            return f"{what} {i} is {kind}"
    known = all(v is None or v.is_constant or roots.get(v) == NONE for v in node.inputs)
    if node.domain == "" and node.op in DATA_DEPENDENT and not known:
        return "the shape of its output depends on the elements of its inputs"
    value = open_shape(node, roots)
    if value is not None:
        return f"the shape of its output is in {value.name!r}, which is computed from data"
    return ""
