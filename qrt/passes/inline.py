"""If with a constant condition = the nodes of the branch that it takes."""

from __future__ import annotations

from qrt.ir import Graph, Node, Value


def inline_branches(graph: Graph) -> Graph:
    """Replace each If whose condition is constant by its branch; `graph` is changed.

    The names of a subgraph's values are unique in the whole model, so they stay as they are.
    """
    for node in graph.nodes:
        for inner in node.subgraphs.values():
            inline_branches(inner)
    graph.nodes = [new for node in graph.nodes for new in inlined(node)]
    return graph


def is_decided(node: Node) -> bool:
    """True for an If whose condition is known."""
    condition = node.inputs[0] if node.op == "If" and node.domain == "" else None
    return condition is not None and condition.data is not None and condition.data.size == 1


def decided(node: Node) -> str:
    """The attribute that holds the branch taken."""
    condition = node.required(0)
    assert condition.data is not None
    return "then_branch" if condition.data.item() else "else_branch"


def inlined(node: Node) -> list[Node]:
    """The nodes that stand for `node`: those of a branch where it is an If that is decided."""
    if not is_decided(node):
        return [node]
    branch: Graph = node.attrs[decided(node)]
    first = len(node.inputs) - node.captures
    given = node.inputs[first:]
    if len(branch.inputs) != len(given) or len(branch.outputs) != len(node.outputs):
        return [node]  # it breaks a rule of If, which its run will say
    new: dict[Value, Value] = {
        inner: outer for inner, outer in zip(branch.inputs, given, strict=True) if outer is not None
    }
    made = {value for inner in branch.nodes for value in inner.outputs}
    results: dict[Value, Value] = {}
    nodes = list(branch.nodes)
    for inner, outer in zip(branch.outputs, node.outputs, strict=True):
        if inner in made and inner not in results:
            results[inner] = outer
        else:
            source = new.get(inner) or results.get(inner) or inner
            nodes.append(Node("Identity", [source], [outer], version=13, index=node.index))
    new.update(results)
    for inner_node in branch.nodes:
        inner_node.inputs = [None if v is None else new.get(v, v) for v in inner_node.inputs]
        inner_node.outputs = [new.get(v, v) for v in inner_node.outputs]
    return nodes
