"""Averages and maxima over windows or axes of a quantized tensor."""

from __future__ import annotations

import math

import numpy as np

from .inputs import Values, dequantized_at, optional_integers, value_at
from .node import Node
from .values import Array, Average, Dequantized, Value, per_tensor, real
from .windows import Windows


def average_pool(node: Node, values: Values) -> Value:
    """AveragePool (opset 1 to 22)."""
    x = dequantized_at(values, 0)
    windows = Windows.of(node, x.shape[2:], node.integers("kernel_shape", ()))
    rank = len(windows.kernel)
    acc = windows.gather(x.centered(), fill=0).sum(axis=tuple(range(-rank, 0)))
    count = windows.sizes(x.shape[2:], node.integer("count_include_pad", 0) == 1)
    _refuse_empty(node, windows, x.shape[2:])
    return Average(acc, per_tensor(x)[0], count)


def global_average_pool(node: Node, values: Values) -> Value:
    x = dequantized_at(values, 0)
    return _mean(node, x, tuple(range(2, x.q.ndim)), keepdims=True)


def reduce_mean(node: Node, values: Values) -> Value:
    """ReduceMean; the axes are an attribute before opset 18, an input since."""
    x = dequantized_at(values, 0)
    axes = node.integers("axes", ())
    axes = optional_integers(values, 1) or axes
    if not axes and node.integer("noop_with_empty_axes", 0):
        return x
    return _mean(node, x, axes or tuple(range(x.q.ndim)), node.integer("keepdims", 1) == 1)


def max_pool(node: Node, values: Values) -> Value:
    """MaxPool (opset 1 to 22) on integers; scales are positive, so order is the same."""
    x = value_at(values, 0)
    node.refuse_unless(len(node.outputs) == 1, "the Indices output")
    if not isinstance(x, Dequantized):
        return _max_windows(node, real(x))
    scale, zero_point = per_tensor(x)
    q = _max_windows(node, x.q)
    return Dequantized(q, np.full(q.shape, scale), np.full(q.shape, zero_point))


def global_max_pool(node: Node, values: Values) -> Value:
    x = value_at(values, 0)
    if not isinstance(x, Dequantized):
        array = real(x)
        return np.asarray(array.max(axis=tuple(range(2, array.ndim)), keepdims=True))
    scale, zero_point = per_tensor(x)
    q = x.q.max(axis=tuple(range(2, x.q.ndim)), keepdims=True)
    return Dequantized(q, np.full(q.shape, scale), np.full(q.shape, zero_point))


def _max_windows(node: Node, x: Array) -> Array:
    windows = Windows.of(node, x.shape[2:], node.integers("kernel_shape", ()))
    _refuse_empty(node, windows, x.shape[2:])
    lowest = -np.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).min)
    gathered = windows.gather(x, fill=lowest)
    maxima: Array = gathered.max(axis=tuple(range(-len(windows.kernel), 0)))
    return maxima


def _refuse_empty(node: Node, windows: Windows, spatial: tuple[int, ...]) -> None:
    elements = windows.sizes(spatial, include_pad=False)
    node.refuse_unless(bool((elements > 0).all()), "a window without elements")


def _mean(node: Node, x: Dequantized, axes: tuple[int, ...], keepdims: bool) -> Average:
    count = math.prod(x.shape[i] for i in axes)
    node.refuse_unless(count > 0, "the mean of nothing")
    acc = x.centered().sum(axis=axes, keepdims=keepdims)
    return Average(acc, per_tensor(x)[0], np.asarray(count, np.int64))
