"""DynamicQuantize reads no tensor for its range where the operator in front can say it.

q, scale, zero_point = DynamicQuantize(Conv(x)) = DynamicQuantize(y, range) with y, range = Conv(x):
a product, or a chain, that finds the extremes of its float outputs while it writes them. Where
nothing else reads y, and it is clipped from 0 to a number, the product makes the codes itself
(`highest`, docs/machine.md "Products"): q, scale, zero_point = Conv(x). That may take its sums
twice, so they must be short, of weights without a zero point, and the floats many.
"""

from __future__ import annotations

import math

import numpy as np

from qrt.ir import Graph, Node, Value
from qrt.ops.matrices import stack
from qrt.ops.product import RANGES

LONGEST = 64  # terms of a sum; 4 bytes written and read again cost as much as taking it twice
SPILLS = 512 << 10  # bytes of floats that are not in L2 any more when they are read again
QUANTIZERS = (("", "DynamicQuantizeLinear"), ("qrt", "DynamicQuantize"))
FINDERS = ("Conv", "MatMul", "Chain")
NO_LIMITS = {"low": np.float32(-np.inf), "high": np.float32(np.inf)}


def share_ranges(graph: Graph) -> Graph:
    """Join DynamicQuantize, or the search for its range, to what is in front of it."""
    producers, consumers = graph.producers(), graph.consumers()
    outputs = set(graph.outputs)
    gone: set[Node] = set()
    for node in graph.nodes:
        if (node.domain, node.op) not in QUANTIZERS:
            continue
        x = node.required(0)
        made_by = producers.get(x)
        if made_by is None or len(node.inputs) > 1 or not _finds_range(made_by):
            continue
        alone = x not in outputs and len(consumers[x]) == 1
        highest = node.attrs.get("high", np.inf)
        if alone and node.attrs.get("low") == 0 and 0 < highest < np.inf and _is_short(made_by):
            made_by.attrs["highest"] = np.float32(highest)
            made_by.outputs = list(node.outputs)
            made_by.origin = (*made_by.origin, *node.origin)
            gone.add(node)
            continue
        if not made_by.attrs.get("ranged", False):
            made_by.attrs["ranged"] = True
            shape, dtype = RANGES
            made_by.outputs.append(Value(f"{x.name}/range", dtype, shape))
        node.op, node.domain, node.version = "DynamicQuantize", "qrt", 1
        node.onnx_op = node.onnx_op or "DynamicQuantizeLinear"
        node.attrs = NO_LIMITS | node.attrs
        node.inputs = [x, made_by.outputs[1]]
    graph.nodes = [n for n in graph.nodes if n not in gone]
    return graph


def _finds_range(node: Node) -> bool:
    """True for one product, or a chain, with a float32 result."""
    if node.domain != "qrt" or node.op not in FINDERS or "highest" in node.attrs:
        return False
    y = node.outputs[0]
    if y.dtype != np.float32 or not y.nbytes:
        return False
    if node.op != "MatMul":
        return True
    jobs = stack(node.required(0), node.required(1), y).jobs
    return sum(job.groups for job in jobs) == 1


def _is_short(node: Node) -> bool:
    """True where taking the sums again costs little more than floats in memory would.

    Weights with a zero point take sums of x as well, or wider ones: MobileNetV2 with such weights,
    whose clips are seldom reached, took 4.2 ms in place of 3.5 (Zen 4).
    """
    w = node.required(1)
    if node.op != "Conv" or np.any(node.attrs.get("w_zero_point", 0)):
        return False
    return math.prod(w.static_shape[1:]) <= LONGEST and node.outputs[0].nbytes >= SPILLS
