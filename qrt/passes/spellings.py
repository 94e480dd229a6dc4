"""The QOperator spelling as data: which ONNX operator each is, and where its numbers stand.

An operand is followed by its scale and its zero point; so is the output by its zero point.
Sources: ONNX QLinearConv 10, QLinearMatMul 21; ONNX Runtime docs/ContribOperators.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from qrt.ir import Node


@dataclass(frozen=True)
class Spelling:
    """`operands`: input positions of the tensors, each with the axis its scales may be along (None:
    one scale); `y`: position of the output's scale; `bias`: position of the int32 bias."""

    op: str
    operands: tuple[tuple[int, int | None], ...]
    y: int
    bias: int | None = None


_UNARY = ((0, None),)
_PAIR = ((0, None), (3, None))

SPELLINGS: dict[str, Spelling] = {
    "QGemm": Spelling("Gemm", ((0, None), (3, 1)), 7, bias=6),
    "QLinearAdd": Spelling("Add", _PAIR, 6),
    "QLinearAveragePool": Spelling("AveragePool", _UNARY, 3),
    "QLinearConcat": Spelling("Concat", (), 0),
    "QLinearConv": Spelling("Conv", ((0, None), (3, 0)), 6, bias=8),
    "QLinearGlobalAveragePool": Spelling("GlobalAveragePool", _UNARY, 3),
    "QLinearLeakyRelu": Spelling("LeakyRelu", _UNARY, 3),
    "QLinearMatMul": Spelling("MatMul", ((0, -2), (3, -1)), 6),
    "QLinearMul": Spelling("Mul", _PAIR, 6),
    "QLinearReduceMean": Spelling("ReduceMean", _UNARY, 3),
    "QLinearSigmoid": Spelling("Sigmoid", _UNARY, 3),
    "QLinearSoftmax": Spelling("Softmax", _UNARY, 3),
}

# QONNX's quantizers, and the domains that its tools have put them in; Quant is IntQuant's old name
QONNX_DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
QONNX_OPS = ("BipolarQuant", "IntQuant", "Quant", "Trunc")


def operands_of(node: Node) -> tuple[tuple[int, int | None], ...]:
    """The operands of this node: QLinearConcat lists as many as it likes, after its output's
    numbers; the columns of QGemm's transposed right operand are its rows."""
    if node.op == "QLinearConcat":
        return tuple((i, None) for i in range(2, len(node.inputs), 3))
    if node.op == "QGemm" and node.attrs.get("transB", 0):
        return ((0, None), (3, 0))
    return SPELLINGS[node.op].operands
