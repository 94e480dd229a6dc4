"""Sessions over hand-made machine graphs, without loader and passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qrt.api import Session
from qrt.ir import Graph, Value
from qrt.simd.features import active_features
from tests.machine.graphs import OPS, constant, node, tensor

Array = np.ndarray[Any, Any]
Make = Callable[[Mapping[str, tuple[int, ...]], Mapping[str, Array]], Graph]


class HandMade:
    """A recipe from a function that makes the machine graph for given shapes and values."""

    def __init__(self, graph: Graph, make: Make, fixed: frozenset[str] = frozenset()) -> None:
        self.graph = graph
        self.fixed_inputs = fixed
        self.make = make
        self.calls = 0

    def specialize(
        self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Array]
    ) -> Graph:
        self.calls += 1
        return self.make(shapes, values)


def session_of(recipe: HandMade, **options: Any) -> Session:
    """A session with the test operators."""
    return Session(recipe, active_features(), ops=OPS, **options)


def sum_recipe(a: tuple[Any, ...], b: tuple[Any, ...], dtype: Any = np.float32) -> HandMade:
    """sum = a + b, twice = sum + sum, with inputs of these declared shapes."""
    outputs = [tensor("sum", a, dtype), tensor("twice", a, dtype)]
    declared = Graph([], [tensor("a", a, dtype), tensor("b", b, dtype)], outputs, name="sums")

    def make(shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Array]) -> Graph:
        left, right = tensor("a", shapes["a"], dtype), tensor("b", shapes["b"], dtype)
        total, twice = tensor("sum", left.shape, dtype), tensor("twice", left.shape, dtype)
        nodes = [node("Add", [left, right], total, 0), node("Add", [total, total], twice, 1)]
        return Graph(nodes, [left, right], [total, twice])

    return HandMade(declared, make)


def offset_recipe() -> HandMade:
    """out = x + offset, where the value of input `offset` is part of the program."""

    def declared(name: str) -> Value:
        return tensor(name, ("n",))

    graph = Graph([], [declared("x"), declared("offset")], [declared("out")])

    def make(shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Array]) -> Graph:
        x, out = tensor("x", shapes["x"]), tensor("out", shapes["x"])
        c = constant("offset", values["offset"].copy())
        return Graph([node("Add", [x, c], out)], [x], [out])

    return HandMade(graph, make, frozenset(("offset",)))
