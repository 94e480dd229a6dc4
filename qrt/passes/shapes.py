"""Static shapes: input shapes are bound, every other shape and dtype follows, in one walk.

A node whose outputs are then known (Shape, and the arithmetic it feeds) is folded; a node that
means something else for this shape alone (`resolve`) is rewritten on the way.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.errors import InputError, QrtError, UnsupportedError, at_node
from qrt.ir import Graph, Node, Value
from qrt.ops import OPS
from qrt.passes.fold import QUANTIZATION, folded
from qrt.passes.resolve import resolve
from qrt.quant.affine import Array


def bind_shapes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """Every value of the graph gets a static shape and a dtype; `graph` is changed."""
    for value in graph.inputs:
        if value.name not in shapes:
            raise InputError(f"a shape is needed for input '{value.name}', none was given")
        value.shape = tuple(int(d) for d in shapes[value.name])
    kept: list[Node] = []
    outputs = set(graph.outputs)
    for original in graph.nodes:
        for node in resolve(original):
            arrays = _folded(node)
            if arrays is None:
                _infer(graph, node)
                kept.append(node)
                continue
            for value, array in zip(node.outputs, arrays, strict=True):
                value.dtype, value.shape = array.dtype, array.shape
                if value in outputs:
                    source = Value(f"{value.name}/constant", array.dtype, array.shape, array)
                    kept.append(Node("Identity", [source], [value], version=13, index=node.index))
                else:
                    value.data = array
    graph.nodes = kept
    return graph


def _folded(node: Node) -> list[Array] | None:
    """The node's outputs, where they no longer depend on the inputs' elements."""
    arrays = folded(node)
    if arrays is not None or node.op in QUANTIZATION or not node.inputs:
        return arrays
    spec = OPS.get((node.domain, node.op))
    if spec is None or spec.reference is None or node.op == "Identity":
        return None
    if any(v is not None and v.data is None for v in node.inputs):
        return None
    try:
        spec.infer(node)
        return list(spec.reference(node, [None if v is None else v.data for v in node.inputs]))
    except QrtError as error:
        at_node(error, node.where)


def _infer(graph: Graph, node: Node) -> None:
    spec = OPS.get((node.domain, node.op))
    if spec is None:
        domain = node.domain or "ai.onnx"
        opset = graph.opsets.get(node.domain, node.version)
        raise UnsupportedError(
            f"{node.where}: operator {node.op} of domain {domain}, opset {opset},"
            f" is not supported{' (' + node.why + ')' if node.why else ''}"
        )
    try:
        results = spec.infer(node)
    except QrtError as error:
        at_node(error, node.where)
    for value, (shape, dtype) in zip(node.outputs, results, strict=False):
        value.shape = tuple(int(d) for d in shape)
        value.dtype = np.dtype(dtype)  # type: ignore[call-overload]
