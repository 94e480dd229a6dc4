"""A change of memory order moves the fewest bytes: Copy goes before what widens.

copy(f(x)) = f(copy(x)) for element-wise f of one tensor; used where x has smaller elements than
f(x), as before a Dequantize at the end of a network. Layouts are chosen.
"""

from __future__ import annotations

from qrt.ir import Graph, Node

WIDENING = ("Dequantize", "Lookup")


def sink_copies(graph: Graph) -> Graph:
    """Swap Dequantize or Lookup with the Copy that alone reads it."""
    producers, consumers = graph.producers(), graph.consumers()
    outputs = set(graph.outputs)
    for i, copy in enumerate(graph.nodes):
        before = producers.get(copy.required(0)) if copy.op == "Copy" else None
        if before is None or before.domain != "qrt" or before.op not in WIDENING:
            continue
        x, y, out = before.required(0), before.outputs[0], copy.outputs[0]
        if y in outputs or len(consumers[y]) != 1 or x.is_constant or _itemsize(before) <= 1:
            continue
        # y takes the place of the copied x: the same elements as x, in the order of the output
        y.dtype, y.layout = x.dtype, out.layout
        copy.inputs, copy.outputs = [x], [y]
        before.inputs, before.outputs = [y], [out]
        at = graph.nodes.index(before)
        graph.nodes[at], graph.nodes[i] = copy, before
        consumers[x] = [copy if n is before else n for n in consumers[x]]
        producers[y], producers[out] = copy, before
    return graph


def _itemsize(node: Node) -> int:
    dtype = node.outputs[0].dtype
    assert dtype is not None
    return dtype.itemsize
