"""Static shapes: input shapes are bound, every other shape and dtype follows, in one walk.

A node whose outputs are then known (Shape, and the arithmetic it feeds) is folded; a node that
means something else for this shape alone (`resolve`) is rewritten on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from qrt.errors import (
    InputError,
    MemoryLimitError,
    ModelError,
    OpenShapeError,
    QrtError,
    UnsupportedError,
    at_node,
)
from qrt.ir import Graph, Node, Value
from qrt.ir.domains import ONNX_DOMAINS
from qrt.ops import OPS, host
from qrt.ops.growth import GROWING, LIMIT, check_growth
from qrt.ops.one_node import Result
from qrt.passes.fold import folded, set_constants
from qrt.passes.inline import decided, inlined, is_decided
from qrt.passes.resolve import resolve
from qrt.quant.affine import Array

Optimize = Callable[[Graph], Graph]


def bind_shapes(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]], optimize: Optimize
) -> Graph:
    """Every value of the graph gets a static shape and a dtype; `graph` is changed.

    `optimize` makes the machine form of a subgraph, once the types of what it reads are known.
    """
    for value in graph.inputs:
        if value.name not in shapes:
            raise InputError(f"a shape is needed for input '{value.name}', none was given")
        value.shape = tuple(int(d) for d in shapes[value.name])
    kept: list[Node] = []
    outputs = set(graph.outputs)
    for original in graph.nodes:
        try:
            for chosen in _chosen(original, optimize):
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


def _chosen(node: Node, optimize: Optimize) -> Iterator[Node]:
    """`node`; the nodes of the branch that its condition, known by now, chooses; a Branch where
    that is not known."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if not node.subgraphs or (node.domain, node.op) == ("qrt", "Branch"):
            yield node
            continue
        for name, inner in node.subgraphs.items():
            node.attrs[name] = _typed(node, inner)
        if is_decided(node):
            name = decided(node)
            node.attrs[name] = optimize(node.attrs[name])
            waiting += reversed(inlined(node))
        else:
            yield _branch(node, optimize)


def _typed(node: Node, inner: Graph) -> Graph:
    """A subgraph whose captures have the types and shapes of what `node` reads."""
    inner = inner.copy()
    first = len(node.inputs) - node.captures
    for value, outer in zip(inner.inputs[-node.captures :], node.inputs[first:], strict=False):
        if outer is not None:
            value.dtype, value.shape = outer.dtype, outer.shape
    return inner


def _branch(node: Node, optimize: Optimize) -> Node:
    """qrt.Branch for an If: both subgraphs in machine form, their shapes bound, constants captured
    being theirs. Raises OpenShapeError where one of them cannot be part of a program."""
    output = next((value.name for value in node.outputs if value.name), "")
    captured = node.inputs[1:]
    if node.op != "If" or len(captured) != node.captures:
        raise OpenShapeError(f"{node.where}: shapes do not decide it", output)
    shapes = {i: v.static_shape for i, v in enumerate(captured) if v is not None}
    open_ = [i for i, v in enumerate(captured) if v is not None and not v.is_constant]
    graphs = {}
    for name, inner in node.subgraphs.items():
        if len(inner.inputs) != len(captured) or len(inner.outputs) != len(node.outputs):
            raise OpenShapeError(f"{node.where}: {name} does not fit it", output)
        for value, outer in zip(inner.inputs, captured, strict=True):
            value.data = None if outer is None else outer.data
        places = {inner.inputs[i].name: shapes[i] for i in open_}
        inner.inputs = [inner.inputs[i] for i in open_]
        try:
            graphs[name] = bind_shapes(optimize(inner), places, optimize)
        except QrtError as error:  # of a branch that may never be chosen
            raise OpenShapeError(f"{name}: {error}", output) from error
    read = [node.inputs[0], *(captured[i] for i in open_)]
    branch = Node(
        "Branch", read, node.outputs, dict(graphs), "qrt", node.name, node.index, 1,
        node.origin, node.why, node.onnx_op or node.op, len(open_),
    )  # fmt: skip
    spec = OPS["qrt", "Branch"]
    try:
        spec.infer(branch)
    except UnsupportedError as error:
        raise OpenShapeError(str(error), output) from error
    return branch


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
