"""com.microsoft SkipLayerNormalization and kin (opset 1), EmbedLayerNormalization, quantized too.

SkipLayerNormalization(x, skip, gamma, beta, bias): LayerNormalization of x + skip + bias;
Simplified is RMSNormalization. EmbedLayerNormalization: of the sum of embeddings.
"""

from __future__ import annotations

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.expand.body import Body
from qrt.quant.affine import make_qparams

RMS = 23  # the opset that RMSNormalization came with
EPSILON = float(np.float32(1e-12))
SIMPLE_EPSILON = float(np.float32(1e-5))


def simplified(node: Node) -> list[Node]:
    """SimplifiedLayerNormalization, which is ONNX's RMSNormalization."""
    attrs = AttrReader(node, ("stash_type",))
    axis, epsilon = attrs.int("axis", -1), attrs.float("epsilon", SIMPLE_EPSILON)
    attrs.done()
    _only_first(node)
    b = Body(node)
    return b.finish(_rms(b, node.required(0), node.required(1), axis, epsilon))


def skip(node: Node) -> list[Node]:
    """SkipLayerNormalization and SkipSimplifiedLayerNormalization; output 3 is the sum."""
    attrs = AttrReader(node)
    epsilon = attrs.float("epsilon", EPSILON)
    attrs.done()
    if any(value.name for value in node.outputs[1:3]):
        raise UnsupportedError("the outputs mean and inv_std_var are not supported")
    plain = node.op == "SkipLayerNormalization"
    b = Body(node)
    total = b("Add", node.required(0), node.required(1))
    bias = node.input(4 if plain else 3)
    if bias is not None:
        total = b("Add", total, bias)
    if plain:
        y = _layer_norm(b, total, node.required(2), node.input(3), epsilon)
    else:
        y = _rms(b, total, node.required(2), -1, epsilon)
    return b.finish(y, None, None, total)


def embed(node: Node) -> list[Node]:
    """EmbedLayerNormalization: word + position (+ type) embeddings; sums of the mask; the sum."""
    attrs = AttrReader(node, ("mask_index_type",))
    epsilon = attrs.float("epsilon", EPSILON)
    attrs.done()
    b = Body(node)
    ids, types = node.required(0), node.input(1)
    tables = node.required(2), node.required(3), node.input(4)
    parts = [b("Gather", table, index, axis=0) for table, index in _places(b, node, 8, *tables)]
    return _embedded(b, node, parts, (node.required(5), node.required(6)), 7, epsilon, ids, types)


def quantized_embed(node: Node) -> list[Node]:
    """QEmbedLayerNormalization: tables and parameters are 8-bit integers."""
    attrs = AttrReader(node)
    epsilon = attrs.float("epsilon", EPSILON)
    attrs.done()
    b = Body(node)
    tables = node.required(2), node.required(3), node.input(4)

    def real(x: Value, i: int) -> Value:
        scale, zero_point = node.required(8 + i), node.input(13 + i)
        if scale.data is None or scale.data.size != 1:
            return b("DequantizeLinear", x, scale, zero_point)
        zero = None if zero_point is None else zero_point.data
        dtype = node.required(2).dtype
        assert dtype is not None
        attrs = {"x": make_qparams(scale.data, zero, dtype, None)}
        return b.several("Dequantize", [x], 1, attrs, "qrt")[0]

    parts = [
        real(b("Gather", table, index, axis=0), i)
        for i, (table, index) in enumerate(_places(b, node, None, *tables))
    ]
    numbers = real(node.required(5), 3), real(node.required(6), 4)
    return _embedded(b, node, parts, numbers, 7, epsilon, node.required(0), node.input(1))


def _places(
    b: Body, node: Node, given: int | None, words: Value, positions: Value, types: Value | None
) -> list[tuple[Value, Value]]:
    """Tables with the indices into them."""
    ids, segments = node.required(0), node.input(1)
    if len(ids.static_shape) != 2:
        raise ModelError(f"input_ids must have 2 dimensions, got {len(ids.static_shape)}")
    batch, length = ids.static_shape
    if length > positions.static_shape[0]:
        raise ModelError(f"{length} tokens, but {positions.static_shape[0]} position embeddings")
    index = None if given is None else node.input(given)
    if index is None:
        index = b.constant(np.broadcast_to(np.arange(length), (batch, length)))
    pairs = [(words, ids), (positions, index)]
    if types is not None and segments is not None:
        pairs.append((types, segments))
    return pairs


def _embedded(
    b: Body,
    node: Node,
    parts: list[Value],
    numbers: tuple[Value, Value],
    mask_at: int,
    epsilon: float,
    ids: Value,
    types: Value | None,
) -> list[Node]:
    total = parts[0]
    for part in parts[1:]:
        total = b("Add", total, part)
    y = _layer_norm(b, total, *numbers, epsilon)
    counts = None
    if len(node.outputs) > 1 and node.outputs[1].name:
        mask = node.input(mask_at)
        if mask is None:
            counts = b.constant(np.zeros(ids.static_shape[0], np.int32), np.int32)
        else:
            ones = b.cast(mask, np.float32)
            counts = b.cast(b("ReduceSum", ones, b.constant([1]), keepdims=0), np.int32)
    return b.finish(y, counts, total)


def _layer_norm(b: Body, x: Value, gamma: Value, beta: Value | None, epsilon: float) -> Value:
    return b("LayerNormalization", x, gamma, beta, axis=-1, epsilon=epsilon)


def _rms(b: Body, x: Value, gamma: Value, axis: int, epsilon: float) -> Value:
    attrs = {"axis": axis, "epsilon": epsilon}
    return b.several("RMSNormalization", [x, gamma], 1, attrs, version=RMS)[0]


def _only_first(node: Node) -> None:
    if any(value.name for value in node.outputs[1:]):
        raise UnsupportedError("the output inv_std_var is not supported")
