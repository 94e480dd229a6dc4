"""Softmax takes up the scaling and the mask in front of it, and the Quantize behind it.

Q(softmax(x * c + m)) = MaskedSoftmax(x, m) of factor c, over the last axis; shapes are bound. c is
one number, x / c is x * float32(1 / c), and x * c + m is rounded once.
"""

from __future__ import annotations

import numpy as np

from qrt.ir import Graph, Node, Value
from qrt.ops.masked_softmax import nest_of
from qrt.passes.parts import Parts, origins

F32 = np.dtype(np.float32)


def mask_softmax(graph: Graph) -> Graph:
    """Replace each Softmax that has one of them, where nothing else reads what is between."""
    parts = Parts(graph)
    found: dict[Node, tuple[set[Node], Node]] = {}
    for node in graph.nodes:
        masked = _masked(parts, node)
        if masked is not None:
            found[masked[1]] = masked[0], masked[2]
    return parts.replace(found)


def _masked(parts: Parts, node: Node) -> tuple[set[Node], Node, Node] | None:
    """(parts, the last of them, what they are together) of a Softmax."""
    if node.op != "Softmax" or node.domain or node.outputs[0].dtype != F32:
        return None
    x = node.required(0)
    rank = len(x.static_shape)
    axis = node.attrs.get("axis", -1 if node.version >= 13 else 1)
    if rank == 0 or axis not in (-1, rank - 1):  # one out of range is the operator's to refuse
        return None
    members, bias, factor = {node}, None, 1.0
    add = parts.maker(x, "Add")
    if add is not None and parts.apart({add, node}, node):
        for i in (0, 1):
            scores, mask = add.required(i), add.required(1 - i)
            if scores.static_shape == x.static_shape and nest_of(x, mask) is not None:
                members.add(add)
                x, bias = scores, mask
                break
    scale = parts.maker(x, "Div", "Mul")
    if scale is not None and parts.apart({*members, scale}, node):
        for i in (0, 1) if scale.op == "Mul" else (1,):
            number, scores = scale.required(i), scale.required(1 - i)
            if _is_number(number) and scores.static_shape == x.static_shape:
                assert number.data is not None
                given = float(number.data.reshape(()))
                factor = given if scale.op == "Mul" else float(np.float32(1) / np.float32(given))
                members.add(scale)
                x = scores
                break
    last = node
    readers = parts.consumers.get(node.outputs[0], [])
    if len(readers) == 1 and (readers[0].domain, readers[0].op) == ("qrt", "Quantize"):
        qparams = readers[0].attrs["y"]
        narrow = readers[0].outputs[0].dtype == np.uint8
        if qparams.axis is None and narrow and parts.apart({node, readers[0]}, readers[0]):
            last = readers[0]
            members.add(last)
    if len(members) == 1 or nest_of(x, bias) is None:
        return None
    attrs = {"factor": np.float32(factor), "y": None if last is node else last.attrs["y"]}
    inputs: list[Value | None] = [x] if bias is None else [x, bias]
    fused = Node(
        "MaskedSoftmax", inputs, last.outputs, attrs, "qrt", node.name, node.index, 1,
        origins(members, parts.graph), node.why, node.op,
    )  # fmt: skip
    return members, last, fused


def _is_number(value: Value) -> bool:
    """True for one finite float32 other than 0 that is known now."""
    data = value.data
    if data is None or data.dtype != F32 or data.size != 1:
        return False
    with np.errstate(all="ignore"):
        return bool(np.isfinite(data).all() and np.isfinite(np.float32(1) / data).all())
