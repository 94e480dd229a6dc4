"""qrt.Copy: the same tensor in the memory order of the output."""

from __future__ import annotations

from collections.abc import Sequence

from qrt.ir import Node
from qrt.ops.movement import emit_move, itemsize_of
from qrt.ops.nests import element_strides, memory_order
from qrt.ops.spec import Array, Lowering, OpSpec


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x = node.required(0)
    return [(x.static_shape, x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    return [x]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    order = memory_order(y)
    x_strides, y_strides = element_strides(x), element_strides(y)
    emit_move(
        program,
        program.operand(x),
        program.operand(y),
        itemsize_of(x),
        [x.static_shape[a] for a in order],
        [x_strides[a] for a in order],
        [y_strides[a] for a in order],
    )


SPEC = OpSpec("Copy", "qrt", infer, reference, lower, layout="free")
