"""LayerNormalization (ONNX, opset 17) and RMSNormalization (opset 23) of float32, over the last
axes, row-major.

y = (x - mean) * (1 / sqrt(variance + epsilon)) * scale + bias, each rounded; RMSNormalization is
the same with a mean of 0 and no bias. Sums run in 16 lanes that are added up in a fixed order, mean
first and the squared differences from it after, so bits do not depend on threads or CPU.
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
    store_f32x16,
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
def _parts(x, i, mean, squares):  # type: ignore[no-untyped-def]
    """16 floats, or the squares of their differences from `mean`."""
    v = load_f32x16(x + 4 * i)
    if squares:
        d = sub_f32x16(v, splat_f32x16(mean))
        return mul_f32x16(d, d)
    return v


@helper
def _total(lanes, x, i, n, mean, squares):  # type: ignore[no-untyped-def]
    """The sum of all lanes, and of elements i to n one by one."""
    total = sum_lanes_f32x16(lanes)
    while i < n:
        v = as_f32(x)[i]
        total += (v - mean) * (v - mean) if squares else v
        i += 1
    return total


@helper
def _sum(x, n, mean, squares):  # type: ignore[no-untyped-def]
    """The sum of a row in 16 lanes, or of the squares of its differences from `mean`."""
    lanes = splat_f32x16(np.float32(0))
    i = 0
    while i + 16 <= n:
        lanes = add_f32x16(lanes, _parts(x, i, mean, squares))
        i += 16
    return _total(lanes, x, i, n, mean, squares)


@helper
def _four_sums(x, n, m0, m1, m2, m3, squares):  # type: ignore[no-untyped-def]
    """`_sum` of four rows that follow each other: one addition does not wait for the last."""
    x1, x2, x3 = x + 4 * n, x + 8 * n, x + 12 * n
    s0 = splat_f32x16(np.float32(0))
    s1, s2, s3 = s0, s0, s0
    i = 0
    while i + 16 <= n:
        s0 = add_f32x16(s0, _parts(x, i, m0, squares))
        s1 = add_f32x16(s1, _parts(x1, i, m1, squares))
        s2 = add_f32x16(s2, _parts(x2, i, m2, squares))
        s3 = add_f32x16(s3, _parts(x3, i, m3, squares))
        i += 16
    return (
        _total(s0, x, i, n, m0, squares),
        _total(s1, x1, i, n, m1, squares),
        _total(s2, x2, i, n, m2, squares),
        _total(s3, x3, i, n, m3, squares),
    )


@helper
def _factor(squares, count, epsilon):  # type: ignore[no-untyped-def]
    return np.float32(1) / sqrt_f32(squares / count + epsilon)


@helper
def _write(x, y, n, mean, factor, scale, bias):  # type: ignore[no-untyped-def]
    """A row of the result."""
    source, out = as_f32(x), as_f32(y)
    factors, biases = as_f32(scale), as_f32(bias)
    i = 0
    while i + 16 <= n:
        d = sub_f32x16(load_f32x16(x + 4 * i), splat_f32x16(mean))
        t = mul_f32x16(mul_f32x16(d, splat_f32x16(factor)), load_f32x16(scale + 4 * i))
        store_f32x16(y + 4 * i, add_f32x16(t, load_f32x16(bias + 4 * i)))
        i += 16
    while i < n:
        out[i] = (source[i] - mean) * factor * factors[i] + biases[i]
        i += 1


def _declare(name: str, centers: bool) -> Kernel:
    @kernel(name, FIELDS, extents, family="layer_normalization_f32")
    def normalization(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        n = row[N]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        scale = operand(row, SCALE, arena, constants)
        bias = operand(row, BIAS, arena, constants)
        epsilon = row_f32(row, EPSILON)
        count = np.float32(n)
        zero = np.float32(0)
        start, stop = share(row[ROWS], thread, threads, 1)
        r = start
        while r + 4 <= stop:
            at, to = x + 4 * r * n, y + 4 * r * n
            m0, m1, m2, m3 = zero, zero, zero, zero
            if centers:
                m0, m1, m2, m3 = _four_sums(at, n, zero, zero, zero, zero, False)
                m0, m1, m2, m3 = m0 / count, m1 / count, m2 / count, m3 / count
            s0, s1, s2, s3 = _four_sums(at, n, m0, m1, m2, m3, True)
            _write(at, to, n, m0, _factor(s0, count, epsilon), scale, bias)
            at, to = at + 4 * n, to + 4 * n
            _write(at, to, n, m1, _factor(s1, count, epsilon), scale, bias)
            at, to = at + 4 * n, to + 4 * n
            _write(at, to, n, m2, _factor(s2, count, epsilon), scale, bias)
            at, to = at + 4 * n, to + 4 * n
            _write(at, to, n, m3, _factor(s3, count, epsilon), scale, bias)
            r += 4
        while r < stop:
            at, to = x + 4 * r * n, y + 4 * r * n
            mean = _sum(at, n, zero, False) / count if centers else zero
            factor = _factor(_sum(at, n, mean, True), count, epsilon)
            _write(at, to, n, mean, factor, scale, bias)
            r += 1
        return 0

    return normalization


KERNELS = {
    "LayerNormalization": _declare("layer_normalization_f32", True),
    "RMSNormalization": _declare("rms_normalization_f32", False),
}
SPECS = tuple(OpSpec(op, "", infer, reference, lower) for op in KERNELS)
