"""qrt.Branch: an If whose branches give tensors of the same types and shapes, as rows of a program.

`then_branch` and `else_branch` are machine graphs; both read the node's inputs after the condition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Graph, Node, Value
from qrt.ops.jumps import jump, jump_unless
from qrt.ops.movement import emit_move, itemsize_of
from qrt.ops.movement_kernels import ITEMSIZES
from qrt.ops.nests import element_strides
from qrt.ops.spec import Array, Lowering, OpSpec

BRANCHES = ("then_branch", "else_branch")


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    """What both branches give; UnsupportedError when that differs, or is no tensor of numbers."""
    condition = node.required(0)
    if condition.dtype != np.bool_ or condition.nbytes != 1:
        raise UnsupportedError("its condition is not one bool")
    one, other = ([(v.static_shape, v.dtype) for v in node.attrs[b].outputs] for b in BRANCHES)
    if one != other or len(one) != len(node.outputs):
        raise UnsupportedError("its branches give tensors of different types or shapes")
    if any(np.dtype(dtype).itemsize not in ITEMSIZES for _, dtype in one):
        raise UnsupportedError("its result has a type that no row moves")
    return one


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    """Each operator's own reference, those of the branch chosen."""
    from qrt.ops import OPS

    condition = inputs[0]
    assert condition is not None
    graph: Graph = node.attrs[BRANCHES[0 if condition.item() else 1]]
    values = dict(zip(graph.inputs, inputs[1:], strict=True))
    for inner in graph.nodes:
        given = [None if v is None else values.get(v, v.data) for v in inner.inputs]
        reference_of = OPS[inner.domain, inner.op].reference
        assert reference_of is not None, inner
        values.update(zip(inner.outputs, reference_of(inner, given), strict=True))
    results = [values.get(v, v.data) for v in graph.outputs]
    return [r for r in results if r is not None]


def lower(node: Node, program: Lowering) -> None:
    """jump_unless condition: other; then_branch; jump end; other: else_branch; end:"""
    otherwise, end = program.mark(), program.mark()
    program.emit(jump_unless, condition=program.operand(node.required(0)), target=otherwise)
    _branch(node, 0, program)
    program.emit(jump, target=end)
    program.place(otherwise)
    _branch(node, 1, program)
    program.place(end)


def _branch(node: Node, i: int, program: Lowering) -> None:
    """The rows of a branch, and those that move its results to where the node's are."""
    graph: Graph = node.attrs[BRANCHES[i]]
    program.nested(graph, node.inputs[1:], BRANCHES[i])
    for source, result in zip(graph.outputs, node.outputs, strict=True):
        move(source, result, program)


def move(x: Value, y: Value, program: Lowering) -> None:
    """y = x, both in row-major order."""
    strides = element_strides(y)
    emit_move(
        program, program.operand(x), program.operand(y), itemsize_of(y), y.static_shape, strides,
        strides,
    )  # fmt: skip


SPEC = OpSpec("Branch", "qrt", infer, reference, lower)
