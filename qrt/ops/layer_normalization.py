"""LayerNormalization (ONNX, opset 17) and RMSNormalization (opset 23) of float32, over the last
axes, row-major.

y = (x - mean) / sqrt(variance + epsilon) * scale + bias; RMSNormalization is the same with a mean
of 0 and no bias. Sums run in 16 lanes that are added up in a fixed order, mean first and the
squared differences from it after, so bits do not depend on threads or CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.channels import normalized_axis
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.float_math import sqrt_f32
from qrt.simd.memory import as_f32, operand, row_f32
from qrt.simd.scalar import share
from qrt.simd.vectors import (
    add_f32x16,
    load_f32x16,
    mul_f32x16,
    splat_f32x16,
    sub_f32x16,
    sum_lanes_f32x16,
)

FIELDS = ("x", "y", "scale", "bias", "rows", "n", "epsilon")
X, Y, SCALE, BIAS, ROWS, N, EPSILON = slots(FIELDS)


def parse(node: Node) -> tuple[int, float]:
    """(first normalised axis, epsilon)."""
    shape = node.required(0).static_shape
    attrs = AttrReader(node)
    axis = normalized_axis(attrs.int("axis", -1), len(shape))
    epsilon = attrs.float("epsilon", float(np.float32(1e-5)))
    stash = attrs.int("stash_type", 1)
    attrs.done()
    if stash != 1:
        raise UnsupportedError(f"stash_type={stash} is not supported, only 1 (float32)")
    if any(value.name for value in node.outputs[1:]):
        raise UnsupportedError("the Mean and InvStdDev outputs are not supported")
    for i, name in ((1, "scale"), (2, "bias")):
        value = node.input(i)
        if value is not None and value.static_shape != shape[axis:]:
            raise ModelError(f"{name} must be {list(shape[axis:])}, got {list(value.static_shape)}")
    return axis, epsilon


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    parse(node)
    x = node.required(0)
    return [(x.static_shape, x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x, scale = inputs[:2]
    assert x is not None and scale is not None
    bias = inputs[2] if len(inputs) > 2 else None
    axis, epsilon = parse(node)
    axes = tuple(range(axis, x.ndim))
    wide = x.astype(np.float64)
    centered = wide
    if node.op == "LayerNormalization":
        centered = wide - wide.mean(axis=axes, keepdims=True)
    variance = (centered**2).mean(axis=axes, keepdims=True)
    y = centered / np.sqrt(variance + epsilon) * scale
    return [np.asarray(y if bias is None else y + bias, np.float32)]


def lower(node: Node, program: Lowering) -> None:
    x, scale, bias = node.required(0), node.required(1), node.input(2)
    if any(v is not None and v.dtype != np.float32 for v in (x, scale, bias)):
        raise UnsupportedError(f"{node.op} is supported for float32 only")
    axis, epsilon = parse(node)
    n = math.prod(x.static_shape[axis:])
    zeros = None if bias is not None else program.constant(np.zeros(n, np.float32))
    program.emit(
        KERNELS[node.op],
        x=program.operand(x),
        y=program.operand(node.outputs[0]),
        scale=program.operand(scale),
        bias=program.operand(bias) if bias is not None else zeros,  # type: ignore[arg-type]
        rows=math.prod(x.static_shape[:axis]),
        n=n,
        epsilon=np.float32(epsilon),
    )


def extents(row: Mapping[str, int]) -> list[Extent]:
    nbytes = 4 * product(row, "rows", "n")
    return [
        Extent("x", nbytes),
        Extent("y", nbytes, writes=True),
        Extent("scale", 4 * row["n"]),
        Extent("bias", 4 * row["n"]),
    ]


@helper
def _sum(x, n):  # type: ignore[no-untyped-def]
    lanes = splat_f32x16(np.float32(0))
    i = 0
    while i + 16 <= n:
        lanes = add_f32x16(lanes, load_f32x16(x + 4 * i))
        i += 16
    total = sum_lanes_f32x16(lanes)
    while i < n:
        total += as_f32(x)[i]
        i += 1
    return total


@helper
def _sum_of_squares(x, n, mean):  # type: ignore[no-untyped-def]
    lanes = splat_f32x16(np.float32(0))
    i = 0
    while i + 16 <= n:
        d = sub_f32x16(load_f32x16(x + 4 * i), splat_f32x16(mean))
        lanes = add_f32x16(lanes, mul_f32x16(d, d))
        i += 16
    total = sum_lanes_f32x16(lanes)
    while i < n:
        d1 = as_f32(x)[i] - mean
        total += d1 * d1
        i += 1
    return total


def _declare(name: str, centers: bool) -> Kernel:
    @kernel(name, FIELDS, extents, family="layer_normalization_f32")
    def normalization(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        scale = as_f32(operand(row, SCALE, arena, constants))
        bias = as_f32(operand(row, BIAS, arena, constants))
        n = row[N]
        epsilon = row_f32(row, EPSILON)
        count = np.float32(n)
        start, stop = share(row[ROWS], thread, threads, 1)
        for r in range(start, stop):
            at = x + 4 * r * n
            mean = _sum(at, n) / count if centers else np.float32(0)
            deviation = sqrt_f32(_sum_of_squares(at, n, mean) / count + epsilon)
            source = as_f32(at)
            out = as_f32(y + 4 * r * n)
            for i in range(n):
                out[i] = (source[i] - mean) / deviation * scale[i] + bias[i]
        return 0

    return normalization


KERNELS = {
    "LayerNormalization": _declare("layer_normalization_f32", True),
    "RMSNormalization": _declare("rms_normalization_f32", False),
}
SPECS = tuple(OpSpec(op, "", infer, reference, lower) for op in KERNELS)
