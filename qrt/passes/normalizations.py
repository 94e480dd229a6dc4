"""LayerNormalization and RMSNormalization from their parts; shapes are bound.

With d = x - mean(x): d / sqrt(mean(d**2) + epsilon) * scale + bias = LayerNormalization(x);
x / sqrt(mean(x**2) + epsilon) * scale = RMSNormalization(x). Means are over the last axes; scale
and bias are constants of their shape, or missing. 1 / sqrt is Div, Reciprocal or Pow.
"""

from __future__ import annotations

import math

import numpy as np

from qrt.ir import Graph, Node, Value
from qrt.ops.float_reduce import parse as reduced_axes
from qrt.passes.parts import Parts, origins, scalar

F32 = np.dtype(np.float32)
VERSIONS = {"LayerNormalization": 17, "RMSNormalization": 23}


def fuse_normalizations(graph: Graph) -> Graph:
    """Replace every one whose parts nothing else reads; `graph` is changed."""
    parts = Parts(graph)
    found: dict[Node, tuple[set[Node], Node]] = {}
    for node in graph.nodes:
        core = _core(parts, node)
        if core is None:
            continue
        x, axis, epsilon, centers, members = core
        shape = x.static_shape[axis:]
        last, scale = _affine(parts, node, "Mul", shape, members)
        bias = None
        if centers:
            last, bias = _affine(parts, last, "Add", shape, members)
        if not parts.apart(members, last):
            continue
        op = "LayerNormalization" if centers else "RMSNormalization"
        name = last.outputs[0].name
        if scale is None:
            scale = Value(f"{name}/ones", F32, shape, np.ones(shape, np.float32))
        inputs: list[Value | None] = [x, scale] if bias is None else [x, scale, bias]
        found[last] = (
            members,
            Node(
                op, inputs, last.outputs, {"axis": axis, "epsilon": epsilon}, "", last.name,
                last.index, VERSIONS[op], origins(members, graph),
            ),
        )  # fmt: skip
    return parts.replace(found)


def _core(parts: Parts, node: Node) -> tuple[Value, int, float, bool, set[Node]] | None:
    """(x, first axis, epsilon, whether it centers, parts) of d / sqrt(mean(d**2) + epsilon)."""
    if node.domain or node.op not in ("Div", "Mul"):
        return None
    rank = len(node.outputs[0].static_shape)
    for d, inverse in _quotients(parts, node, rank):
        members = {node, *inverse}
        plus = parts.maker(inverse[-1].required(0), "Add")
        if plus is None:
            continue
        for variance, other in ((0, 1), (1, 0)):
            epsilon = scalar(plus.required(other), rank)
            mean = parts.maker(plus.required(variance), "ReduceMean")
            square = None if mean is None else parts.maker(mean.required(0), "Mul", "Pow")
            if epsilon is None or mean is None or square is None or d.dtype != F32:
                continue
            axis = _last_axes(mean)
            base = square.required(0)
            if square.op == "Mul":
                squares = square.required(1) is base
            else:
                squares = scalar(square.required(1), rank) == 2
            if axis is None or not squares or not _equal(parts, base, d):
                continue
            members |= {plus, mean, square}
            centered = parts.maker(d, "Sub")
            average = None if centered is None else parts.maker(centered.required(1), "ReduceMean")
            if (
                centered is not None
                and average is not None
                and average.required(0) is centered.required(0)
                and _last_axes(average) == axis
            ):
                members |= {centered, average, parts.producers[base]}
                return centered.required(0), axis, epsilon, True, members
            return (d, axis, epsilon, False, members) if base is d else None
    return None


def _quotients(parts: Parts, node: Node, rank: int) -> list[tuple[Value, list[Node]]]:
    """(d, nodes of 1 / sqrt(v)) where `node` is their product; the last of them reads v."""
    found = []
    root = parts.maker(node.required(1), "Sqrt")
    if node.op == "Div":
        return [] if root is None else [(node.required(0), [root])]
    for i in (0, 1):
        inverse = parts.maker(node.required(i), "Reciprocal", "Div", "Pow")
        if inverse is None:
            continue
        d = node.required(1 - i)
        if inverse.op == "Pow":
            if scalar(inverse.required(1), rank) == -0.5:
                found.append((d, [inverse]))
            continue
        one = inverse.op == "Reciprocal" or scalar(inverse.required(0), rank) == 1
        root = parts.maker(inverse.required(len(inverse.inputs) - 1), "Sqrt")
        if one and root is not None:
            found.append((d, [inverse, root]))
    return found


def _equal(parts: Parts, a: Value, b: Value) -> bool:
    """True for one value, and for a difference that is computed twice."""
    one, other = parts.maker(a, "Sub"), parts.maker(b, "Sub")
    return a is b or (one is not None and other is not None and one.inputs == other.inputs)


def _last_axes(node: Node) -> int | None:
    """The first of the axes that a ReduceMean is over, where they are the last and stay."""
    rank = len(node.required(0).static_shape)
    axes, keepdims = reduced_axes(node)
    first = rank - len(axes)
    return first if keepdims and axes and sorted(axes) == list(range(first, rank)) else None


def _affine(
    parts: Parts, node: Node, op: str, shape: tuple[int, ...], members: set[Node]
) -> tuple[Node, Value | None]:
    """(the `op` of the result of `node` and a constant of `shape`, that constant), or as it was."""
    y = node.outputs[0]
    readers = parts.consumers.get(y, [])
    if len(readers) != 1 or y in parts.outputs or readers[0].domain or readers[0].op != op:
        return node, None
    reader = readers[0]
    for i in (0, 1):
        value, other = reader.required(i), reader.required(1 - i)
        if other is not y or value.data is None or value.dtype != F32:
            continue
        own = value.data.shape
        fits = own[-len(shape) :] == shape and math.prod(own) == math.prod(shape)
        if fits and len(own) <= len(y.static_shape):
            members.add(reader)
            flat = value.data.reshape(shape)
            return reader, Value(value.name, F32, shape, flat)
    return node, None
