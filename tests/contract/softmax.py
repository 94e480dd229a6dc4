"""Softmax of a quantized tensor: exponentials from an integer table, their sum exact."""

from __future__ import annotations

import math

import numpy as np

from .inputs import Values, dequantized_at
from .node import Node
from .values import Array, Dequantized, Value, per_tensor

TABLE_ONE = 2.0**23  # exp(0) in the table: sums of 2^39 entries fit int64, entries fit float32


def softmax(node: Node, values: Values) -> Value:
    """Softmax (opset 1 to 13) of a dequantized tensor: float32 probabilities."""
    x = dequantized_at(values, 0)
    version = node.integer("opset", node.opset)  # QLinearSoftmax says it itself
    return probabilities(x, node.integer("axis", -1 if version >= 13 else 1), version)


def probabilities(x: Dequantized, axis: int, opset: int) -> Array:
    """Along `axis`; before opset 13 over all axes from `axis` on, seen as one."""
    scale, _ = per_tensor(x)
    distance = np.arange(256)
    table = np.rint(np.exp(-distance * np.float64(scale)) * TABLE_ONE).astype(np.int64)
    q = x.q.astype(np.int64)
    if opset < 13:
        lead = q.shape[: axis % q.ndim]
        q, axis = q.reshape(math.prod(lead), -1), 1
    e = table[q.max(axis=axis, keepdims=True) - q]
    p = e.astype(np.float32) / e.sum(axis=axis, keepdims=True).astype(np.float32)
    restored: Array = p.reshape(x.shape)
    return restored
