"""The readable form of a graph."""

from __future__ import annotations

import numpy as np

from qrt.ir.graph import Graph, Node, Value
from qrt.ir.text import format_graph, summarize_graph


def small() -> Graph:
    x = Value("x", np.dtype(np.float32), ("batch", 3, None))
    w = Value("w", np.dtype(np.int8), (2, 100), np.zeros((2, 100), np.int8))
    s = Value("s", np.dtype(np.float32), (), np.array(0.1, np.float32))
    z = Value("z", np.dtype(np.uint8), (2,), np.array([3, 4], np.uint8))
    m, y = Value("m"), Value("y", np.dtype(np.float32), (1, 2), layout=(1, 0))
    nodes = [
        Node("Quant", [x, s, z], [m], {"axis": 1, "mode": "a"}, name="q", index=0),
        Node("Mul", [m, None, w], [y, Value("")], {"p": list(range(9))}, "my", index=4),
        Node("Mul", [m, s], [Value("k")], {"t": np.zeros((9, 9)), "alpha": 0.1}),
    ]
    return Graph(nodes, [x], [y], {"": 17, "my": 1}, "g")


def test_format() -> None:
    assert format_graph(small()) == (
        "graph 'g' (ai.onnx 17, my 1)\n"
        "input  x: float32[batch, 3, ?]\n"
        "#0 Quant 'q' (x, s=0.100000001 float32, z=[3, 4] uint8) {axis: 1, mode: 'a'}"
        " -> m: ?[...]\n"
        "#4 my.Mul (m, -, w: int8[2, 100]) {p: [0, 1, 2, 3, 4, 5, ... 9 in all]}"
        " -> y: float32[1, 2] @ 1 0, -: ?[...]\n"
        "Mul (m, s=0.100000001 float32) {alpha: 0.1, t: float64[9, 9]} -> k: ?[...]\n"
        "output y: float32[1, 2] @ 1 0\n"
    )


def test_summary() -> None:
    summary = summarize_graph(small())
    assert summary.nodes == 3
    assert summary.ops == {"Mul": 1, "Quant": 1, "my.Mul": 1}
    assert summary.parameters == 203, "s counts once"
    assert summary.constants == {"int8": (1, 200), "float32": (1, 4), "uint8": (1, 2)}
    assert summary.constants_nbytes == 206
    text = str(summary)
    assert "203" in text and "206 bytes: int8 200, float32 4, uint8 2" in text


def test_nothing_inside() -> None:
    x = Value("x")
    text = str(summarize_graph(Graph([], [x], [x])))
    assert "0: none" in text and "0 bytes: none" in text
