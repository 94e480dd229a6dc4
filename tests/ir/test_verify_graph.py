"""verify_graph finds each way a pass can break a graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qrt.ir.graph import Graph, Node, Value
from qrt.ir.verify import verify_graph


def small() -> Graph:
    x, m, y = (Value(n, np.dtype(np.float32), (2, 3)) for n in "xmy")
    w = Value("w", np.dtype(np.float32), (3,), np.zeros(3, np.float32))
    return Graph([Node("Add", [x, w], [m]), Node("Clip", [m, None, w], [y])], [x], [y])


def test_good() -> None:
    graph = small()
    verify_graph(graph)
    verify_graph(graph.copy())
    graph.nodes[0].outputs += [Value(""), Value("")]
    verify_graph(graph)


def swap(g: Graph) -> None:
    g.nodes.reverse()


def unknown(g: Graph) -> None:
    g.nodes[0].inputs[1] = Value("q")


def twice(g: Graph) -> None:
    g.nodes.append(Node("Relu", [g.inputs[0]], [g.outputs[0]]))


def same_node(g: Graph) -> None:
    g.nodes.append(g.nodes[0])


def same_name(g: Graph) -> None:
    g.nodes[0].outputs.append(Value("y"))


def write_constant(g: Graph) -> None:
    g.nodes[0].outputs.append(g.nodes[0].required(1))


def write_input(g: Graph) -> None:
    g.nodes[0].outputs.append(g.inputs[0])


def constant_input(g: Graph) -> None:
    g.inputs.append(g.nodes[0].required(1))


def input_twice(g: Graph) -> None:
    g.inputs.append(g.inputs[0])


def lost_output(g: Graph) -> None:
    g.nodes.pop()


def no_outputs(g: Graph) -> None:
    g.outputs.clear()


def node_without_outputs(g: Graph) -> None:
    g.nodes.append(Node("Relu", [g.inputs[0]], []))


def nameless_output(g: Graph) -> None:
    g.outputs[0].name = ""


def other_dtype(g: Graph) -> None:
    g.nodes[0].required(1).dtype = np.dtype(np.int8)


def other_shape(g: Graph) -> None:
    g.nodes[0].required(1).shape = (4,)


def bad_layout(g: Graph) -> None:
    g.nodes[0].outputs[0].layout = (0, 0)


def short_layout(g: Graph) -> None:
    g.nodes[0].outputs[0].layout = (0,)


BREAKS: dict[Callable[[Graph], None], str] = {
    swap: "Clip: input 0, .*m.*, is not a constant, an input of the graph or an output of an ear",
    unknown: "Add: input 1, .*q.*, is not a constant",
    twice: "written twice",
    same_node: "in the graph twice",
    same_name: "two values have the name 'y'",
    write_constant: "is a constant",
    write_input: "written twice",
    constant_input: "input .*w.* is a constant",
    input_twice: "listed twice",
    lost_output: "output .*y.* is not a constant, an input or the output of a node",
    no_outputs: "no outputs",
    node_without_outputs: "Relu: has no outputs",
    nameless_output: "no name",
    other_dtype: "elements of float32",
    other_shape: r"elements of shape \[3\]",
    bad_layout: "not an order",
    short_layout: "not an order",
}


@pytest.mark.parametrize("change", BREAKS, ids=lambda f: f.__name__)
def test_broken(change: Callable[[Graph], None]) -> None:
    graph = small()
    change(graph)
    with pytest.raises(AssertionError, match=BREAKS[change]):
        verify_graph(graph)
