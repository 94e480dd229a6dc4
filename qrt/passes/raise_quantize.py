"""Quantize moves in front of what only moves elements: next to what made them, and fewer bytes.

Q(move(x)) = move(Q(x)) for one scale; shapes are bound.
"""

from __future__ import annotations

from qrt.ir import Graph, Node, Value

MOVES = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def raise_quantize(graph: Graph) -> Graph:
    """Swap each Quantize with the movements before it that nothing else reads."""
    producers, consumers = graph.producers(), graph.consumers()
    outputs = set(graph.outputs)
    position = {node: i for i, node in enumerate(graph.nodes)}

    def swap(move: Node, quantize: Node) -> None:
        x, moved, codes = move.required(0), move.outputs[0], quantize.outputs[0]
        early = Value(f"{codes.name}/early", codes.dtype, x.shape)
        quantize.inputs[0], quantize.outputs[0] = x, early
        move.inputs[0], move.outputs[0] = early, codes
        i, j = position[move], position[quantize]
        graph.nodes[i], graph.nodes[j] = quantize, move
        position[move], position[quantize] = j, i
        producers.update({early: quantize, codes: move})
        del producers[moved]
        consumers[early] = [move]
        consumers[x] = [quantize if n is move else n for n in consumers[x]]

    for quantize in list(graph.nodes):
        if (quantize.domain, quantize.op) != ("qrt", "Quantize"):
            continue
        if quantize.attrs["y"].axis is not None:
            continue
        while True:
            value = quantize.required(0)
            move = producers.get(value)
            if move is None or move.domain or move.op not in MOVES or value in outputs:
                break
            if len(consumers[value]) != 1 or move.required(0).is_constant:
                break
            swap(move, quantize)
    return graph
