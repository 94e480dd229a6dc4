"""How a session gets the machine graph for given input shapes."""

from __future__ import annotations

from collections.abc import Mapping
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
    optimized per value.
    """

    def __init__(self, loaded: Graph, features: frozenset[str]) -> None:
        from qrt import passes

        self._passes = passes
        self._features = features
        self.fixed_inputs = frozenset(passes.specialised_inputs(loaded))
        self.graph = loaded if self.fixed_inputs else passes.optimize(loaded, features)

    def specialize(
        self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Array]
    ) -> Graph:
        """See `Recipe`."""
        graph = self.graph
        if self.fixed_inputs:
            bound = self._passes.bind_values(graph, values)
            graph = self._passes.optimize(bound, self._features)
        return self._passes.specialize(graph, shapes)
