"""Constant folding: a node whose inputs are all constant becomes its outputs.

DequantizeLinear and QuantizeLinear are left to recognition, which wants the integers of a weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from qrt.ir import Graph, Node, Value
from qrt.passes.arithmetic import evaluate
from qrt.quant.affine import Array

# left to recognition; an Identity left at this point writes a graph output
MAX_ZEROS = 4096  # elements of a product by zero that becomes a constant
KEPT = ("DequantizeLinear", "Identity", "QuantizeLinear")


def fold_constants(graph: Graph) -> Graph:
    """op(constants) = constants; Shape of a value whose shape is known is one too."""
    kept: list[Node] = []
    outputs = set(graph.outputs)
    for node in graph.nodes:
        arrays = folded(node)
        if arrays is None:
            kept.append(node)
            continue
        kept.extend(set_constants(node, arrays, outputs))
    graph.nodes = kept
    return graph


def set_constants(node: Node, arrays: list[Array], outputs: set[Value]) -> list[Node]:
    """Make the outputs of `node` constants; one that is a graph output is written by an Identity,
    which is returned."""
    writers = []
    for value, array in zip(node.outputs, arrays, strict=False):
        value.dtype, value.shape = array.dtype, array.shape
        if value in outputs:
            source = Value(f"{value.name}/constant", array.dtype, array.shape, array)
            writers.append(Node("Identity", [source], [value], version=13, index=node.index))
        else:
            value.data = array
    return writers


def folded(node: Node) -> list[Array] | None:
    """The outputs of `node`, where they are known before the first run."""
    if node.domain == "" and node.op in ("Shape", "Size"):
        return _shape(node)
    if not node.inputs or node.op in KEPT:
        return None
    if (node.domain, node.op) == ("", "Mul"):
        zeros = _times_zero(node)
        if zeros is not None:
            return zeros
    if any(v is not None and v.data is None for v in node.inputs):
        return None
    return evaluate(node, [None if v is None else v.data for v in node.inputs])


def _shape(node: Node) -> list[Array] | None:
    """Shape (its start and end since opset 15) and Size."""
    shape = node.required(0).shape
    if shape is None:
        return None
    part = shape[slice(int(node.attrs.get("start", 0)), node.attrs.get("end"))]
    if not all(isinstance(d, int) for d in part):
        return None
    sizes = np.array(part, np.int64)
    return [sizes if node.op == "Shape" else np.array(np.prod(sizes), np.int64)]


def _times_zero(node: Node) -> list[Array] | None:
    """x * 0 = 0 in integers: how exporters keep an input that nothing needs."""
    values = [value for value in node.inputs if value is not None]
    zero = next((v.data for v in values if v.data is not None and not v.data.any()), None)
    if zero is None or zero.dtype.kind not in "iu":
        return None
    if any(v.shape is None or not all(isinstance(d, int) for d in v.shape) for v in values):
        return None
    try:
        shape = np.broadcast_shapes(*(v.static_shape for v in values))
    except ValueError:
        return None  # `infer` says so
    return [np.zeros(shape, zero.dtype)] if math.prod(shape) <= MAX_ZEROS else None


def bind_values(graph: Graph, values: Mapping[str, Array]) -> Graph:
    """A copy in which the inputs named in `values` are constants; see `specialised_inputs`."""
    graph = graph.copy()
    for value in graph.inputs:
        if value.name in values:
            array = np.ascontiguousarray(values[value.name]).reshape(np.shape(values[value.name]))
            value.data, value.dtype, value.shape = array, array.dtype, array.shape
    graph.inputs = [v for v in graph.inputs if v.data is None]
    return graph
