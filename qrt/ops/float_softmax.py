"""Softmax and LogSoftmax of float32 (ONNX, opset 1 to 13).

e = exp(x - max), 0 below exp(-86), times the reciprocal of the sum, which is at least 1.

Before opset 13 the axes from `axis` on are normalised together, since then `axis` alone. Sums over
contiguous elements run in 16 lanes that are added up in a fixed order: bits do not depend on
threads or CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.channels import normalized_axis
from qrt.ops.reductions import FIELDS as NEST_FIELDS
from qrt.ops.reductions import softmax_fields, softmax_reach
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.float_math import exp_not_positive_f32, log_f32
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import (
    add_f32x16,
    div_f32x16,
    load_f32x16,
    max_f32x16,
    max_lanes_f32x16,
    mul_f32x16,
    splat_f32x16,
    store_f32x16,
    sub_f32x16,
    sum_lanes_f32x16,
)

FIELDS = ("x", "y", *NEST_FIELDS)
(
    X, Y, N0, N1, N2, XS0, XS1, XS2, YS0, YS1, YS2, R0, R1, R2, RS0, RS1, RS2,
) = slots(FIELDS)  # fmt: skip
LOWEST = np.float32(-np.inf)


def parse(node: Node) -> tuple[int, ...]:
    """The axes that are normalised together."""
    rank = len(node.required(0).static_shape)
    attrs = AttrReader(node)
    axis = normalized_axis(attrs.int("axis", -1 if node.version >= 13 else 1), max(rank, 1))
    attrs.done()
    return (axis,) if node.version >= 13 else tuple(range(axis, rank))


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x = node.required(0)
    return [(x.static_shape, x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    axes = parse(node)
    if x.size == 0:
        return [x]
    t = x.astype(np.float64) - x.max(axis=axes, keepdims=True)
    e = np.exp(t)
    total = e.sum(axis=axes, keepdims=True)
    y = t - np.log(total) if node.op == "LogSoftmax" else e / total
    return [np.asarray(y, np.float32)]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    if x.dtype != np.float32:
        raise UnsupportedError(f"{node.op} of {x.dtype} is not supported, only float32")
    axes = parse(node)
    if math.prod(x.static_shape) == 0:
        return
    program.emit(
        KERNELS[node.op],
        x=program.operand(x),
        y=program.operand(y),
        **softmax_fields(x, y, axes),
    )


def extents(row: Mapping[str, int]) -> list[Extent]:
    low, high = softmax_reach(row)
    nbytes = 4 * (high - low)
    return [Extent("x", nbytes, start=4 * low), Extent("y", nbytes, writes=True, start=4 * low)]


@helper
def _max_of(x, n, step, top):  # type: ignore[no-untyped-def]
    i = 0
    if step == 1 and n >= 16:
        best = splat_f32x16(top)
        while i + 16 <= n:
            best = max_f32x16(load_f32x16(x + 4 * i), best)
            i += 16
        top = max_lanes_f32x16(best)
    while i < n:
        v = as_f32(x)[i * step]
        top = v if v > top else top
        i += 1
    return top


@helper
def _sum_of(x, n, step):  # type: ignore[no-untyped-def]
    i = 0
    total = np.float32(0)
    if step == 1 and n >= 16:
        lanes = splat_f32x16(total)
        while i + 16 <= n:
            lanes = add_f32x16(lanes, load_f32x16(x + 4 * i))
            i += 16
        total = sum_lanes_f32x16(lanes)
    while i < n:
        total += as_f32(x)[i * step]
        i += 1
    return total


@helper
def _columns(x, y, n, step):  # type: ignore[no-untyped-def]
    """Softmax of 16 neighbouring columns of n elements, `step` floats apart: bits as one by one."""
    top = splat_f32x16(LOWEST)
    for i in range(n):
        top = max_f32x16(load_f32x16(x + 4 * i * step), top)
    total = splat_f32x16(np.float32(0))
    for i in range(n):
        at = y + 4 * i * step
        store_f32x16(at, sub_f32x16(load_f32x16(x + 4 * i * step), top))
        target = as_f32(at)
        for lane in range(16):
            target[lane] = exp_not_positive_f32(target[lane])
        total = add_f32x16(total, load_f32x16(at))
    scale = div_f32x16(splat_f32x16(np.float32(1)), total)
    for i in range(n):
        at = y + 4 * i * step
        store_f32x16(at, mul_f32x16(load_f32x16(at), scale))
    return 0


def _declare(op: str) -> Kernel:
    logarithm = op == "LogSoftmax"

    @kernel(f"{op.lower()}_f32", FIELDS, extents, family="softmax_f32")
    def softmax(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        lines = row[R0] * row[R1]
        n = row[R2]
        step = row[RS2]
        start, stop = share(row[N0] * row[N1] * row[N2], thread, threads, 1)
        # columns side by side, whose elements are not
        abreast = lines == 1 and step > 1 and row[XS2] == 1 and not logarithm
        o = start
        while o < stop:
            at = 4 * (
                o // row[N2] // row[N1] * row[XS0]
                + o // row[N2] % row[N1] * row[XS1]
                + o % row[N2] * row[XS2]
            )
            if abreast and o + 16 <= stop and o % row[N2] + 16 <= row[N2]:
                _columns(x + at, y + at, n, step)
                o += 16
                continue
            o += 1
            top = LOWEST
            for line in range(lines):
                offset = at + 4 * (line // row[R1] * row[RS0] + line % row[R1] * row[RS1])
                top = _max_of(x + offset, n, step, top)
            total = np.float32(0)
            for line in range(lines):
                offset = at + 4 * (line // row[R1] * row[RS0] + line % row[R1] * row[RS1])
                source = as_f32(x + offset)
                target = as_f32(y + offset)
                if step == 1:
                    for i in range(n):
                        target[i] = exp_not_positive_f32(source[i] - top)
                else:
                    for i in range(n):
                        target[i * step] = exp_not_positive_f32(source[i * step] - top)
                total += _sum_of(y + offset, n, step)
            scale = np.float32(1) / total  # total is at least 1
            if logarithm:
                total = log_f32(total)
            for line in range(lines):
                offset = at + 4 * (line // row[R1] * row[RS0] + line % row[R1] * row[RS1])
                source = as_f32(x + offset)
                target = as_f32(y + offset)
                if logarithm:
                    for i in range(n):
                        target[i * step] = (source[i * step] - top) - total
                elif step == 1:
                    for i in range(n):
                        target[i] = target[i] * scale
                else:
                    for i in range(n):
                        target[i * step] = target[i * step] * scale
        return 0

    return softmax


KERNELS = {op: _declare(op) for op in ("Softmax", "LogSoftmax")}

SPECS = tuple(OpSpec(op, "", infer, reference, lower, layout="any") for op in KERNELS)
