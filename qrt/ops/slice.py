"""Slice (ONNX, opset 1 to 13): starts, ends, axes and steps known before the run."""

from __future__ import annotations

from collections.abc import Sequence

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axis
from qrt.ops.constants import constant_ints, optional_ints
from qrt.ops.movement import emit_move, itemsize_of
from qrt.ops.nests import element_strides, memory_order
from qrt.ops.spec import Array, Lowering, OpSpec


def parse(node: Node) -> list[tuple[int, int, int]]:
    """(first index, step, count) per axis."""
    shape = node.required(0).static_shape
    attrs = AttrReader(node)
    axes: Sequence[int] | None
    steps: Sequence[int] | None = None
    if node.version < 10:
        starts, ends = tuple(attrs.ints("starts")), tuple(attrs.ints("ends"))
        axes = attrs.ints("axes", tuple(range(len(starts))))
    else:
        starts, ends = constant_ints(node, 1, "starts"), constant_ints(node, 2, "ends")
        axes, steps = optional_ints(node, 3, "axes"), optional_ints(node, 4, "steps")
    attrs.done()
    axes = range(len(starts)) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ModelError(
            f"starts {list(starts)}, ends {list(ends)}, axes {list(axes)} and steps {list(steps)}"
            " must have one entry per axis, and no step may be 0"
        )
    parts = [(0, 1, n) for n in shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        a = normalized_axis(axis, len(shape))
        n = shape[a]
        # Python's rules are ONNX's, but for an end below the first element of a negative step
        stop = None if step < 0 and end < -n else end
        indices = range(n)[slice(start, stop, step)]
        parts[a] = (indices.start, indices.step, len(indices))
    return parts


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    return [(tuple(count for _, _, count in parse(node)), node.required(0).dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x = inputs[0]
    assert x is not None
    for axis, (first, step, count) in enumerate(parse(node)):
        x = x.take([first + i * step for i in range(count)], axis)
    return [x]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    parts = parse(node)
    itemsize = itemsize_of(x)
    x_strides, y_strides = element_strides(x), element_strides(y)
    first = sum(p[0] * s for p, s in zip(parts, x_strides, strict=True))
    order = memory_order(y)
    emit_move(
        program,
        program.operand(x).at(first * itemsize),
        program.operand(y),
        itemsize,
        [parts[a][2] for a in order],
        [parts[a][1] * x_strides[a] for a in order],
        [y_strides[a] for a in order],
    )


SPEC = OpSpec("Slice", "", infer, reference, lower, layout="any")
