"""What a specialised graph computes, node by node with each operator's NumPy reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from qrt.errors import UnsupportedError
from qrt.ir import Graph, Node
from qrt.ir.domains import is_host
from qrt.loader import load_graph
from qrt.ops import OPS
from qrt.ops.one_node import Evaluator
from qrt.passes import bind_values, optimize, specialised_inputs, specialize

Array = np.ndarray[Any, Any]


def machine_graph(model: onnx.ModelProto | str | bytes, inputs: Mapping[str, Array]) -> Graph:
    """The specialised graph of a model for these inputs; what must be known by value is bound."""
    graph = load_graph(model)
    names = specialised_inputs(graph)
    graph = bind_values(graph, {name: inputs[name] for name in names})
    return specialize(optimize(graph), {v.name: inputs[v.name].shape for v in graph.inputs})


def run(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name. Every result has the shape and dtype that the graph promises."""
    values: dict[int, Array] = {id(v): inputs[v.name] for v in graph.inputs}
    for node in graph.nodes:
        arrays = [None if v is None else values.get(id(v), v.data) for v in node.inputs]
        for value, array in zip(node.outputs, _outputs(node, arrays), strict=True):
            assert array.shape == value.static_shape, (node, array.shape)
            assert array.dtype == value.dtype, (node, array.dtype)
            values[id(value)] = array
    return {v.name: values[id(v)] for v in graph.outputs}


def _outputs(node: Node, arrays: Sequence[Array | None]) -> Sequence[Array]:
    if is_host(node):
        return [np.asarray(array) for array in Evaluator(node)(arrays)]
    reference = OPS[node.domain, node.op].reference
    if reference is None:
        raise UnsupportedError(f"{node.where} has no reference")
    return reference(node, arrays)
