"""Operators that move elements and compute nothing. A dequantized tensor keeps its integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from .inputs import (
    Values,
    array_at,
    integers_at,
    optional_array,
    optional_integers,
    value_at,
)
from .node import Node
from .values import Array, Dequantized, UnsupportedError, Value, move, per_tensor, real


def reshape(node: Node, values: Values) -> Value:
    """Reshape: 0 copies a length (unless allowzero), -1 is inferred."""
    x = value_at(values, 0)
    target = integers_at(values, 1) if len(values) > 1 else node.integers("shape", ())
    shape = list(target)
    if not node.integer("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return move(x, lambda a: a.reshape(shape))


def flatten(node: Node, values: Values) -> Value:
    x = value_at(values, 0)
    axis = node.integer("axis", 1)
    axis += len(x.shape) if axis < 0 else 0
    rows = math.prod(x.shape[:axis])
    columns = math.prod(x.shape[axis:])
    return move(x, lambda a: a.reshape(rows, columns))


def transpose(node: Node, values: Values) -> Value:
    x = value_at(values, 0)
    order = node.integers("perm", tuple(reversed(range(len(x.shape)))))
    return move(x, lambda a: a.transpose(order))


def squeeze(node: Node, values: Values) -> Value:
    axes = _axes(node, values)
    return move(value_at(values, 0), lambda a: a.squeeze(axes))


def unsqueeze(node: Node, values: Values) -> Value:
    axes = _axes(node, values)
    if axes is None:
        raise UnsupportedError("Unsqueeze without axes")
    return move(value_at(values, 0), lambda a: np.expand_dims(a, axes))


def expand(node: Node, values: Values) -> Value:
    shape = np.broadcast_shapes(value_at(values, 0).shape, integers_at(values, 1))
    return move(value_at(values, 0), lambda a: np.broadcast_to(a, shape))


def tile(node: Node, values: Values) -> Value:
    repeats = integers_at(values, 1)
    return move(value_at(values, 0), lambda a: np.tile(a, repeats))


def slice_(node: Node, values: Values) -> Value:
    """Slice: attributes before opset 10, inputs since. NumPy's clamping is ONNX's, but for a
    negative step down to and including element 0."""
    x = value_at(values, 0)
    if node.opset < 10:
        starts, ends = node.integers("starts", ()), node.integers("ends", ())
        axes: tuple[int, ...] | None = node.integers("axes", range(len(starts)))
        steps = None
    else:
        starts, ends = integers_at(values, 1), integers_at(values, 2)
        axes, steps = optional_integers(values, 3), optional_integers(values, 4)
    index = [slice(None)] * len(x.shape)
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        step, end, size = 1 if steps is None else steps[i], ends[i], x.shape[axis]
        below = step < 0 and end < -size
        index[axis] = slice(starts[i], None if below else end, step)
    return move(x, lambda a: a[tuple(index)])


def split(node: Node, values: Values) -> tuple[Value, ...]:
    x, axis, parts = value_at(values, 0), node.integer("axis", 0), len(node.outputs)
    sizes = optional_integers(values, 1) if len(values) > 1 else node.integers("split", ())
    if not sizes:
        chunk = -(-x.shape[axis] // parts)
        sizes = (*(chunk,) * (parts - 1), x.shape[axis] - chunk * (parts - 1))
    ends = np.cumsum(sizes)
    lead = (slice(None),) * (axis % len(x.shape))

    def cut(start: int, end: int) -> Callable[[Array], Array]:
        return lambda a: a[(*lead, slice(start, end))]

    return tuple(move(x, cut(end - size, end)) for size, end in zip(sizes, ends, strict=True))


def gather(node: Node, values: Values) -> Value:
    indices, axis = array_at(values, 1), node.integer("axis", 0)
    return move(value_at(values, 0), lambda a: np.take(a, indices, axis))


def depth_to_space(node: Node, values: Values) -> Value:
    block, mode = node.integer("blocksize", 1), node.text("mode", "DCR")

    def rearrange(a: Array) -> Array:
        n, c, h, w = a.shape
        inner = c // block**2
        if mode == "DCR":
            blocks = a.reshape(n, block, block, inner, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            blocks = a.reshape(n, inner, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
        return blocks.reshape(n, inner, h * block, w * block)

    return move(value_at(values, 0), rearrange)


def space_to_depth(node: Node, values: Values) -> Value:
    block = node.integer("blocksize", 1)

    def rearrange(a: Array) -> Array:
        n, c, h, w = a.shape
        blocks = a.reshape(n, c, h // block, block, w // block, block)
        return blocks.transpose(0, 3, 5, 1, 2, 4).reshape(n, -1, h // block, w // block)

    return move(value_at(values, 0), rearrange)


def concat(node: Node, values: Values) -> Value:
    """Concat keeps integers when all inputs have them in one type; their scales may differ."""
    axis = node.integer("axis", 1)
    parts = [v for v in values if v is not None]
    whole = [v for v in parts if isinstance(v, Dequantized)]
    if len(whole) < len(parts) or len({v.q.dtype for v in whole}) > 1:
        return np.concatenate([real(v) for v in parts], axis)
    q, scale, zero_point = (
        [getattr(v, name) for v in whole] for name in ("q", "scale", "zero_point")
    )
    return Dequantized(*(np.concatenate(arrays, axis) for arrays in (q, scale, zero_point)))


def pad(node: Node, values: Values) -> Value:
    """Pad. The constant 0.0 in a dequantized tensor is its zero point."""
    x, mode = value_at(values, 0), node.text("mode", "constant")
    flat = node.integers("pads", ()) if node.opset < 11 else integers_at(values, 1)
    axes = optional_integers(values, 3) or tuple(range(len(x.shape)))
    widths = [(0, 0)] * len(x.shape)
    for i, axis in enumerate(axes):
        widths[axis] = (flat[i], flat[i + len(axes)])
    fill: Any = node.real("value", 0.0)
    given = optional_array(values, 2) if node.opset >= 11 else None
    if given is not None:
        fill = given.reshape(())[()]
    positive = [(max(b, 0), max(e, 0)) for b, e in widths]
    crop = tuple(
        slice(max(-b, 0), n - max(-e, 0)) for (b, e), n in zip(widths, x.shape, strict=True)
    )
    x = move(x, lambda a: a[crop])
    if mode != "constant":
        numpy_mode: Any = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}[mode]
        return move(x, lambda a: np.pad(a, positive, numpy_mode))
    if isinstance(x, Dequantized) and fill == 0:
        scale, zero_point = per_tensor(x)
        q = np.pad(x.q, positive, constant_values=zero_point)
        return Dequantized(q, np.full(q.shape, scale), np.full(q.shape, zero_point))
    return np.pad(real(x), positive, constant_values=fill)


def identity(node: Node, values: Values) -> Value:
    """Identity, and Dropout at inference."""
    return value_at(values, 0)


def shape(node: Node, values: Values) -> Value:
    sizes = np.array(value_at(values, 0).shape, np.int64)
    return sizes[slice(node.integer("start", 0), node.attrs.get("end"))]


def constant(node: Node, values: Values) -> Value:
    """Constant: a tensor, a number or a list of numbers."""
    types = {"value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
    for name, value in node.attrs.items():
        if name == "value":
            return onnx.numpy_helper.to_array(value)
        if name in types:
            return np.array(value, types[name])
    raise UnsupportedError(f"Constant with {sorted(node.attrs)}")


def cast(node: Node, values: Values) -> Value:
    """Cast between float32 and integers that hold the value."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(node.integer("to", 1))
    return real(value_at(values, 0)).astype(dtype)


def _axes(node: Node, values: Values) -> tuple[int, ...] | None:
    """Axes from the attribute (before opset 13) or the second input."""
    if len(values) > 1:
        return optional_integers(values, 1)
    return node.integers("axes", ()) if "axes" in node.attrs else None
