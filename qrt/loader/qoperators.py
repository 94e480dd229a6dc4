"""Which inputs of the quantized operators are scales and zero points: one table.

Sources: ONNX Operators.md; ONNX Runtime docs/ContribOperators.md for com.microsoft.
"""

from __future__ import annotations

from dataclasses import dataclass

from qrt.ir.attrs import AttrReader
from qrt.ir.graph import Node

MS = "com.microsoft"


@dataclass(frozen=True)
class Operand:
    """One quantized tensor of an operator.

    `tensor`, `scale`, `zero_point` are input positions. `tensor` None: output 0. `scale` None:
    the operator has only a zero point. `axis`: the tensor's axis along which the parameters may
    differ; None: they may not.
    """

    name: str
    tensor: int | None
    scale: int | None
    zero_point: int
    axis: int | None = None


@dataclass(frozen=True)
class QOperator:
    """A quantized operator.

    `inputs`: least and most number of them; `optional`: positions that may be left out.
    `one_type`: all operands have the same integer type. `bias`: position of int32 sums that
    must fit the channels of operand "w".
    """

    inputs: tuple[int, int]
    operands: tuple[Operand, ...]
    optional: frozenset[int] = frozenset()
    one_type: bool = False
    bias: int | None = None


_UNARY = (Operand("x", 0, 1, 2), Operand("y", None, 3, 4))
_BINARY = (Operand("a", 0, 1, 2), Operand("b", 3, 4, 5), Operand("y", None, 6, 7))
_CONV = (Operand("x", 0, 1, 2), Operand("w", 3, 4, 5, axis=0), Operand("y", None, 6, 7))
# rows of the left and columns of the right operand may have their own parameters
_MATMUL = (
    Operand("a", 0, 1, 2, axis=-2),
    Operand("b", 3, 4, 5, axis=-1),
    Operand("y", None, 6, 7, axis=-2),
)
_QGEMM = (Operand("a", 0, 1, 2), Operand("b", 3, 4, 5, axis=-1), Operand("y", None, 7, 8))
_POOL = QOperator((4, 5), _UNARY, frozenset({2, 4}), one_type=True)
_ADD = QOperator((7, 8), _BINARY, frozenset({2, 5, 7}), one_type=True)
_QCONV = QOperator((8, 9), _CONV, frozenset({8}), bias=8)

QOPERATORS: dict[tuple[str, str], QOperator] = {
    ("", "QLinearConv"): _QCONV,
    ("", "QLinearMatMul"): QOperator((8, 8), _MATMUL),
    ("", "ConvInteger"): QOperator(
        (2, 4),
        (Operand("x", 0, None, 2), Operand("w", 1, None, 3, axis=0)),
        frozenset({2, 3}),
    ),
    ("", "MatMulInteger"): QOperator(
        (2, 4),
        (Operand("a", 0, None, 2, axis=-2), Operand("b", 1, None, 3, axis=-1)),
        frozenset({2, 3}),
    ),
    (MS, "QLinearConv"): _QCONV,
    (MS, "QGemm"): QOperator((6, 9), _QGEMM, frozenset({6, 7, 8})),
    (MS, "QLinearAdd"): _ADD,
    (MS, "QLinearMul"): _ADD,
    (MS, "QLinearAveragePool"): _POOL,
    (MS, "QLinearGlobalAveragePool"): _POOL,
    (MS, "QLinearReduceMean"): _POOL,
    (MS, "QLinearLeakyRelu"): _POOL,
    (MS, "QLinearSigmoid"): _POOL,
    (MS, "QLinearSoftmax"): _POOL,
    (MS, "QLinearWhere"): QOperator(
        (9, 9),
        (Operand("x", 1, 2, 3), Operand("y", 4, 5, 6), Operand("z", None, 7, 8)),
        one_type=True,
    ),
    (MS, "QLinearConcat"): QOperator((5, 2**31), (), frozenset()),
    (MS, "MatMulIntegerToFloat"): QOperator(
        (4, 7),
        (Operand("a", 0, 2, 4), Operand("b", 1, 3, 5, axis=-1)),
        frozenset({4, 5, 6}),
    ),
    (MS, "DynamicQuantizeMatMul"): QOperator(
        (3, 5), (Operand("b", 1, 2, 3, axis=-1),), frozenset({3, 4})
    ),
    (MS, "QuantizeLinear"): QOperator((2, 3), (), frozenset({2})),
    (MS, "DequantizeLinear"): QOperator((2, 3), (), frozenset({2})),
}


def operands_of(node: Node) -> tuple[Operand, ...]:
    """The quantized operands of a node in the table, as this node lists them."""
    if node.op == "QLinearConcat":
        count = (len(node.inputs) - 2) // 3
        return (
            Operand("y", None, 0, 1),
            *(Operand(f"x{i}", 2 + 3 * i, 3 + 3 * i, 4 + 3 * i) for i in range(count)),
        )
    if node.op == "QGemm" and AttrReader(node).bool("transB", False):
        return tuple(
            Operand(o.name, o.tensor, o.scale, o.zero_point, 0 if o.name == "b" else None)
            for o in _QGEMM
        )
    return QOPERATORS[node.domain, node.op].operands
