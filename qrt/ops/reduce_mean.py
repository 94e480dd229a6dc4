"""qrt.ReduceMean: uint8 to uint8 or float32 over any axes; over (H, W) it is GlobalAveragePool.

The numbers are those of qrt.AveragePool with all reduced elements in one window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams, Value
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.averages import average_quantized, average_real, check_average, emit_fields
from qrt.ops.channels import normalized_axes
from qrt.ops.nests import numbered
from qrt.ops.reductions import FIELDS as NEST_FIELDS
from qrt.ops.reductions import nest_fields, nest_reach, reduction_nests
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.ops.windows import MAX_ELEMENTS
from qrt.simd.memory import as_f32, as_u8, operand, row_f32
from qrt.simd.scalar import add32, mul32, quantize_u8, share, sub32
from qrt.simd.vectors import (
    add_i32x16,
    i32x16_to_f32x16,
    load_u8_as_i32x16,
    mul_f32x16,
    quantize_u8x16,
    splat_f32x16,
    splat_i32x16,
    store_f32x16,
    store_u8x16,
)

FIELDS = (
    "x", "y", *NEST_FIELDS, "x_zero_point", "x_scale", "y_scale", "low", "high", "y_zero_point",
)  # fmt: skip
(
    X, Y, N0, N1, N2, XS0, XS1, XS2, YS0, YS1, YS2, R0, R1, R2, RS0, RS1, RS2,
    X_ZERO_POINT, X_SCALE, Y_SCALE, LOW, HIGH, Y_ZERO_POINT,
) = slots(FIELDS)  # fmt: skip


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    shape = node.required(0).static_shape
    axes = reduced_axes(node, len(shape))
    y: QParams | None = node.attrs["y"]
    dtype = y.dtype if y else np.dtype(np.float32)
    return [(reduced_shape(shape, axes, bool(node.attrs["keepdims"])), dtype)]


def reduced_axes(node: Node, rank: int) -> tuple[int, ...]:
    """`axes` sorted and counted from 0."""
    return normalized_axes(tuple(node.attrs["axes"]), rank)


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """The shape after reducing `axes`."""
    if keepdims:
        return tuple(1 if a in axes else n for a, n in enumerate(shape))
    return tuple(n for a, n in enumerate(shape) if a not in axes)


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    axes = reduced_axes(node, x.ndim)
    count = np.asarray(math.prod(x.shape[a] for a in axes))
    if not int(count):
        shape = reduced_shape(x.shape, axes, bool(node.attrs["keepdims"]))
        fill = np.nan if node.attrs["y"] is None else node.attrs["qmin"]
        return [np.full(shape, fill, node.outputs[0].dtype)]
    centered = x.astype(np.int64) - int(node.attrs["x"].zero_point)
    acc = centered.sum(axis=axes, keepdims=bool(node.attrs["keepdims"]))
    average = average_real if node.attrs["y"] is None else average_quantized
    return [average(np.asarray(acc), count, node.attrs)]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    check_average(node)
    axes = reduced_axes(node, len(x.static_shape))
    count = math.prod(x.static_shape[a] for a in axes)
    if not count:
        # 0 / 0 is NaN, which quantizes to qmin
        fill = np.nan if node.attrs["y"] is None else node.attrs["qmin"]
        full = np.full(y.static_shape, fill, y.dtype)
        program.alias(y, Value(y.name, y.dtype, y.shape, full))
        return
    if count > MAX_ELEMENTS:
        raise UnsupportedError(f"the mean of {count} elements, at most {MAX_ELEMENTS}")
    outputs, reduced = reduction_nests(x, y, axes, bool(node.attrs["keepdims"]))
    program.emit(
        KERNELS[np.dtype(y.dtype).name],
        x=program.operand(x),
        y=program.operand(y),
        **nest_fields(outputs, reduced),
        **emit_fields(node.attrs),
    )


def _declare(name: str, itemsize: int) -> Kernel:
    quantized = name == "u8"

    def extents(row: Mapping[str, int]) -> list[Extent]:
        x, y = nest_reach(row)
        if not 0 < math.prod(numbered(row, "r", 3)) <= MAX_ELEMENTS:
            raise ValueError(f"the mean must be of 1 to {MAX_ELEMENTS} elements")
        return [
            Extent("x", x[1] - x[0], start=x[0]),
            Extent("y", itemsize * (y[1] - y[0]), writes=True, start=itemsize * y[0]),
        ]

    @helper
    def store(y, acc, m, low, high, y_zero_point):  # type: ignore[no-untyped-def]
        """16 means of sums `acc`."""
        t = mul_f32x16(i32x16_to_f32x16(acc), splat_f32x16(m))
        if quantized:
            q = quantize_u8x16(t, splat_f32x16(low), splat_f32x16(high), splat_i32x16(y_zero_point))
            store_u8x16(y, q)
        else:
            store_f32x16(y, t)

    @helper
    def line(x, y, n, x_step, y_step, row):  # type: ignore[no-untyped-def]
        """`n` means: of the reduced nest at x, x + x_step, ..., to elements y, y + y_step, ..."""
        low = row_f32(row, LOW)
        high = row_f32(row, HIGH)
        y_zero_point = np.int32(row[Y_ZERO_POINT])
        count = row[R0] * row[R1] * row[R2]
        center = sub32(0, mul32(np.int32(count), np.int32(row[X_ZERO_POINT])))
        if quantized:
            m = row_f32(row, X_SCALE) / (row_f32(row, Y_SCALE) * np.float32(count))
        else:
            m = row_f32(row, X_SCALE) / np.float32(count)
        c = 0
        dense = x_step == 1 and y_step == 1
        while dense and c + 64 <= n:
            a0 = a1 = a2 = a3 = splat_i32x16(center)
            for i in range(row[R0]):
                for j in range(row[R1]):
                    source = x + c + i * row[RS0] + j * row[RS1]
                    for _ in range(row[R2]):
                        a0 = add_i32x16(a0, load_u8_as_i32x16(source))
                        a1 = add_i32x16(a1, load_u8_as_i32x16(source + 16))
                        a2 = add_i32x16(a2, load_u8_as_i32x16(source + 32))
                        a3 = add_i32x16(a3, load_u8_as_i32x16(source + 48))
                        source += row[RS2]
            store(y + itemsize * c, a0, m, low, high, y_zero_point)
            store(y + itemsize * (c + 16), a1, m, low, high, y_zero_point)
            store(y + itemsize * (c + 32), a2, m, low, high, y_zero_point)
            store(y + itemsize * (c + 48), a3, m, low, high, y_zero_point)
            c += 64
        while dense and c < n and n >= 16:
            at = min(c, n - 16)  # the last block may overlap
            acc = splat_i32x16(center)
            for i in range(row[R0]):
                for j in range(row[R1]):
                    source = x + at + i * row[RS0] + j * row[RS1]
                    for k in range(row[R2]):
                        acc = add_i32x16(acc, load_u8_as_i32x16(source + k * row[RS2]))
            store(y + itemsize * at, acc, m, low, high, y_zero_point)
            c += 16
        while c < n:
            acc1 = center
            for i in range(row[R0]):
                for j in range(row[R1]):
                    source8 = as_u8(x + c * x_step + i * row[RS0] + j * row[RS1])
                    if row[RS2] == 1:
                        for k in range(row[R2]):
                            acc1 = add32(acc1, np.int32(source8[k]))
                    else:
                        for k in range(row[R2]):
                            acc1 = add32(acc1, np.int32(source8[k * row[RS2]]))
            t1 = np.float32(acc1) * m
            if quantized:
                as_u8(y)[c * y_step] = quantize_u8(t1, low, high, y_zero_point)
            else:
                as_f32(y)[c * y_step] = t1
            c += 1

    @kernel(f"reduce_mean_u8_{name}", FIELDS, extents, family="reduce_mean")
    def reduce_mean_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        rows = row[N0] * row[N1]
        # few rows (one image): threads share the columns, in blocks of whole vectors
        c0, c1 = np.int64(0), row[N2]
        r0, r1 = np.int64(0), rows
        if rows >= threads:
            r0, r1 = share(rows, thread, threads, 1)
        else:
            c0, c1 = share(row[N2], thread, threads, 64)
        for r in range(r0, r1):
            i = r // row[N1]
            j = r % row[N1]
            at_x = x + i * row[XS0] + j * row[XS1] + c0 * row[XS2]
            at_y = y + itemsize * (i * row[YS0] + j * row[YS1] + c0 * row[YS2])
            line(at_x, at_y, c1 - c0, row[XS2], row[YS2], row)
        return 0

    return reduce_mean_kernel


KERNELS = {"uint8": _declare("u8", 1), "float32": _declare("f32", 4)}

SPEC = OpSpec("ReduceMean", "qrt", infer, reference, lower, layout="any")
