"""Pad (ONNX, opset 2 to 25): constant, edge, reflect and wrap, of any dtype; pads are known.

A constant border is filled slab by slab; the other modes read an index table per axis. Negative
pads crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axis
from qrt.ops.constants import constant_input, constant_ints, optional_ints
from qrt.ops.index_copy import emit_index_copy
from qrt.ops.movement import emit_move, itemsize_of
from qrt.ops.nests import common_order, element_strides
from qrt.ops.spec import Array, Lowering, OpSpec

MODES = ("constant", "edge", "reflect", "wrap")


@dataclass(frozen=True)
class Padding:
    """`widths`: (before, after) per axis; `value` has the dtype of the input."""

    mode: str
    widths: tuple[tuple[int, int], ...]
    value: Array

    def indices(self, axis: int, size: int) -> Array:
        """Input index per output index, for modes other than constant."""
        before, after = self.widths[axis]
        mode: Any = self.mode
        index = np.pad(np.arange(size), (max(before, 0), max(after, 0)), mode)
        return index[max(-before, 0) : index.size - max(-after, 0)]


def parse(node: Node) -> Padding:
    """Pads and value: attributes before opset 11, inputs since; `axes` since opset 18."""
    x = node.required(0)
    rank = len(x.static_shape)
    attrs = AttrReader(node)
    mode = attrs.string("mode", "constant", MODES)
    axes = tuple(range(rank))
    if node.version < 11:
        pads: Sequence[int] = attrs.ints("pads", length=2 * rank)
        value = np.asarray(attrs.float("value", 0.0))
    else:
        pads = constant_ints(node, 1, "pads")
        fill = node.input(2)
        value = np.zeros(()) if fill is None else constant_input(node, 2, "constant_value")
        given = optional_ints(node, 3, "axes")
        axes = axes if given is None else tuple(normalized_axis(a, rank) for a in given)
    attrs.done()
    if len(pads) != 2 * len(axes) or value.size != 1:
        raise ModelError(f"pads must have {2 * len(axes)} elements, got {len(pads)}")
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        widths[axis] = pads[i], pads[i + len(axes)]
    for n, (before, after) in zip(x.static_shape, widths, strict=True):
        if n + before + after < 0 or max(-before, 0) > n or max(-after, 0) > n:
            raise ModelError(f"pads {list(pads)} crop more than there is in {list(x.static_shape)}")
        if mode != "constant" and n == 0 and before + after > 0:
            raise ModelError(f"mode {mode} has nothing to pad an axis of size 0 with")
    return Padding(mode, tuple(widths), value.reshape(()).astype(x.dtype))


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x = node.required(0)
    widths = parse(node).widths
    return [(tuple(n + b + e for n, (b, e) in zip(x.static_shape, widths, strict=True)), x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x = inputs[0]
    assert x is not None
    padding = parse(node)
    if padding.mode != "constant":
        for axis, n in enumerate(x.shape):
            x = x.take(padding.indices(axis, n), axis)
        return [x]
    for axis, (before, after) in enumerate(padding.widths):
        stop = x.shape[axis] - max(-after, 0)
        x = x.take(range(max(-before, 0), stop), axis)
        widths = [(0, 0)] * x.ndim
        widths[axis] = max(before, 0), max(after, 0)
        x = np.pad(x, widths, constant_values=padding.value)
    return [x]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    padding = parse(node)
    order = common_order(x, y)
    shape, itemsize = x.static_shape, itemsize_of(x)
    if padding.mode != "constant":
        emit_index_copy(
            program,
            program.operand(x),
            program.operand(y),
            itemsize,
            [shape[a] for a in order],
            [padding.indices(a, shape[a]) for a in order],
        )
        return
    x_strides, y_strides = element_strides(x), element_strides(y)
    starts = [max(-before, 0) for before, _ in padding.widths]
    kept = [
        n - start - max(-after, 0)
        for n, start, (_, after) in zip(shape, starts, padding.widths, strict=True)
    ]
    first = [max(before, 0) for before, _ in padding.widths]
    source = sum(i * s for i, s in zip(starts, x_strides, strict=True))
    target = sum(i * s for i, s in zip(first, y_strides, strict=True))
    emit_move(
        program,
        program.operand(x).at(source * itemsize),
        program.operand(y).at(target * itemsize),
        itemsize,
        [kept[a] for a in order],
        [x_strides[a] for a in order],
        [y_strides[a] for a in order],
    )
    fill = program.constant(padding.value)
    out = y.static_shape
    for i, axis in enumerate(order):
        # a slab lies inside the kept part of the axes before, and spans the axes after
        before, after = first[axis], out[axis] - first[axis] - kept[axis]
        for start, width in ((0, before), (out[axis] - after, after)):
            sizes = [kept[a] for a in order[:i]] + [width] + [out[a] for a in order[i + 1 :]]
            at = sum(first[a] * y_strides[a] for a in order[:i]) + start * y_strides[axis]
            emit_move(
                program,
                fill,
                program.operand(y).at(at * itemsize),
                itemsize,
                sizes,
                [0] * len(sizes),
                [y_strides[a] for a in order],
            )


SPEC = OpSpec("Pad", "", infer, reference, lower, layout="any")
