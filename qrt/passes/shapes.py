"""Static shapes: input shapes are bound, every other shape and dtype follows, in one walk.

A node whose outputs are then known (Shape, and the arithmetic it feeds) is folded; a node that
means something else for this shape alone (`resolve`) is rewritten on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from qrt.errors import InputError, MemoryLimitError, ModelError, QrtError, UnsupportedError, at_node
from qrt.ir import Graph, Node, Value
from qrt.ir.domains import ONNX_DOMAINS
from qrt.ops import OPS, host
from qrt.ops.growth import GROWING, LIMIT, check_growth
from qrt.ops.one_node import Result
from qrt.passes.fold import folded, set_constants
from qrt.passes.inline import inlined, is_decided
from qrt.passes.resolve import resolve
from qrt.quant.affine import Array


class OpenShapeError(UnsupportedError):
    """Only a run can tell the shape of a node's outputs; `output` is the name of one of them."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


def bind_shapes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """Every value of the graph gets a static shape and a dtype; `graph` is changed."""
    for value in graph.inputs:
        if value.name not in shapes:
            raise InputError(f"a shape is needed for input '{value.name}', none was given")
        value.shape = tuple(int(d) for d in shapes[value.name])
    kept: list[Node] = []
    outputs = set(graph.outputs)
    for original in graph.nodes:
        try:
            for chosen in _chosen(original):
                for node in _resolved(chosen):
                    arrays = folded(node)
                    if arrays is None:
                        arrays = _infer(graph, node)
                    if arrays is None:
                        kept.append(node)
                    else:
                        kept.extend(set_constants(node, arrays, outputs))
        except OpenShapeError as error:
            if original.subgraphs:  # its branch is no part of the graph that asks
                error.output = original.outputs[0].name
            raise
    graph.nodes = kept
    return graph


def _chosen(node: Node) -> Iterator[Node]:
    """`node`, or those of the branch that its condition, known by now, chooses."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if is_decided(node):
            waiting += reversed(inlined(node))
        elif node.subgraphs:
            raise OpenShapeError(f"{node.where}: shapes do not decide it", node.outputs[0].name)
        else:
            yield node


def _resolved(node: Node) -> list[Node]:
    try:
        return resolve(node)
    except QrtError as error:
        at_node(error, node.where)


def _infer(graph: Graph, node: Node) -> list[Array] | None:
    """Set shape and dtype of the outputs; the outputs, where a host operator's are known now."""
    arrays = None
    try:
        if node.op in GROWING:
            check_growth(node, [_elements(value) for value in node.inputs], None)
        results = _native(graph, node)
    except UnsupportedError as error:
        if node.domain not in ONNX_DOMAINS:
            at_node(error, node.where)
        results, arrays = _hosted(node, error)
    except QrtError as error:
        at_node(error, node.where)
    except ValueError as error:  # NumPy's, of shapes that do not broadcast
        raise ModelError(f"{node.where}: {error}") from error
    for value, (shape, dtype) in zip(node.outputs, results, strict=False):
        nbytes = math.prod(map(int, shape)) * np.dtype(dtype).itemsize  # type: ignore[call-overload]
        if nbytes > LIMIT:
            raise MemoryLimitError(f"{node.where}: its result needs {nbytes} bytes, of {LIMIT}")
        value.shape = tuple(int(d) for d in shape)
        value.dtype = np.dtype(dtype)  # type: ignore[call-overload]
    return arrays


def _elements(value: Value | None) -> Array | None:
    """The elements of a constant; for others zeros of their shape, which take no memory."""
    if value is None or value.data is not None:
        return None if value is None else value.data
    return np.broadcast_to(np.zeros((), value.dtype), value.static_shape)


def _native(graph: Graph, node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    spec = OPS.get((node.domain, node.op))
    if spec is not None:
        return spec.infer(node)
    domain = node.domain or "ai.onnx"
    opset = graph.opsets.get(node.domain, node.version)
    why = f" ({node.why})" if node.why else ""
    if node.domain not in ONNX_DOMAINS:
        raise UnsupportedError(
            f"operator {node.op} of domain {domain}, opset {opset}, is not supported{why}"
        )
    raise UnsupportedError("it has no native kernel")


def _hosted(node: Node, refusal: UnsupportedError) -> tuple[list[Result], list[Array] | None]:
    """Shapes and dtypes by ONNX itself, and the outputs when all inputs are constants."""
    try:
        results = host.infer(node)
        arrays = host.folded(node, results)
    except UnsupportedError as error:
        message = f"{node.where}: is not supported: {refusal}; {error}"
        names = [value.name for value in node.outputs if value.name]
        if not names or not host.has_function(node):
            raise UnsupportedError(message) from error
        raise OpenShapeError(message, names[0]) from error
    except QrtError as error:
        at_node(error, node.where)
    host.make_host(node, str(refusal))
    return results, arrays
