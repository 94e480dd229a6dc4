"""A Lookup behind a product joins its epilogue: attribute `table`, after the clamp.

lookup(conv(x)) = conv(x) with table. A pass of its own, so that it can be left out where a kernel
does not look up on its way.
"""

from __future__ import annotations

import numpy as np

from qrt.ir import Graph, Node


def join_product_tables(graph: Graph) -> Graph:
    """For every Conv and MatMul (domain qrt) whose only reader is a Lookup to uint8."""
    producers, consumers = graph.producers(), graph.consumers()
    outputs = set(graph.outputs)
    gone: set[Node] = set()
    for node in graph.nodes:
        if node.op != "Lookup" or node.attrs["table"].dtype != np.uint8:
            continue
        x = node.required(0)
        product = producers.get(x)
        if product is None or product.domain != "qrt" or product.op not in ("Conv", "MatMul"):
            continue
        if x in outputs or len(consumers[x]) != 1 or product.attrs.get("table") is not None:
            continue
        product.attrs["table"] = node.attrs["table"]
        product.outputs = [node.outputs[0]]
        product.origin = (*product.origin, *node.origin)
        gone.add(node)
    graph.nodes = [n for n in graph.nodes if n not in gone]
    return graph
