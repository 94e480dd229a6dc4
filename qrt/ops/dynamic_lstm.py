"""com.microsoft DynamicQuantizeLSTM (opset 1): an LSTM whose products are integer.

X is quantized as DynamicQuantizeLinear does it, all steps at once, and the hidden state at every
step, all batch rows at once; W (directions, inputs, 4 * hidden) and R are 8-bit with one scale and
zero point per direction, or per column. Gates are those of LSTM (`recurrent`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ops.recurrent import lower_layer
from qrt.ops.recurrent_layer import Layer, check_shapes, output_shapes, parse
from qrt.ops.recurrent_products import DynamicProducts, IntegerWeights
from qrt.ops.recurrent_reference import evaluate
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant.products import signed_weights

GATES = 4
U8, S8 = np.dtype(np.uint8), np.dtype(np.int8)


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], Any]]:
    layer = parse(node)
    check_shapes(node, layer)
    d, wide = layer.directions, GATES * layer.hidden
    if node.required(0).dtype != np.float32:
        raise UnsupportedError(f"X must be float32, got {node.required(0).dtype}")
    for name, first, depth in (("W", 1, layer.inputs), ("R", 2, layer.hidden)):
        weights = node.required(first)
        parts = [node.required(6 + 2 * first + i) for i in (0, 1)]
        if any(value.data is None for value in (weights, *parts)):
            raise UnsupportedError(f"{name}, its scale and zero point must be constants")
        if weights.static_shape != (d, depth, wide):
            raise ModelError(f"{name} must be {[d, depth, wide]}, got {list(weights.static_shape)}")
        if weights.dtype not in (U8, S8) or parts[1].dtype != weights.dtype:
            raise ModelError(
                f"{name} and its zero point must be uint8 or int8, got {weights.dtype} and"
                f" {parts[1].dtype}"
            )
        for value, what in zip(parts, ("scale", "zero_point"), strict=True):
            if value.static_shape not in ((d,), (d, wide)):
                raise ModelError(
                    f"{name}_{what} must be {[d]} or {[d, wide]}, got {list(value.static_shape)}"
                )
        scale = parts[0].data
        assert scale is not None
        if scale.dtype != np.float32 or not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ModelError(f"{name}_scale must be positive and finite float32")
    return output_shapes(layer, len(node.outputs))


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    layer = parse(node)
    x, _, _, b, lens, h0, c0, p = inputs[:8]
    assert x is not None
    products = [
        (_quantized(_weights(node, 1, d)), _quantized(_weights(node, 2, d)))
        for d in range(layer.directions)
    ]
    return evaluate(layer, x, products, b, lens, h0, c0, p)[: len(node.outputs)]


def _quantized(weights: IntegerWeights) -> Callable[[Array], Array]:
    """float32 (..., k) by the weights, in integers."""

    def multiply(x: Array) -> Array:
        x = x.astype(np.float32)
        low, high = np.float32(min(0, x.min(initial=0))), np.float32(max(0, x.max(initial=0)))
        scale = np.float32((high - low) / np.float32(255)) if high > low else np.float32(1)
        zero_point = np.rint(-low / scale)
        codes = np.clip(np.rint(x / scale) + zero_point, 0, 255) - zero_point
        sums = codes.astype(np.int64) @ (weights.w.astype(np.int64) - weights.zero_point)
        return np.asarray(sums.astype(np.float32) * (scale * weights.scale))

    return multiply


def _weights(node: Node, which: int, direction: int) -> IntegerWeights:
    """W (1) or R (2) of one direction."""
    parts = [node.required(i).data for i in (which, 6 + 2 * which, 7 + 2 * which)]
    q, scale, zero_point = (part[direction] for part in parts if part is not None)
    w, zero = signed_weights(q, np.asarray(zero_point))
    key = (id(parts[0]), "dynamic_lstm", direction)
    return IntegerWeights(w, np.asarray(scale, np.float32), zero, key)


def lower(node: Node, program: Lowering) -> None:
    layer: Layer = parse(node)
    name = node.name or node.outputs[0].name
    products = [
        DynamicProducts(program, name, _weights(node, 1, d), _weights(node, 2, d))
        for d in range(layer.directions)
    ]
    lower_layer(node, program, layer, products, node.input(7))


SPEC = OpSpec("DynamicQuantizeLSTM", "com.microsoft", infer, reference, lower)
