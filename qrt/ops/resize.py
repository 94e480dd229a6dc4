"""Resize: nearest moves elements of any dtype; linear interpolates uint8 (qrt) and float32.

Linear: along the last axis first, a[low] + (a[high] - a[low]) * fraction, each operation rounded to
float32; uint8 is dequantized before and quantized after. The inputs and attributes of qrt.Resize
are ONNX's (of Upsample too, by the node's version), with QParams x and y when it is linear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.index_copy import emit_index_copy
from qrt.ops.movement import itemsize_of
from qrt.ops.nests import common_order
from qrt.ops.resize_axes import NEAREST, Resizing, parse
from qrt.ops.sizes import product, within
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant.affine import dequantize, quantize
from qrt.simd.memory import as_f32, as_i32, as_u8, operand, row_f32
from qrt.simd.scalar import quantize_u8, share, sub32
from qrt.simd.vectors import (
    add_f32x16,
    div_f32x16,
    i32x16_to_f32x16,
    load_f32x16,
    load_u8_as_i32x16,
    mul_f32x16,
    quantize_u8x16,
    splat_f32x16,
    splat_i32x16,
    store_f32x16,
    store_u8x16,
    sub_f32x16,
    sub_i32x16,
)

# memory is (outer, a, middle, b, inner); a and b are the resized axes, tables say where to read
FIELDS = (
    "x", "y", "outer", "a_size", "a", "middle", "b_size", "b", "inner",
    "a_low", "a_high", "a_fraction", "b_low", "b_high", "b_fraction",
    "x_zero_point", "x_scale", "y_scale", "low", "high", "y_zero_point",
)  # fmt: skip
(
    X, Y, OUTER, A_SIZE, A, MIDDLE, B_SIZE, B, INNER, A_LOW, A_HIGH, A_FRACTION,
    B_LOW, B_HIGH, B_FRACTION, X_ZERO_POINT, X_SCALE, Y_SCALE, LOW, HIGH, Y_ZERO_POINT,
) = slots(FIELDS)  # fmt: skip
BAD_INDEX = 1  # status


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    return [(parse(node).shape, node.required(0).dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x = inputs[0]
    assert x is not None
    resizing = parse(node)
    if resizing.mode == NEAREST:
        for axis in resizing.axes:
            x = np.take(x, axis.nearest(resizing.rounding(axis)), axis.axis)
        return [x]
    quantized = node.domain == "qrt"
    y = dequantize(x, node.attrs["x"]) if quantized else x
    for axis in reversed(resizing.axes):
        low, high, fraction = axis.linear()
        shape = [1] * y.ndim
        shape[axis.axis] = fraction.size
        start, end = np.take(y, low, axis.axis), np.take(y, high, axis.axis)
        y = start + (end - start) * fraction.reshape(shape)
    return [quantize(y, node.attrs["y"]) if quantized else y]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    resizing = parse(node)
    order = common_order(x, y)
    if resizing.mode == NEAREST:
        picked = {a.axis: a.nearest(resizing.rounding(a)) for a in resizing.axes}
        emit_index_copy(
            program,
            program.operand(x),
            program.operand(y),
            itemsize_of(x),
            [x.static_shape[a] for a in order],
            [picked.get(axis) for axis in order],
        )
        return
    _lower_linear(node, program, resizing, order)


def _lower_linear(
    node: Node, program: Lowering, resizing: Resizing, order: tuple[int, ...]
) -> None:
    x, y = node.required(0), node.outputs[0]
    dtype = np.dtype(x.dtype).name
    quantized = node.domain == "qrt"
    if dtype != ("uint8" if quantized else "float32"):
        raise UnsupportedError(f"linear Resize of {dtype} is not supported")
    if math.prod(y.static_shape) == 0:
        return
    axes = resizing.axes
    places = [order.index(a.axis) for a in axes]
    if len(axes) > 2 or places != sorted(places):
        raise UnsupportedError(f"linear Resize along {len(axes)} axes in this memory order")
    memory = [x.static_shape[a] for a in order]
    first, second = places if len(places) == 2 else [-1, *places] if places else [-1, -1]
    fields: dict[str, object] = {}
    for name, place, axis in (
        ("a", first, axes[0] if len(axes) == 2 else None),
        ("b", second, axes[-1] if axes else None),
    ):
        kept = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.float32)
        low, high, fraction = axis.linear() if axis else kept
        fields[f"{name}_size"] = memory[place] if axis else 1
        fields[name] = low.size
        fields[f"{name}_low"] = program.constant(low.astype(np.int32))
        fields[f"{name}_high"] = program.constant(high.astype(np.int32))
        fields[f"{name}_fraction"] = program.constant(fraction.astype(np.float32))
    y_zero_point = int(node.attrs["y"].zero_point) if quantized else 0
    program.emit(
        KERNELS[dtype],
        x=program.operand(x),
        y=program.operand(y),
        outer=math.prod(memory[: max(first, 0)]),
        middle=math.prod(memory[first + 1 : max(second, 0)]),
        inner=math.prod(memory[second + 1 :]),
        x_zero_point=int(node.attrs["x"].zero_point) if quantized else 0,
        x_scale=np.float32(node.attrs["x"].scale if quantized else 1),
        y_scale=np.float32(node.attrs["y"].scale if quantized else 1),
        low=np.float32(-y_zero_point),
        high=np.float32(255 - y_zero_point),
        y_zero_point=y_zero_point,
        **fields,  # type: ignore[arg-type]
    )


@helper
def _fit(low, high, n, size):  # type: ignore[no-untyped-def]
    """True when every index is one of an axis of `size`: tables are data, a file may hold any."""
    lowest, highest = np.int64(0), np.int64(0)
    for i in range(n):
        lowest = min(lowest, np.int64(low[i]), np.int64(high[i]))
        highest = max(highest, np.int64(low[i]), np.int64(high[i]))
    return n == 0 or (lowest >= 0 and highest < size)


def _declare(name: str, itemsize: int) -> Kernel:
    quantized = name == "u8"

    def extents(row: Mapping[str, int]) -> list[Extent]:
        for field in ("a_size", "b_size"):
            within(row, field, 0, 1 << 31)
        n = product(row, "outer", "a_size", "middle", "b_size", "inner")
        m = product(row, "outer", "a", "middle", "b", "inner")
        tables = [
            Extent(f"{axis}_{what}", 4 * row[axis])
            for axis in "ab"
            for what in ("low", "high", "fraction")
        ]
        return [Extent("x", itemsize * n), Extent("y", itemsize * m, writes=True), *tables]

    @helper
    def load16(address, row):  # type: ignore[no-untyped-def]
        if quantized:
            q = sub_i32x16(load_u8_as_i32x16(address), splat_i32x16(np.int32(row[X_ZERO_POINT])))
            return mul_f32x16(i32x16_to_f32x16(q), splat_f32x16(row_f32(row, X_SCALE)))
        return load_f32x16(address)

    @helper
    def load1(address, row):  # type: ignore[no-untyped-def]
        if quantized:
            q = sub32(np.int32(as_u8(address)[0]), np.int32(row[X_ZERO_POINT]))
            return np.float32(q) * row_f32(row, X_SCALE)
        return as_f32(address)[0]

    @helper
    def pixel(x00, x01, x10, x11, y, fa, fb, row):  # type: ignore[no-untyped-def]
        """`inner` values between four places of x."""
        n = row[INNER]
        c = 0
        while c < n and n >= 16:
            at = itemsize * min(c, n - 16)  # the last block may overlap
            p, q = load16(x00 + at, row), load16(x01 + at, row)
            top = add_f32x16(p, mul_f32x16(sub_f32x16(q, p), splat_f32x16(fb)))
            p, q = load16(x10 + at, row), load16(x11 + at, row)
            bottom = add_f32x16(p, mul_f32x16(sub_f32x16(q, p), splat_f32x16(fb)))
            t = add_f32x16(top, mul_f32x16(sub_f32x16(bottom, top), splat_f32x16(fa)))
            if quantized:
                q8 = quantize_u8x16(
                    div_f32x16(t, splat_f32x16(row_f32(row, Y_SCALE))),
                    splat_f32x16(row_f32(row, LOW)),
                    splat_f32x16(row_f32(row, HIGH)),
                    splat_i32x16(np.int32(row[Y_ZERO_POINT])),
                )
                store_u8x16(y + at, q8)
            else:
                store_f32x16(y + at, t)
            c += 16
        while c < n:
            at1 = itemsize * c
            p1, q1 = load1(x00 + at1, row), load1(x01 + at1, row)
            top1 = p1 + (q1 - p1) * fb
            p1, q1 = load1(x10 + at1, row), load1(x11 + at1, row)
            bottom1 = p1 + (q1 - p1) * fb
            t1 = top1 + (bottom1 - top1) * fa
            if quantized:
                as_u8(y)[c] = quantize_u8(
                    t1 / row_f32(row, Y_SCALE),
                    row_f32(row, LOW),
                    row_f32(row, HIGH),
                    np.int32(row[Y_ZERO_POINT]),
                )
            else:
                as_f32(y)[c] = t1
            c += 1

    @kernel(f"resize_linear_{name}", FIELDS, extents, family="resize_linear")
    def resize_linear(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        a_low = as_i32(operand(row, A_LOW, arena, constants))
        a_high = as_i32(operand(row, A_HIGH, arena, constants))
        a_fraction = as_f32(operand(row, A_FRACTION, arena, constants))
        b_low = as_i32(operand(row, B_LOW, arena, constants))
        b_high = as_i32(operand(row, B_HIGH, arena, constants))
        b_fraction = as_f32(operand(row, B_FRACTION, arena, constants))
        if not _fit(a_low, a_high, row[A], row[A_SIZE]):
            return BAD_INDEX
        if not _fit(b_low, b_high, row[B], row[B_SIZE]):
            return BAD_INDEX
        run = row[INNER] * itemsize
        lines = row[OUTER] * row[A] * row[MIDDLE]
        start, stop = share(lines, thread, threads, 1)
        for line in range(start, stop):
            m = line % row[MIDDLE]
            a = line // row[MIDDLE] % row[A]
            o = line // row[MIDDLE] // row[A]
            upper = (o * row[A_SIZE] + np.int64(a_low[a])) * row[MIDDLE] + m
            lower_line = (o * row[A_SIZE] + np.int64(a_high[a])) * row[MIDDLE] + m
            x0 = x + upper * row[B_SIZE] * run
            x1 = x + lower_line * row[B_SIZE] * run
            for b in range(row[B]):
                left = np.int64(b_low[b]) * run
                right = np.int64(b_high[b]) * run
                pixel(
                    x0 + left, x0 + right, x1 + left, x1 + right,
                    y + (line * row[B] + b) * run, a_fraction[a], b_fraction[b], row,
                )  # fmt: skip
        return 0

    return resize_linear


KERNELS = {"uint8": _declare("u8", 1), "float32": _declare("f32", 4)}

SPEC = OpSpec("Resize", "qrt", infer, reference, lower, layout="any")
ONNX_SPEC = OpSpec("Resize", "", infer, reference, lower, layout="any")
UPSAMPLE = OpSpec("Upsample", "", infer, reference, lower, layout="any")
