"""Operators that only give a row-major tensor another shape: Reshape, Flatten, Squeeze,
Unsqueeze, Identity, Dropout. No row: the output is an alias of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axes, normalized_axis
from qrt.ops.constants import constant_ints
from qrt.ops.spec import Array, Lowering, OpSpec

Shape = tuple[int, ...]
Parse = Callable[[Node], Shape]


def reshape_shape(node: Node) -> Shape:
    """Reshape: 0 copies a size (unless allowzero), -1 is inferred."""
    shape = node.required(0).static_shape
    attrs = AttrReader(node)
    target = constant_ints(node, 1, "shape")
    allow_zero = attrs.bool("allowzero", False)
    attrs.done()
    sizes = list(target)
    if not allow_zero:
        if any(n == 0 and i >= len(shape) for i, n in enumerate(sizes)):
            raise ModelError(f"shape {sizes}: a 0 copies a size, the input has {len(shape)}")
        sizes = [shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    total = math.prod(shape)
    if any(n < -1 for n in sizes) or sizes.count(-1) > 1:
        raise ModelError(f"shape must have sizes and at most one -1, got {list(target)}")
    if -1 in sizes:
        known = math.prod(n for n in sizes if n != -1)
        if known == 0 or total % known:
            raise ModelError(f"shape {list(target)} does not divide {total} elements")
        sizes[sizes.index(-1)] = total // known
    if math.prod(sizes) != total:
        raise ModelError(f"shape {list(target)} does not hold {total} elements")
    return tuple(sizes)


def flatten_shape(node: Node) -> Shape:
    """Flatten: (product of the axes before `axis`, product of the others)."""
    shape = node.required(0).static_shape
    attrs = AttrReader(node)
    axis = attrs.int("axis", 1)
    attrs.done()
    if axis != len(shape):
        axis = normalized_axis(axis, len(shape))
    return math.prod(shape[:axis]), math.prod(shape[axis:])


def axes_of(node: Node) -> tuple[int, ...] | None:
    """`axes`, an attribute before opset 13 and an input since; None when absent."""
    attrs = AttrReader(node)
    given = attrs.has("axes")
    axes = tuple(attrs.ints("axes")) if given else None
    attrs.done()
    if not given and node.input(1) is not None:
        axes = constant_ints(node, 1, "axes")
    return axes


def squeeze_shape(node: Node) -> Shape:
    """Squeeze: without `axes`, all axes of size 1."""
    shape = node.required(0).static_shape
    axes = axes_of(node)
    if axes is None:
        return tuple(n for n in shape if n != 1)
    gone = normalized_axes(axes, len(shape))
    if any(shape[a] != 1 for a in gone):
        raise ModelError(f"axes {list(axes)} of {list(shape)} must have size 1")
    return tuple(n for a, n in enumerate(shape) if a not in gone)


def unsqueeze_shape(node: Node) -> Shape:
    """Unsqueeze: `axes` are axes of the output."""
    shape = node.required(0).static_shape
    axes = axes_of(node)
    if axes is None:
        raise ModelError("axes is required")
    rank = len(shape) + len(axes)
    new = normalized_axes(axes, rank)
    rest = iter(shape)
    return tuple(1 if a in new else next(rest) for a in range(rank))


def identity_shape(node: Node) -> Shape:
    """Identity."""
    return node.required(0).static_shape


def dropout_shape(node: Node) -> Shape:
    """Dropout at inference is Identity; a mask or training mode is not supported."""
    if len(node.outputs) > 1:
        raise UnsupportedError("the mask output of Dropout is not supported")
    training = node.input(2)
    if training is not None and (training.data is None or np.any(training.data)):
        raise UnsupportedError("training_mode of Dropout is not supported")
    return node.required(0).static_shape


def _spec(op: str, parse: Parse, layout: str = "row_major") -> OpSpec:
    def infer(node: Node) -> Sequence[tuple[Shape, object]]:
        return [(parse(node), node.required(0).dtype)]

    def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
        x = inputs[0]
        assert x is not None
        return [x.reshape(parse(node))]

    def lower(node: Node, program: Lowering) -> None:
        parse(node)
        program.alias(node.outputs[0], node.required(0))

    return OpSpec(op, "", infer, reference, lower, layout)


SPECS = (
    _spec("Reshape", reshape_shape),
    _spec("Flatten", flatten_shape),
    _spec("Squeeze", squeeze_shape),
    _spec("Unsqueeze", unsqueeze_shape),
    _spec("Identity", identity_shape, layout="any"),
    _spec("Dropout", dropout_shape, layout="any"),
)
