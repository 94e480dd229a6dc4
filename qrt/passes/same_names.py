"""com.microsoft operators that ONNX has too, under the same name: they become ONNX's.

com.microsoft.QuantizeLinear and DequantizeLinear mean what those of opset 21 do, of 16 and 4 bits,
too (ONNX Runtime docs/ContribOperators.md).
"""

from __future__ import annotations

from qrt.ir import Graph

CONTRIB = "com.microsoft"
# name -> the opset that has all of it
SINCE = {"DequantizeLinear": 21, "QuantizeLinear": 21}


def drop_contrib_names(graph: Graph) -> Graph:
    """com.microsoft.X(...) = X(...)."""
    for node in graph.nodes:
        if node.domain == CONTRIB and node.op in SINCE:
            node.domain, node.version = "", SINCE[node.op]
    return graph
