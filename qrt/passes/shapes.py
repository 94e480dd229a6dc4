"""Static shapes: input shapes are bound, every other shape and dtype follows, in one walk.

A node whose outputs are then known (Shape, and the arithmetic it feeds) is folded; a node that
means something else for this shape alone (`resolve`) is rewritten on the way.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.errors import InputError, ModelError, QrtError, UnsupportedError, at_node
from qrt.ir import Graph, Node
from qrt.ops import OPS
from qrt.passes.fold import folded, set_constants
from qrt.passes.resolve import resolve


def bind_shapes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """Every value of the graph gets a static shape and a dtype; `graph` is changed."""
    for value in graph.inputs:
        if value.name not in shapes:
            raise InputError(f"a shape is needed for input '{value.name}', none was given")
        value.shape = tuple(int(d) for d in shapes[value.name])
    kept: list[Node] = []
    outputs = set(graph.outputs)
    for original in graph.nodes:
        for node in _resolved(original):
            arrays = folded(node)
            if arrays is None:
                _infer(graph, node)
                kept.append(node)
            else:
                kept.extend(set_constants(node, arrays, outputs))
    graph.nodes = kept
    return graph


def _resolved(node: Node) -> list[Node]:
    try:
        return resolve(node)
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
    except ValueError as error:  # NumPy's, of shapes that do not broadcast
        raise ModelError(f"{node.where}: {error}") from error
    for value, (shape, dtype) in zip(node.outputs, results, strict=False):
        value.shape = tuple(int(d) for d in shape)
        value.dtype = np.dtype(dtype)  # type: ignore[call-overload]
