"""How a session gets the machine graph for given input shapes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from qrt.ir import Graph

Array = np.ndarray[Any, Any]


class Recipe(Protocol):
    """A model that can be made concrete; `graph` names its inputs and outputs."""

    graph: Graph
    fixed_inputs: frozenset[str]

    def specialize(
        self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Array]
    ) -> Graph:
        """The machine graph for these input shapes and the values of `fixed_inputs`."""
        ...


class ModelRecipe:
    """The passes over a loaded graph: those that need no shapes run once, the others per shape.

    `fixed_inputs` are inputs whose values must be known before rows can be made (scales, zero
    points, weights, shapes given as inputs, as in ONNX's own tests); a model that has some is
    optimized per value, but for those that only the passes over shapes read (`late_inputs`).
    """

    def __init__(
        self, loaded: Graph, features: frozenset[str], fixed: Iterable[str] | None = None
    ) -> None:
        from qrt import passes

        self._passes = passes
        self._features = features
        self.fixed_inputs = frozenset(passes.specialised_inputs(loaded) if fixed is None else fixed)
        self._late = passes.late_inputs(loaded, self.fixed_inputs) == self.fixed_inputs
        self.graph = passes.optimize(loaded, features) if self._late else loaded

    def specialize(
        self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Array]
    ) -> Graph:
        """See `Recipe`."""
        graph = self.graph
        if self.fixed_inputs:
            graph = self._passes.bind_values(graph, values)
        if not self._late:
            graph = self._passes.optimize(graph, self._features)
        return self._passes.specialize(graph, shapes)


class OpenRecipe:
    """A graph whose inputs have the dtypes and ranks that a run gives them.

    `of` makes a recipe for some, once; they share the graph's constants.
    """

    def __init__(self, graph: Graph, features: frozenset[str], fixed: frozenset[str]) -> None:
        self.graph = graph
        self.fixed_inputs = fixed
        self._features = features
        self._closed: dict[Hashable, ModelRecipe] = {}

    def of(self, arrays: Mapping[str, Array]) -> ModelRecipe:
        """The recipe for arrays of these dtypes and ranks, by input."""
        key = tuple((array.dtype, array.ndim) for array in arrays.values())
        recipe = self._closed.get(key)
        if recipe is None:
            graph = self.graph.copy()
            for value in graph.inputs:
                array = arrays[value.name]
                value.dtype, value.shape = array.dtype, (None,) * array.ndim
            recipe = self._closed[key] = ModelRecipe(graph, self._features, self.fixed_inputs)
        return recipe
