"""Which graph inputs must be known by value: scales, weights, axes, shapes, pads that are inputs.

A program holds such numbers as constants, so a model that takes them as inputs (ONNX's own node
tests do) has one program per value; the session binds them with `bind_values`.
"""

from __future__ import annotations

from qrt.ir import Graph, Node, Value

# (domain, op) -> input positions whose elements shape the program
POSITIONS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "AffineGrid"): (1,),
    ("", "BatchNormalization"): (1, 2, 3, 4),
    ("", "BlackmanWindow"): (0,),
    ("", "CenterCropPad"): (1,),
    ("", "Clip"): (1, 2),
    ("", "Col2Im"): (1, 2),
    ("", "ConstantOfShape"): (0,),
    ("", "Conv"): (1, 2),
    ("", "CumSum"): (1,),
    ("", "DFT"): (1, 2),
    ("", "DequantizeLinear"): (1, 2),
    ("", "Expand"): (1,),
    ("", "Gemm"): (2,),
    ("", "HammingWindow"): (0,),
    ("", "HannWindow"): (0,),
    ("", "MaxUnpool"): (2,),
    ("", "MelWeightMatrix"): (0, 1, 2, 3, 4),
    ("", "OneHot"): (1,),
    ("", "PRelu"): (1,),
    ("", "Pad"): (1, 2, 3),
    ("", "QLinearConv"): (1, 2, 3, 4, 5, 6, 7, 8),
    ("", "QLinearMatMul"): (1, 2, 4, 5, 6, 7),
    ("", "QuantizeLinear"): (1, 2),
    ("", "Range"): (0, 1, 2),
    ("", "ReduceL1"): (1,),
    ("", "ReduceL2"): (1,),
    ("", "ReduceLogSum"): (1,),
    ("", "ReduceLogSumExp"): (1,),
    ("", "ReduceMax"): (1,),
    ("", "ReduceMean"): (1,),
    ("", "ReduceMin"): (1,),
    ("", "ReduceProd"): (1,),
    ("", "ReduceSum"): (1,),
    ("", "ReduceSumSquare"): (1,),
    ("", "Reshape"): (1,),
    ("", "Resize"): (1, 2, 3),
    ("", "STFT"): (1, 3),
    ("", "Slice"): (1, 2, 3, 4),
    ("", "Split"): (1,),
    ("", "Squeeze"): (1,),
    ("", "Tile"): (1,),
    ("", "TopK"): (1,),
    ("", "Trilu"): (1,),
    ("", "Unsqueeze"): (1,),
    ("", "Upsample"): (1,),
    ("com.microsoft", "DequantizeLinear"): (1, 2),
    ("com.microsoft", "QGemm"): (1, 2, 3, 4, 5, 6, 7, 8),
    ("com.microsoft", "QLinearAdd"): (1, 2, 4, 5, 6, 7),
    ("com.microsoft", "QLinearAveragePool"): (1, 2, 3, 4),
    ("com.microsoft", "QLinearConv"): (1, 2, 3, 4, 5, 6, 7, 8),
    ("com.microsoft", "QLinearGlobalAveragePool"): (1, 2, 3, 4),
    ("com.microsoft", "QLinearLeakyRelu"): (1, 2, 3, 4),
    ("com.microsoft", "QLinearMul"): (1, 2, 4, 5, 6, 7),
    ("com.microsoft", "QLinearReduceMean"): (1, 2, 3, 4),
    ("com.microsoft", "QLinearSigmoid"): (1, 2, 3, 4),
    ("com.microsoft", "QLinearSoftmax"): (1, 2, 3, 4),
    ("com.microsoft", "QLinearWhere"): (2, 3, 5, 6, 7, 8),
    ("com.microsoft", "QuantizeLinear"): (1, 2),
}
OPEN = ("Shape", "Size")  # of the elements of their input they read none


def specialised_inputs(graph: Graph) -> set[str]:
    """Names of the inputs whose elements a program must know, directly or through other nodes."""
    producers = graph.producers()
    inputs = set(graph.inputs)
    wanted = [v for node in graph.nodes for v in _wanted(node) if v is not None]
    seen: set[Value] = set()
    while wanted:
        value = wanted.pop()
        if value in seen:
            continue
        seen.add(value)
        node = producers.get(value)
        if node is not None and node.op not in OPEN:
            wanted.extend(v for v in node.inputs if v is not None)
    return {v.name for v in seen & inputs}


def _wanted(node: Node) -> list[Value | None]:
    if node.op == "QLinearConcat":
        return [v for i, v in enumerate(node.inputs) if i < 2 or i % 3 != 2]
    return [node.input(i) for i in POSITIONS.get((node.domain, node.op), ())]
