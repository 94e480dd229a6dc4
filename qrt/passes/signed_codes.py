"""int8 results are quantized to int8 at once.

flip(Quantize(x, y)) = Quantize(x, signed(y)), where flip takes 128 from codes and signed(y) from
the zero point; so for Requantize. Codes are uint8 everywhere else: this is where they leave.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qrt.ir import Graph, Node, QParams
from qrt.quant.affine import S8, flip
from qrt.quant.tables import CODES

QUANTIZING = ("Quantize", "Requantize")


def quantize_signed(graph: Graph) -> Graph:
    """For every Lookup that flips what is quantized for it alone."""
    producers, consumers = graph.producers(), graph.consumers()
    outputs = set(graph.outputs)
    gone: set[Node] = set()
    for node in graph.nodes:
        if (node.domain, node.op) != ("qrt", "Lookup") or not _flips(node):
            continue
        x = node.required(0)
        source = producers.get(x)
        if source is None or source.domain != "qrt" or source.op not in QUANTIZING:
            continue
        if x in outputs or len(consumers[x]) != 1 or not source.attrs["y"].per_tensor:
            continue
        source.attrs["y"] = _signed(source.attrs["y"])
        for end in ("qmin", "qmax"):
            if end in source.attrs:
                source.attrs[end] -= 128
        source.outputs = [node.outputs[0]]
        source.origin = (*source.origin, *(o for o in node.origin if o not in source.origin))
        gone.add(node)
    graph.nodes = [n for n in graph.nodes if n not in gone]
    return graph


def _flips(node: Node) -> bool:
    table = node.attrs["table"]
    return table.dtype == S8 and np.array_equal(table, flip(CODES))


def _signed(y: QParams) -> QParams:
    return replace(y, zero_point=flip(y.zero_point), dtype=S8)
