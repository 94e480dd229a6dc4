"""Recognise quantization: QDQ, QOperator and dynamic become machine operators, in one walk.

One table says who recognises which ONNX operator; all spellings use it. What has no integer form
stays the ONNX operator it was, reads float32, and carries the reason (`Node.why`).
"""

from __future__ import annotations

from qrt.errors import QrtError, at_node
from qrt.ir import Graph, Node
from qrt.passes.recognise import (
    concat,
    dynamic,
    linear,
    movement,
    nbits,
    nbits_gather,
    pointwise,
    pools,
    products,
    qonnx,
    resize,
)
from qrt.passes.recognise.qoperators import qoperator
from qrt.passes.recognise.views import Plain, View
from qrt.passes.recognise.walk import Outcome, Recogniser, Walk
from qrt.passes.spellings import QONNX_DOMAINS, SPELLINGS
from qrt.quant import functions

MOVEMENTS = (
    "DepthToSpace", "Expand", "Flatten", "GlobalMaxPool", "MaxPool", "Pad", "Reshape",
    "Slice", "SpaceToDepth", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
SEVERAL = ("Add", "Div", "Max", "Min", "Mul", "Pow", "PRelu", "Sub", "Sum")


def _only_shape(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Shape and Size read no element; `specialize` folds them and what they made be computed."""
    return ""


def _identity(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    assert views[0] is not None
    return views[0]


# whose scales the data says
DYNAMIC: dict[str, Recogniser] = {
    "Cast": dynamic.cast,
    "ConvInteger": dynamic.conv_integer,
    "DynamicQuantizeLinear": dynamic.dynamic_quantize_linear,
    "MatMulInteger": dynamic.matmul_integer,
}

ONNX: dict[str, Recogniser] = {
    **DYNAMIC,
    **dict.fromkeys(functions.UNARY, pointwise.unary),
    **dict.fromkeys(SEVERAL, pointwise.binary),
    **dict.fromkeys(MOVEMENTS, movement.move),
    "AveragePool": pools.average_pool,
    "BatchNormalization": products.batchnorm,
    "Clip": pointwise.clip,
    "Concat": concat.concat,
    "Conv": products.conv,
    "DequantizeLinear": linear.dequantize_linear,
    "Gather": nbits_gather.gather,
    "Gemm": products.gemm,
    "GlobalAveragePool": pools.global_average_pool,
    "Identity": _identity,
    "MatMul": products.matmul,
    "QLinearConv": qoperator,
    "QLinearMatMul": qoperator,
    "QuantizeLinear": linear.quantize_linear,
    "ReduceMean": pools.reduce_mean,
    "Relu": pointwise.clip,
    "Resize": resize.resize,
    "Shape": _only_shape,
    "Size": _only_shape,
    "Softmax": pools.softmax,
    "Split": movement.split,
    "Upsample": resize.resize,
}

MICROSOFT: dict[str, Recogniser] = {
    **dict.fromkeys(SPELLINGS, qoperator),
    "DynamicQuantizeMatMul": dynamic.dynamic_quantize_matmul,
    "GatherBlockQuantized": nbits_gather.gather_block_quantized,
    "Gelu": pointwise.unary,
    "MatMulIntegerToFloat": dynamic.matmul_integer_to_float,
    "MatMulNBits": nbits.matmul_nbits,
}

RECOGNISERS: dict[tuple[str, str], Recogniser] = {
    **{("", op): recognise for op, recognise in ONNX.items()},
    **{("com.microsoft", op): recognise for op, recognise in MICROSOFT.items()},
    **{(domain, op): r for domain in QONNX_DOMAINS for op, r in qonnx.RECOGNISERS.items()},
}


def recognise(graph: Graph) -> Graph:
    """DQ -> op -> Q and QLinearOp become qrt operators; equations in the files of this package."""
    walk = Walk(graph)
    for node in graph.nodes:
        walk.node = node
        views = [None if v is None else walk.view(v) for v in node.inputs]
        recogniser = RECOGNISERS.get((node.domain, node.op))
        outcome: Outcome = "it has no integer form"
        if recogniser is not None:
            try:
                outcome = recogniser(walk, node, views)
            except QrtError as error:
                at_node(error, node.where)
        if isinstance(outcome, View):
            outcome = [outcome]
        if isinstance(outcome, list):
            for value, view in zip(node.outputs, outcome, strict=False):
                walk.set_view(value, view)
            continue
        # only what meets a quantized tensor owes an explanation
        meets = any(v is not None and not isinstance(v, Plain) for v in views)
        outs = walk.emit_onnx(node, walk.reals(node), node.outputs, outcome if meets else "")
        for value, out in zip(node.outputs, outs, strict=True):
            walk.set_view(value, Plain(out))
    return walk.finish()
