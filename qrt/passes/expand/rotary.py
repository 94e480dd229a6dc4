"""RotaryEmbedding (ONNX, opset 23; com.microsoft, opset 1) as slices and products.

Pairs (x1, x2) of a head become (cos x1 - sin x2, sin x1 + cos x2); the pairs are the halves of the
head, or neighbours (`interleaved`). cos and sin are rows of the caches, one per position.
"""

from __future__ import annotations

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.expand.body import Body


def onnx_rotary(node: Node) -> list[Node]:
    """ONNX's; without position_ids the caches are (batch, sequence, dims / 2)."""
    attrs = AttrReader(node)
    heads, dims = attrs.int("num_heads", 0), attrs.int("rotary_embedding_dim", 0)
    interleaved = attrs.bool("interleaved", False)
    attrs.done()
    b = Body(node)
    caches = _rows(b, node.required(1), node.required(2), node.input(3))
    return b.finish(_rotated(b, node.required(0), caches, heads, dims, interleaved))


def microsoft_rotary(node: Node) -> list[Node]:
    """com.microsoft's: position_ids (1,) is where the first token stands."""
    attrs = AttrReader(node, ("max_position_embeddings",))
    heads, dims = attrs.int("num_heads", 0), attrs.int("rotary_embedding_dim", 0)
    interleaved = attrs.bool("interleaved", False)
    if attrs.bool("is_packed_batching", False) or attrs.float("scale", 1.0) != 1.0:
        raise UnsupportedError("is_packed_batching and scale are not supported")
    attrs.done()
    b = Body(node)
    x, positions, cos, sin = (node.required(i) for i in range(4))
    shape = x.static_shape
    batch, length = shape[0], shape[-2]
    if positions.static_shape in ((), (1,)) and (batch, length) != (1, 1):
        steps = b.constant(np.broadcast_to(np.arange(length), (batch, length)), np.float32)
        first = b.cast(b.reshape(positions, (1, 1)), np.float32)
        positions = b.cast(b("Add", steps, first), np.int64)
        positions.shape = (batch, length)
    elif positions.static_shape in ((), (1,)):
        positions = b.reshape(positions, (1, 1))
    if not heads and not dims and len(shape) == 3:
        head = 2 * cos.static_shape[-1]
        if shape[-1] % head:
            raise ModelError(f"{shape[-1]} columns are not heads of {head}")
        heads = shape[-1] // head
    caches = _rows(b, cos, sin, positions)
    return b.finish(_rotated(b, x, caches, heads, dims, interleaved))


def rotate(
    b: Body, x: Value, shape: tuple[int, ...], caches: tuple[Value, Value], interleaved: bool
) -> Value:
    """`x` (batch, sequence, heads, head) with `caches` (batch, sequence, 1, dims / 2)."""
    head = shape[-1]
    half = caches[0].static_shape[-1]
    if 2 * half > head:
        raise ModelError(f"the caches turn {2 * half} elements, a head has {head}")
    rest = None
    if 2 * half < head:
        x, rest = b.split(x, [2 * half, head - 2 * half])
    if interleaved:
        first, second = (b.slice(x, 3, i, 2 * half, 2) for i in (0, 1))
    else:
        first, second = b.split(x, [half, half])
    cos, sin = caches
    real = b("Sub", b("Mul", cos, first), b("Mul", sin, second))
    imaginary = b("Add", b("Mul", sin, first), b("Mul", cos, second))
    if interleaved:
        pair = [b.reshape(v, (*shape[:-1], half, 1)) for v in (real, imaginary)]
        y = b.reshape(b.concat(pair, 4), (*shape[:-1], 2 * half))
    else:
        y = b.concat([real, imaginary], 3)
    return y if rest is None else b.concat([y, rest], 3)


def cache_rows(b: Body, cache: Value, positions: Value | None) -> Value:
    """(batch, sequence, 1, dims / 2): the rows of a cache at `positions` (batch, sequence)."""
    width = cache.static_shape[-1]
    if positions is None:
        shape = cache.static_shape[:-1]
    else:
        shape = positions.static_shape
        cache = b("Gather", cache, positions, axis=0)
    return b.reshape(cache, (*shape, 1, width))


def _rows(b: Body, cos: Value, sin: Value, positions: Value | None) -> tuple[Value, Value]:
    return cache_rows(b, cos, positions), cache_rows(b, sin, positions)


def _rotated(
    b: Body, x: Value, caches: tuple[Value, Value], heads: int, dims: int, interleaved: bool
) -> Value:
    shape = x.static_shape
    if dims and dims != 2 * caches[0].static_shape[-1]:
        raise ModelError(
            f"rotary_embedding_dim must be twice the caches' {caches[0].static_shape[-1]},"
            f" got {dims}"
        )
    if len(shape) == 4:
        batch, heads, length, head = shape
        inner = b.transpose(x, 0, 2, 1, 3)
        y = rotate(b, inner, (batch, length, heads, head), caches, interleaved)
        return b.transpose(y, 0, 2, 1, 3)
    if len(shape) != 3 or not heads or shape[-1] % heads:
        raise ModelError(f"input of shape {list(shape)} is not {heads} heads")
    split = (*shape[:2], heads, shape[-1] // heads)
    return b.reshape(rotate(b, b.reshape(x, split), split, caches, interleaved), shape)
