"""QuantizeLinear and DequantizeLinear, of ONNX and of com.microsoft."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from .inputs import Values, array_at, optional_array, value_at
from .node import Node
from .values import Array, Dequantized, UnsupportedError, Value, quantize


def quantize_linear(node: Node, values: Values) -> Value:
    """QuantizeLinear (opset 10 to 25): 8 or 16 bit integers, per tensor or per axis."""
    x, scale = value_at(values, 0), array_at(values, 1)
    if isinstance(x, np.ndarray):
        node.refuse_unless(x.dtype == np.float32, f"an input of type {x.dtype}")
    node.refuse_unless(scale.dtype == np.float32, f"a scale of type {scale.dtype}")
    node.refuse_unless(node.integer("precision", 0) in (0, 1), "precision")
    zero_point = optional_array(values, 2)
    dtype = np.dtype(np.uint8) if zero_point is None else zero_point.dtype
    if zero_point is None and node.integer("output_dtype", 0):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(node.integer("output_dtype", 0))
    node.refuse_unless(dtype.kind in "iu", f"an output of type {dtype}")
    axis = node.integer("axis", 1)
    return quantize(x, _spread(node, scale, x.shape, axis), _zero(node, zero_point, x.shape), dtype)


def dequantize_linear(node: Node, values: Values) -> Value:
    """DequantizeLinear (opset 10 to 25): per tensor, per axis or per block, to float32."""
    x, scale = array_at(values, 0), array_at(values, 1)
    node.refuse_unless(x.dtype.kind in "iu", f"an input of type {x.dtype}")
    node.refuse_unless(scale.dtype == np.float32, f"a scale of type {scale.dtype}")
    return dequantized(
        x,
        _spread(node, scale, x.shape, node.integer("axis", 1)),
        _zero(node, optional_array(values, 2), x.shape),
    )


def dequantized(q: Array, scale: Array, zero_point: Array) -> Dequantized:
    """`q` with scale and zero point broadcast to it."""
    spread = np.broadcast_to(zero_point.astype(np.int64), q.shape)
    return Dequantized(q, np.broadcast_to(scale, q.shape), spread)


def along(parameter: Array, ndim: int, axis: int) -> Array:
    """A scale or zero point of a QOperator: a single one, one per index of `axis`, or ready."""
    if parameter.size == 1:
        return parameter.reshape(())
    if parameter.ndim != 1:
        return parameter
    shape = [1] * ndim
    shape[axis] = parameter.size
    return parameter.reshape(shape)


def _zero(node: Node, zero_point: Array | None, shape: tuple[int, ...]) -> Array:
    if zero_point is None:
        return np.zeros((), np.int64)
    return _spread(node, zero_point.astype(np.int64), shape, node.integer("axis", 1))


def _spread(node: Node, parameter: Array, shape: tuple[int, ...], axis: int) -> Array:
    """A scale or zero point, reshaped or repeated so that it broadcasts to `shape`."""
    block = node.integer("block_size", 0)
    if block:
        length = shape[axis]
        return np.repeat(parameter, block, axis).take(range(length), axis)
    if parameter.size == 1:
        return parameter.reshape(())
    if parameter.ndim != 1 or parameter.size != shape[axis]:
        raise UnsupportedError(f"parameters of shape {parameter.shape} for axis {axis} of {shape}")
    full: list[Any] = [1] * len(shape)
    full[axis] = parameter.size
    return parameter.reshape(full)
