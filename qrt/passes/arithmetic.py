"""NumPy meanings of the operators that shapes and constants are computed with.

Each takes a node and its input arrays and gives its outputs, or None when it declines: an output
larger than MAX_NBYTES, or a case it does not cover.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from qrt.ir import Node
from qrt.quant import functions
from qrt.quant.affine import Array

MAX_NBYTES = 64 * 1024 * 1024  # a constant larger than this is computed while the model runs

Inputs = Sequence[Array | None]
Fold = Callable[[Node, Inputs], "list[Array] | Array | None"]


def evaluate(node: Node, inputs: Inputs) -> list[Array] | None:
    """The outputs of `node` on constant inputs, or None when it is not one of FOLDS or declines."""
    fold = FOLDS.get(node.op) if node.domain == "" else None
    if fold is None:
        return None
    with np.errstate(all="ignore"):
        result = fold(node, inputs)
    if result is None:
        return None
    outputs = result if isinstance(result, list) else [np.asarray(result)]
    return outputs if sum(a.nbytes for a in outputs) <= MAX_NBYTES else None


def integers(node: Node, inputs: Inputs, i: int, attr: str) -> list[int] | None:
    """Input `i`, or the attribute that older opsets have in its place."""
    array = inputs[i] if i < len(inputs) else None
    if array is not None:
        return [int(v) for v in array.reshape(-1)]
    value = node.attrs.get(attr)
    return None if value is None else [int(v) for v in np.atleast_1d(value)]


def reshape_target(shape: Sequence[int], target: Sequence[int], allowzero: bool) -> tuple[int, ...]:
    """What Reshape makes of `shape`: 0 copies a length (unless allowzero), -1 is inferred."""
    sizes = [
        shape[i] if size == 0 and not allowzero and i < len(shape) else size
        for i, size in enumerate(target)
    ]
    if -1 in sizes:
        known = math.prod(s for s in sizes if s != -1)
        sizes[sizes.index(-1)] = math.prod(shape) // known if known else 0
    return tuple(sizes)


def _first(inputs: Inputs) -> Array:
    assert inputs[0] is not None
    return inputs[0]


def _reshape(node: Node, inputs: Inputs) -> Array | None:
    x, target = _first(inputs), integers(node, inputs, 1, "shape")
    assert target is not None
    shape = reshape_target(x.shape, target, bool(node.attrs.get("allowzero", 0)))
    return x.reshape(shape) if math.prod(shape) == x.size else None


def _flatten(node: Node, inputs: Inputs) -> Array:
    x, axis = _first(inputs), int(node.attrs.get("axis", 1))
    axis += x.ndim if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(node: Node, inputs: Inputs) -> Array:
    axes = integers(node, inputs, 1, "axes")
    return _first(inputs).squeeze(None if axes is None else tuple(axes))


def _unsqueeze(node: Node, inputs: Inputs) -> Array:
    axes = integers(node, inputs, 1, "axes")
    assert axes is not None
    return np.expand_dims(_first(inputs), tuple(axes))


def _transpose(node: Node, inputs: Inputs) -> Array:
    x = _first(inputs)
    return x.transpose(node.attrs.get("perm") or tuple(reversed(range(x.ndim))))


def _concat(node: Node, inputs: Inputs) -> Array:
    return np.concatenate([a for a in inputs if a is not None], int(node.attrs.get("axis", 1)))


def _slice(node: Node, inputs: Inputs) -> Array:
    """NumPy clamps as ONNX does, but for a negative step down to and including element 0."""
    x = _first(inputs)
    starts, ends = integers(node, inputs, 1, "starts"), integers(node, inputs, 2, "ends")
    assert starts is not None and ends is not None
    axes = integers(node, inputs, 3, "axes") or list(range(len(starts)))
    steps = integers(node, inputs, 4, "steps") or [1] * len(starts)
    index: list[Any] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        # a start before the first element, walked backwards, selects nothing in ONNX's clamping
        begin = max(start, -size) if step < 0 else start
        index[axis] = slice(begin, None if step < 0 and end < -size else end, step)
    return x[tuple(index)]


def _gather(node: Node, inputs: Inputs) -> Array | None:
    x, indices = _first(inputs), inputs[1]
    axis = int(node.attrs.get("axis", 0))
    assert indices is not None
    size = x.shape[axis]
    if indices.size and (indices.min() < -size or indices.max() >= size):
        return None
    if x.size // max(size, 1) * indices.size * x.itemsize > MAX_NBYTES:
        return None
    return np.take(x, indices, axis)


def _expand(node: Node, inputs: Inputs) -> Array | None:
    target = integers(node, inputs, 1, "shape")
    assert target is not None
    shape = np.broadcast_shapes(_first(inputs).shape, tuple(target))
    if math.prod(shape) * _first(inputs).itemsize > MAX_NBYTES:
        return None
    return np.ascontiguousarray(np.broadcast_to(_first(inputs), shape)).reshape(shape)


def _tile(node: Node, inputs: Inputs) -> Array | None:
    repeats = integers(node, inputs, 1, "repeats")
    assert repeats is not None
    if _first(inputs).nbytes * math.prod(repeats) > MAX_NBYTES:
        return None
    return np.tile(_first(inputs), repeats)


def _constant_of_shape(node: Node, inputs: Inputs) -> Array | None:
    shape = integers(node, inputs, 0, "shape")
    value = np.asarray(node.attrs.get("value", np.zeros(1, np.float32)))
    assert shape is not None
    if math.prod(shape) * value.itemsize > MAX_NBYTES:
        return None
    return np.full(shape, value.reshape(-1)[0], value.dtype)


def _range(node: Node, inputs: Inputs) -> Array | None:
    start, limit, delta = (a.reshape(())[()] for a in inputs if a is not None)
    if delta == 0 or (limit - start) / delta * start.itemsize > MAX_NBYTES:
        return None
    count = max(math.ceil((limit - start) / delta), 0)
    return np.asarray(start + np.arange(count).astype(start.dtype) * delta, start.dtype)


def _cast(node: Node, inputs: Inputs) -> Array | None:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"])))
    x = _first(inputs)
    plain = x.dtype.kind in "iufb" and dtype.kind in "iufb"
    return x.astype(dtype) if plain else None


def _pad(node: Node, inputs: Inputs) -> Array | None:
    x = _first(inputs)
    pads = integers(node, inputs, 1, "pads") if node.version >= 11 else node.attrs["pads"]
    axes = integers(node, inputs, 3, "axes") or list(range(x.ndim))
    if node.attrs.get("mode", "constant") != "constant" or min(pads or [0]) < 0:
        return None
    fill = inputs[2] if len(inputs) > 2 else None
    value = np.asarray(node.attrs.get("value", 0.0) if fill is None else fill).reshape(())
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (int(pads[i]), int(pads[i + len(axes)]))
    size = math.prod(n + b + e for n, (b, e) in zip(x.shape, widths, strict=True))
    if size * x.itemsize > MAX_NBYTES:
        return None
    return np.pad(x, widths, constant_values=value.astype(x.dtype))


def _split(node: Node, inputs: Inputs) -> list[Array] | None:
    x, axis, parts = _first(inputs), int(node.attrs.get("axis", 0)), len(node.outputs)
    sizes = split_sizes(node, x.shape[axis], integers(node, inputs, 1, "split"), parts)
    return list(np.split(x, np.cumsum(sizes)[:-1], axis))


def split_sizes(node: Node, length: int, given: list[int] | None, parts: int) -> list[int]:
    """Lengths that Split cuts an axis into; equal ones (the last may be short) if not given."""
    if given:
        return given
    chunk = -(-length // parts)
    return [min(chunk, max(length - chunk * i, 0)) for i in range(parts)]


def _reduce(function: Callable[..., Any]) -> Fold:
    def fold(node: Node, inputs: Inputs) -> Array | None:
        axes = integers(node, inputs, 1, "axes")
        if not axes and node.attrs.get("noop_with_empty_axes", 0):
            return _first(inputs)
        keep = bool(node.attrs.get("keepdims", 1))
        x = _first(inputs)
        result = function(x, axis=tuple(axes) if axes else None, keepdims=keep)
        return np.asarray(result).astype(x.dtype)

    return fold


def _unary(node: Node, inputs: Inputs) -> Array | None:
    x = _first(inputs)
    if x.dtype == np.float32:
        return functions.unary(node.op, x, node.attrs)
    exact: dict[str, Callable[[Array], Array]] = {
        "Abs": np.abs, "Neg": np.negative, "Sign": np.sign, "Relu": lambda a: np.maximum(a, 0)
    }  # fmt: skip
    return exact[node.op](x) if node.op in exact and x.dtype.kind in "iu" else None


def _binary(node: Node, inputs: Inputs) -> Array | None:
    """Float32 as tables compute it, integers as C does (division truncates)."""
    arrays = [a for a in inputs if a is not None]
    result = arrays[0]
    for other in arrays[1:]:
        if result.dtype != other.dtype:
            return None
        if result.dtype == np.float32:
            result = functions.binary(node.op, result, other)
        elif result.dtype.kind not in "iu" or node.op in ("PRelu", "Pow"):
            return None
        elif node.op == "Div":
            if (other == 0).any():
                return None
            quotient = np.abs(result) // np.abs(other) * np.sign(result) * np.sign(other)
            result = quotient.astype(result.dtype)
        else:
            result = functions.BINARY[node.op](result, other)
    return result


def _compare(function: Callable[..., Any]) -> Fold:
    return lambda node, inputs: np.asarray(function(*inputs))


FOLDS: dict[str, Fold] = {
    **dict.fromkeys(functions.UNARY, _unary),
    **dict.fromkeys(functions.BINARY, _binary),
    "And": _compare(np.logical_and),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Equal": _compare(np.equal),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Greater": _compare(np.greater),
    "GreaterOrEqual": _compare(np.greater_equal),
    "Identity": lambda node, inputs: _first(inputs),
    "Less": _compare(np.less),
    "LessOrEqual": _compare(np.less_equal),
    "Not": _compare(np.logical_not),
    "Or": _compare(np.logical_or),
    "Pad": _pad,
    "Range": _range,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Size": lambda node, inputs: np.array(_first(inputs).size, np.int64),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda node, inputs: np.where(*inputs),
}
