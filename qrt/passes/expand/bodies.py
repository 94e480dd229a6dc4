"""ONNX operators without kernels of their own, as the operators that have some; float32 only.

ReduceL1, L2, SumSquare, LogSum, LogSumExp: what ONNX's function bodies say (LogSumExp less the
maximum, as every implementation does). InstanceNormalization, GroupNormalization (opset 21):
LayerNormalization of each instance or group, then scale and bias per channel. CastLike: Cast.
"""

from __future__ import annotations

import math

import numpy as np

from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axes
from qrt.ops.constants import optional_ints
from qrt.passes.expand.body import CODES, Body

LAYER_NORM = 17  # the opset that LayerNormalization came with
AXES_INPUT = 18  # since then axes of reductions are an input
EPSILON = float(np.float32(1e-5))


def reduction(node: Node) -> list[Node]:
    """f(ReduceSum(g(x)))."""
    x = node.required(0)
    if not _is_float(x):
        return [node]
    attrs = AttrReader(node)
    keepdims = attrs.bool("keepdims", True)
    noop = attrs.bool("noop_with_empty_axes", False)
    rank = len(x.static_shape)
    if node.version < AXES_INPUT:
        given = tuple(attrs.ints("axes")) if attrs.has("axes") else None
    else:
        given = optional_ints(node, 1, "axes")
    attrs.done()
    axes = normalized_axes(given, rank) if given else () if noop else tuple(range(rank))
    if not axes:
        return [node]  # nothing is reduced
    b = Body(node)
    fixed = b.constant(list(axes))

    def total(value: Value, keep: bool = keepdims) -> Value:
        return b("ReduceSum", value, fixed, keepdims=int(keep))

    if node.op == "ReduceL1":
        return b.finish(total(b("Abs", x)))
    if node.op == "ReduceL2":
        return b.finish(b("Sqrt", total(b("Mul", x, x))))
    if node.op == "ReduceSumSquare":
        return b.finish(total(b("Mul", x, x)))
    if node.op == "ReduceLogSum":
        return b.finish(b("Log", total(x)))
    largest = b("ReduceMax", x, fixed, keepdims=1)
    # of infinities: inf - inf is NaN
    limit = float(np.finfo(np.float32).max)
    finite = b("Clip", largest, b.constant(-limit), b.constant(limit))
    logs = b("Log", total(b("Exp", b("Sub", x, finite)), True))
    y = b("Add", logs, finite)
    shape = [d for i, d in enumerate(x.static_shape) if i not in axes]
    return b.finish(y if keepdims else b.reshape(y, shape))


def instance_normalization(node: Node) -> list[Node]:
    """(x - mean) / sqrt(variance + epsilon) of each instance and channel, * scale + bias."""
    attrs = AttrReader(node)
    epsilon = attrs.float("epsilon", EPSILON)
    attrs.done()
    x = node.required(0)
    if not _is_float(x) or len(x.static_shape) < 3:
        return [node]
    return _normalized(node, x.static_shape[1], epsilon)


def group_normalization(node: Node) -> list[Node]:
    """The same of each instance and group of channels; scale and bias per channel since 21."""
    attrs = AttrReader(node, ("stash_type",))
    epsilon, groups = attrs.float("epsilon", EPSILON), attrs.int("num_groups")
    attrs.done()
    x = node.required(0)
    fits = _is_float(x) and len(x.static_shape) >= 2 and groups > 0
    if not fits or node.version < 21 or x.static_shape[1] % groups:
        return [node]
    return _normalized(node, groups, epsilon)


def _normalized(node: Node, groups: int, epsilon: float) -> list[Node]:
    x = node.required(0)
    n, channels, *spatial = x.static_shape
    size = channels // groups * math.prod(spatial)
    b = Body(node)
    ones = b.constant(np.ones(size), np.float32)
    parts = b.reshape(x, (n, groups, size))
    (y,) = b.several(
        "LayerNormalization", [parts, ones], 1, {"axis": -1, "epsilon": epsilon}, version=LAYER_NORM
    )
    y = b.reshape(y, x.static_shape)
    per_channel = [
        b.reshape(node.required(i), (channels, *[1] * len(spatial))) for i in (1, 2)
    ]
    return b.finish(b("Add", b("Mul", y, per_channel[0]), per_channel[1]))


def cast_like(node: Node) -> list[Node]:
    """Cast to the type of the second input."""
    dtype = node.required(1).dtype
    if node.attrs or dtype is None or dtype.name not in CODES:
        return [node]
    b = Body(node)
    return b.finish(b.cast(node.required(0), dtype))


def _is_float(x: Value) -> bool:
    return x.dtype == np.float32 and math.prod(x.static_shape) > 0
