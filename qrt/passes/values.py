"""Which graph inputs must be known by value: scales, weights, axes, shapes, pads that are inputs.

A program holds such numbers as constants, so a model that takes them as inputs (ONNX's own node
tests do) has one program per value; the session binds them with `bind_values`.
"""

from __future__ import annotations

from collections.abc import Iterable

from qrt.ir import Graph, Node, Value
from qrt.ops.host import RANDOM
from qrt.passes.spellings import QONNX_DOMAINS, QONNX_OPS

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
    ("com.microsoft", "GroupQueryAttention"): (6,),
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
    **{(domain, op): (1, 2, 3, 4, 5) for domain in QONNX_DOMAINS for op in QONNX_OPS},
}
# (domain, op) -> input positions whose elements decide the shape of an output
SHAPED: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "AffineGrid"): (1,),
    ("", "BlackmanWindow"): (0,),
    ("", "CenterCropPad"): (1,),
    ("", "Col2Im"): (1, 2),
    ("", "ConstantOfShape"): (0,),
    ("", "DFT"): (1,),
    ("", "Expand"): (1,),
    ("", "HammingWindow"): (0,),
    ("", "HannWindow"): (0,),
    ("", "MaxUnpool"): (2,),
    ("", "MelWeightMatrix"): (0, 1),
    ("", "OneHot"): (1,),
    ("", "Pad"): (1, 3),
    ("", "Range"): (0, 1, 2),
    **{key: positions for key, positions in POSITIONS.items() if key[1].startswith("Reduce")},
    ("", "Reshape"): (1,),
    ("", "Resize"): (2, 3),
    ("", "STFT"): (1, 3),
    ("", "Slice"): (1, 2, 3, 4),
    ("", "Split"): (1,),
    ("", "Squeeze"): (1,),
    ("", "Tile"): (1,),
    ("", "TopK"): (1,),
    ("", "Unsqueeze"): (1,),
    ("", "Upsample"): (1,),
}
# (domain, op) -> input positions that only `specialize` reads: values that pass through `optimize`
LATE: dict[tuple[str, str], tuple[int, ...]] = {
    ("com.microsoft", "GroupQueryAttention"): (6,),
}
OPEN = ("Shape", "Size")  # of the elements of their input they read none
# what parameters are computed with; a program per value of their inputs is as good as one per value
ARITHMETIC = (
    "Add", "Cast", "Ceil", "Concat", "DequantizeLinear", "Div", "Floor", "Gather", "Identity",
    "Max", "Min", "Mod", "Mul", "Neg", "QuantizeLinear", "Reshape", "Slice", "Squeeze", "Sub",
    "Transpose", "Unsqueeze",
)  # fmt: skip

Roots = dict[Value, frozenset[Value]]
NONE: frozenset[Value] = frozenset()


def parameters(graph: Graph, inputs: Iterable[Value]) -> Roots:
    """The values that may be part of a program, each with those of `inputs` that it is made of.

    A value made of constants and of shapes alone has none, whatever makes it. The others are
    `inputs` and what ARITHMETIC makes of them.
    """
    roots: Roots = {value: frozenset((value,)) for value in inputs if value.is_numeric}
    for node in graph.nodes:
        made = _roots(node, roots)
        if made is not None:
            roots.update(dict.fromkeys(node.outputs, made))
    return roots


def _roots(node: Node, roots: Roots) -> frozenset[Value] | None:
    if node.domain == "" and node.op in OPEN:
        return NONE if node.required(0).is_numeric else None
    if node.op in RANDOM or not all(map(is_planned, node.subgraphs.values())):
        return None
    made = NONE
    for value in node.inputs:
        if value is None or value.is_constant:
            continue
        found = roots.get(value)
        if found is None:
            return None
        made |= found
    if node.subgraphs and node.op != "If":
        return None
    return made if not made or node.op in ARITHMETIC else None


def is_planned(graph: Graph) -> bool:
    """True for a subgraph that gives the same for the same inputs, and that a program may hold."""
    return all(
        node.op not in RANDOM
        and all(value.is_numeric for value in (*node.inputs, *node.outputs) if value is not None)
        and (not node.subgraphs or node.op == "If")
        and all(map(is_planned, node.subgraphs.values()))
        for node in graph.nodes
    )


def specialised_inputs(graph: Graph) -> set[str]:
    """Names of the inputs whose elements a program must know, directly or through ARITHMETIC."""
    return wanted_inputs(graph, parameters(graph, graph.inputs))


def wanted_inputs(graph: Graph, roots: Roots) -> set[str]:
    """Names of the inputs that `roots` says are in values which a program needs to know."""
    names: set[str] = set()
    for node in graph.nodes:
        for value in _wanted(node):
            if value is not None:
                names.update(root.name for root in roots.get(value, ()))
    return names


def wanted_captures(node: Node) -> list[Value]:
    """What nodes of the subgraphs of `node` read of the graph around it and must know by value."""
    first = len(node.inputs) - node.captures
    found = []
    for graph in node.subgraphs.values():
        pairs = zip(graph.inputs[-node.captures :], node.inputs[first:], strict=False)
        outer = dict(pairs) if node.captures else {}
        found += [
            outer[value]
            for inner in graph.nodes
            for value in (*_wanted(inner), *wanted_captures(inner))
            if value in outer
        ]
    return [value for value in found if value is not None]


def open_shape(node: Node, roots: Roots) -> Value | None:
    """An input that decides the shape of an output, and that no program can know; or None."""
    for i in SHAPED.get((node.domain, node.op), ()):
        value = node.input(i)
        if value is not None and not value.is_constant and value not in roots:
            return value
    return None


def _wanted(node: Node) -> list[Value | None]:
    if node.op == "QLinearConcat":
        return [v for i, v in enumerate(node.inputs) if i < 2 or i % 3 != 2]
    return [node.input(i) for i in POSITIONS.get((node.domain, node.op), ())]


def late_inputs(graph: Graph, fixed: Iterable[str]) -> frozenset[str]:
    """Those of the inputs `fixed` by value that may be bound after `optimize`."""
    left = set(fixed) - {value.name for value in graph.outputs}
    for node in graph.nodes:
        late = LATE.get((node.domain, node.op), ())
        for i, value in enumerate(node.inputs):
            if value is not None and i not in late:
                left.discard(value.name)
    return frozenset(left)
