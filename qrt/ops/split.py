"""Split (ONNX, opset 1 to 18): one row per output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axis
from qrt.ops.constants import optional_ints
from qrt.ops.movement import emit_move, itemsize_of
from qrt.ops.nests import element_strides, memory_order
from qrt.ops.spec import Array, Lowering, OpSpec


def parse(node: Node) -> tuple[int, list[int]]:
    """(axis, length of each output); without lengths, equal ones of which the last may be short."""
    shape = node.required(0).static_shape
    count = len(node.outputs)
    attrs = AttrReader(node)
    axis = normalized_axis(attrs.int("axis", 0), len(shape))
    lengths: Sequence[int] | None = optional_ints(node, 1, "split")
    if node.version < 13 and attrs.has("split"):
        lengths = attrs.ints("split")
    if attrs.has("num_outputs") and attrs.int("num_outputs") != count:
        raise ModelError(f"num_outputs must be the {count} outputs of the node")
    attrs.done()
    if lengths is None:
        chunk = -(-shape[axis] // count)
        lengths = [chunk] * (count - 1) + [shape[axis] - chunk * (count - 1)]
    if len(lengths) != count or min(lengths, default=0) < 0 or sum(lengths) != shape[axis]:
        raise ModelError(
            f"split must be {count} lengths that add up to {shape[axis]}, got {list(lengths)}"
        )
    return axis, list(lengths)


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x = node.required(0)
    axis, lengths = parse(node)
    lead, tail = x.static_shape[:axis], x.static_shape[axis + 1 :]
    return [((*lead, length, *tail), x.dtype) for length in lengths]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x = inputs[0]
    assert x is not None
    axis, lengths = parse(node)
    return np.split(x, np.cumsum(lengths[:-1]), axis)


def lower(node: Node, program: Lowering) -> None:
    x = node.required(0)
    axis, lengths = parse(node)
    x_strides = element_strides(x)
    start = 0
    for y, length in zip(node.outputs, lengths, strict=True):
        order = memory_order(y)
        y_strides = element_strides(y)
        emit_move(
            program,
            program.operand(x).at(start * x_strides[axis] * itemsize_of(x)),
            program.operand(y),
            itemsize_of(x),
            [y.static_shape[a] for a in order],
            [x_strides[a] for a in order],
            [y_strides[a] for a in order],
        )
        start += length


SPEC = OpSpec("Split", "", infer, reference, lower, layout="any")
