"""Expand and Tile (ONNX, opset 1 to 13): elements repeat, by loops with a stride of 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.constants import constant_ints
from qrt.ops.movement import emit_move, itemsize_of
from qrt.ops.nests import broadcast_strides, element_strides, memory_order
from qrt.ops.spec import Array, Lowering, OpSpec


def expanded_shape(node: Node) -> tuple[int, ...]:
    """Expand: NumPy broadcasting of the input's shape with `shape`."""
    AttrReader(node).done()
    shape, target = node.required(0).static_shape, constant_ints(node, 1, "shape")
    try:
        return np.broadcast_shapes(shape, target)
    except ValueError:
        raise ModelError(f"{list(shape)} does not broadcast with shape {list(target)}") from None


def repeats(node: Node) -> tuple[int, ...]:
    """Tile: how often each axis repeats."""
    AttrReader(node).done()
    shape, counts = node.required(0).static_shape, constant_ints(node, 1, "repeats")
    if len(counts) != len(shape) or min(counts, default=0) < 0:
        raise ModelError(f"repeats must be {len(shape)} counts, got {list(counts)}")
    return counts


def infer_expand(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    return [(expanded_shape(node), node.required(0).dtype)]


def infer_tile(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x = node.required(0)
    return [(tuple(n * k for n, k in zip(x.static_shape, repeats(node), strict=True)), x.dtype)]


def reference_expand(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x = inputs[0]
    assert x is not None
    return [np.broadcast_to(x, expanded_shape(node))]


def reference_tile(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x = inputs[0]
    assert x is not None
    return [np.tile(x, repeats(node))]


def lower_expand(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    order, y_strides = memory_order(y), element_strides(y)
    x_strides = broadcast_strides(x, y.static_shape)
    emit_move(
        program,
        program.operand(x),
        program.operand(y),
        itemsize_of(x),
        [y.static_shape[a] for a in order],
        [x_strides[a] for a in order],
        [y_strides[a] for a in order],
    )


def lower_tile(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    counts = repeats(node)
    x_strides, y_strides = element_strides(x), element_strides(y)
    loops = []
    for a in memory_order(y):
        n = x.static_shape[a]
        loops += [(counts[a], 0, n * y_strides[a]), (n, x_strides[a], y_strides[a])]
    sizes, in_x, in_y = zip(*loops, strict=True) if loops else ((), (), ())
    emit_move(program, program.operand(x), program.operand(y), itemsize_of(x), sizes, in_x, in_y)


EXPAND = OpSpec("Expand", "", infer_expand, reference_expand, lower_expand)
TILE = OpSpec("Tile", "", infer_tile, reference_tile, lower_tile, layout="any")
