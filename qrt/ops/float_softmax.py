"""Softmax and LogSoftmax of float32 (ONNX, opset 1 to 13).

e = exp(x - max), 0 below exp(-86), times the reciprocal of the sum, which is at least 1.

Before opset 13 the axes from `axis` on are normalised together, since then `axis` alone. Sums over
16 contiguous elements and more run in 16 lanes that are added up in a fixed order: bits do not
depend on threads or CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.channels import normalized_axis
from qrt.ops.reductions import FIELDS as NEST_FIELDS
from qrt.ops.reductions import softmax_fields, softmax_reach
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.float_math import exp_not_positive_f32, exp_not_positive_f32x16, log_f32
from qrt.simd.fma import fma_f32x16
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import (
    add_f32x16,
    div_f32x16,
    last_f32x16,
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
LOWEST, ONE = np.float32(-np.inf), np.float32(1)
SHORT = 1024  # floats of a row; four rows that are read and written fill an L1 of 32 KiB


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


def declare_row(masked: bool) -> tuple[Any, Any]:
    """Helpers of a row of n >= 16 logits: floats at x, or x * factor + bias where it is `masked`.

    (x, n, factor, bias) gives the largest; (x, y, n, top, factor, bias) writes exp(logit - top) to
    y and gives their sum, in 16 lanes that are added up.
    """

    @helper
    def logits(x, i, factor, bias):  # type: ignore[no-untyped-def]
        t = load_f32x16(x + 4 * i)
        if masked:
            return fma_f32x16(t, splat_f32x16(factor), load_f32x16(bias + 4 * i))
        return t

    @helper
    def largest(x, n, factor, bias):  # type: ignore[no-untyped-def]
        best = splat_f32x16(LOWEST)
        last = n - 16
        i = 0
        while i < last:
            best = max_f32x16(logits(x, i, factor, bias), best)
            i += 16
        return max_lanes_f32x16(max_f32x16(logits(x, last, factor, bias), best))

    @helper
    def exponentials(x, y, n, top, factor, bias):  # type: ignore[no-untyped-def]
        tops = splat_f32x16(top)
        total = splat_f32x16(np.float32(0))
        i = 0
        while i + 16 <= n:
            e = exp_not_positive_f32x16(sub_f32x16(logits(x, i, factor, bias), tops))
            store_f32x16(y + 4 * i, e)
            total = add_f32x16(total, e)
            i += 16
        if i < n:
            last = n - 16
            e = exp_not_positive_f32x16(sub_f32x16(logits(x, last, factor, bias), tops))
            store_f32x16(y + 4 * last, e)
            total = add_f32x16(total, last_f32x16(e, n - i))
        return sum_lanes_f32x16(total)

    return largest, exponentials


_largest, _exponentials = declare_row(masked=False)


@helper
def divide_row(y, n, total):  # type: ignore[no-untyped-def]
    """Divide n >= 16 floats by `total`, by its reciprocal."""
    scale = splat_f32x16(ONE / total)
    at = y + 4 * (n - 16)
    last = mul_f32x16(load_f32x16(at), scale)
    while y < at:
        store_f32x16(y, mul_f32x16(load_f32x16(y), scale))
        y += 64
    store_f32x16(at, last)


@helper
def _row(x, y, n):  # type: ignore[no-untyped-def]
    """Softmax of n >= 16 neighbouring floats."""
    top = _largest(x, n, ONE, x)
    divide_row(y, n, _exponentials(x, y, n, top, ONE, x))


@helper
def _four_rows(x, y, n, step):  # type: ignore[no-untyped-def]
    """Softmax of four rows, `step` bytes apart: one waits less for what another adds up."""
    x1, x2, x3 = x + step, x + 2 * step, x + 3 * step
    y1, y2, y3 = y + step, y + 2 * step, y + 3 * step
    t0 = _largest(x, n, ONE, x)
    t1 = _largest(x1, n, ONE, x1)
    t2 = _largest(x2, n, ONE, x2)
    t3 = _largest(x3, n, ONE, x3)
    s0 = _exponentials(x, y, n, t0, ONE, x)
    s1 = _exponentials(x1, y1, n, t1, ONE, x1)
    s2 = _exponentials(x2, y2, n, t2, ONE, x2)
    s3 = _exponentials(x3, y3, n, t3, ONE, x3)
    divide_row(y, n, s0)
    divide_row(y1, n, s1)
    divide_row(y2, n, s2)
    divide_row(y3, n, s3)


@helper
def _max_of(x, n, step, top):  # type: ignore[no-untyped-def]
    for i in range(n):
        v = as_f32(x)[i * step]
        top = v if v > top else top
    return top


@helper
def _sum_of(x, n, step):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(n):
        total += as_f32(x)[i * step]
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
        e = exp_not_positive_f32x16(sub_f32x16(load_f32x16(x + 4 * i * step), top))
        store_f32x16(at, e)
        total = add_f32x16(total, e)
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
        neighbours = lines == 1 and step == 1 and n >= 16 and not logarithm
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
            if neighbours and n <= SHORT and o + 4 <= stop and o % row[N2] + 4 <= row[N2]:
                _four_rows(x + at, y + at, n, 4 * row[XS2])
                o += 4
                continue
            o += 1
            if neighbours:
                _row(x + at, y + at, n)
                continue
            top = LOWEST
            for line in range(lines):
                offset = at + 4 * (line // row[R1] * row[RS0] + line % row[R1] * row[RS1])
                top = _max_of(x + offset, n, step, top)
            total = np.float32(0)
            for line in range(lines):
                offset = at + 4 * (line // row[R1] * row[RS0] + line % row[R1] * row[RS1])
                source = as_f32(x + offset)
                target = as_f32(y + offset)
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
                else:
                    for i in range(n):
                        target[i * step] = target[i * step] * scale
        return 0

    return softmax


KERNELS = {op: _declare(op) for op in ("Softmax", "LogSoftmax")}

SPECS = tuple(OpSpec(op, "", infer, reference, lower, layout="any") for op in KERNELS)
