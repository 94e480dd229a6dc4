"""qrt.AveragePool: uint8 to uint8 or float32, channels last (ONNX AveragePool, opset 1 to 22).

acc = sum (q - x_zero_point) over the window, count = elements in it; m = x_scale / (y_scale *
float32(count)), y = clamp(round_half_even(float32(acc) * m) + y_zero_point); float32 output is
float32(acc) * (x_scale / float32(count)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.averages import average_quantized, average_real, check_average, emit_fields
from qrt.ops.sizes import within
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.ops.windows import FIELDS as WINDOW_FIELDS
from qrt.ops.windows import MAX_ELEMENTS, check_fields, first_tap, output_shape, parse, stop_tap
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
    "x", "y", *WINDOW_FIELDS, "include_pad",
    "x_zero_point", "x_scale", "y_scale", "low", "high", "y_zero_point",
)  # fmt: skip
(
    X, Y, BATCH, IH, IW, CHANNELS, OH, OW, KH, KW, STRIDE_H, STRIDE_W,
    PAD_TOP, PAD_LEFT, PAD_BOTTOM, PAD_RIGHT, DILATION_H, DILATION_W, INCLUDE_PAD,
    X_ZERO_POINT, X_SCALE, Y_SCALE, LOW, HIGH, Y_ZERO_POINT,
) = slots(FIELDS)  # fmt: skip


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    y: QParams | None = node.attrs["y"]
    return [(output_shape(node, parse(node)), y.dtype if y else np.dtype(np.float32))]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    windows = parse(node)
    centered = x.astype(np.int64) - int(node.attrs["x"].zero_point)
    acc = sum(windows.gather(centered, 0))
    count = windows.sizes(bool(node.attrs.get("count_include_pad", 0)))
    if node.attrs["y"] is None:
        return [average_real(np.asarray(acc), count, node.attrs)]
    return [average_quantized(np.asarray(acc), count, node.attrs)]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    check_average(node)
    windows = parse(node)
    if int(np.prod(windows.kernel)) > MAX_ELEMENTS:
        raise UnsupportedError(f"AveragePool over more than {MAX_ELEMENTS} elements")
    if not (windows.sizes(bool(node.attrs.get("count_include_pad", 0))) > 0).all():
        raise UnsupportedError("AveragePool with a window that has no elements")
    batch, channels = x.static_shape[:2]
    if len(windows.spatial) > 2:
        program.note(f"windows over {len(windows.spatial)} axes have no kernel")
        program.host(lambda inputs: list(reference(node, inputs)), [x], [y], own=True)
        return
    program.emit(
        KERNELS[np.dtype(y.dtype).name],
        x=program.operand(x),
        y=program.operand(y),
        **windows.fields(batch, channels),
        include_pad=int(node.attrs.get("count_include_pad", 0)),
        **emit_fields(node.attrs),
    )


@helper
def read(row):  # type: ignore[no-untyped-def]
    """The numbers of the averages, once per call."""
    return (
        np.int32(row[X_ZERO_POINT]),
        row_f32(row, X_SCALE),
        row_f32(row, Y_SCALE),
        row_f32(row, LOW),
        row_f32(row, HIGH),
        np.int32(row[Y_ZERO_POINT]),
    )


def _declare(name: str, itemsize: int) -> Kernel:
    quantized = name == "u8"

    def extents(row: Mapping[str, int]) -> list[Extent]:
        n, m = check_fields(row)
        within(row, "include_pad", 0, 1)
        return [Extent("x", n), Extent("y", itemsize * m, writes=True)]

    @helper
    def store(y, acc, m, low, high, y_zero_point):  # type: ignore[no-untyped-def]
        """16 averages of sums `acc`."""
        t = mul_f32x16(i32x16_to_f32x16(acc), splat_f32x16(m))
        if quantized:
            q = quantize_u8x16(t, splat_f32x16(low), splat_f32x16(high), splat_i32x16(y_zero_point))
            store_u8x16(y, q)
        else:
            store_f32x16(y, t)

    @helper
    def window(x, y, channels, rows, columns, row_step, column_step, count, values):  # type: ignore[no-untyped-def]
        x_zero_point, x_scale, y_scale, low, high, y_zero_point = values
        # padding adds zero: only what was read is centered
        center = mul32(np.int32(rows * columns), x_zero_point)
        if quantized:
            m = x_scale / (y_scale * np.float32(count))
        else:
            m = x_scale / np.float32(count)
        c = 0
        while c + 64 <= channels:
            a0 = a1 = a2 = a3 = splat_i32x16(sub32(np.int32(0), center))
            for i in range(rows):
                source = x + i * row_step + c
                for _ in range(columns):
                    a0 = add_i32x16(a0, load_u8_as_i32x16(source))
                    a1 = add_i32x16(a1, load_u8_as_i32x16(source + 16))
                    a2 = add_i32x16(a2, load_u8_as_i32x16(source + 32))
                    a3 = add_i32x16(a3, load_u8_as_i32x16(source + 48))
                    source += column_step
            store(y + itemsize * c, a0, m, low, high, y_zero_point)
            store(y + itemsize * (c + 16), a1, m, low, high, y_zero_point)
            store(y + itemsize * (c + 32), a2, m, low, high, y_zero_point)
            store(y + itemsize * (c + 48), a3, m, low, high, y_zero_point)
            c += 64
        while c < channels and channels >= 16:
            at = min(c, channels - 16)  # the last block may overlap
            acc = splat_i32x16(sub32(np.int32(0), center))
            for i in range(rows):
                for j in range(columns):
                    q = load_u8_as_i32x16(x + i * row_step + j * column_step + at)
                    acc = add_i32x16(acc, q)
            store(y + itemsize * at, acc, m, low, high, y_zero_point)
            c += 16
        while c < channels:
            acc1 = sub32(np.int32(0), center)
            for i in range(rows):
                for j in range(columns):
                    acc1 = add32(acc1, np.int32(as_u8(x + i * row_step + j * column_step)[c]))
            t1 = np.float32(acc1) * m
            if quantized:
                as_u8(y)[c] = quantize_u8(t1, low, high, y_zero_point)
            else:
                as_f32(y)[c] = t1
            c += 1

    @kernel(f"average_pool_u8_{name}", FIELDS, extents, family="average_pool")
    def average_pool_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        pixel = row[CHANNELS]
        # read once: LLVM must assume that a store to y changes the row
        ih, iw, oh, ow = row[IH], row[IW], row[OH], row[OW]
        kh, kw, dilation_h, dilation_w = row[KH], row[KW], row[DILATION_H], row[DILATION_W]
        stride_w, pad_left, include_pad = row[STRIDE_W], row[PAD_LEFT], row[INCLUDE_PAD]
        padded_h, padded_w = ih + row[PAD_BOTTOM], iw + row[PAD_RIGHT]
        values = read(row)
        start, stop = share(row[BATCH] * oh, thread, threads, 1)
        for r in range(start, stop):
            top = r % oh * row[STRIDE_H] - row[PAD_TOP]
            i0 = first_tap(top, dilation_h)
            i1 = stop_tap(top, ih, kh, dilation_h)
            h_count = stop_tap(top, padded_h, kh, dilation_h) if include_pad else i1 - i0
            line = x + (r // oh * ih + top + i0 * dilation_h) * iw * pixel
            for o in range(ow):
                left = o * stride_w - pad_left
                j0 = first_tap(left, dilation_w)
                j1 = stop_tap(left, iw, kw, dilation_w)
                w_count = stop_tap(left, padded_w, kw, dilation_w) if include_pad else j1 - j0
                window(
                    line + (left + j0 * dilation_w) * pixel,
                    y + (r * ow + o) * pixel * itemsize,
                    pixel,
                    max(i1 - i0, 0),
                    max(j1 - j0, 0),
                    dilation_h * iw * pixel,
                    dilation_w * pixel,
                    h_count * w_count,
                    values,
                )
        return 0

    return average_pool_kernel


KERNELS = {"uint8": _declare("u8", 1), "float32": _declare("f32", 4)}

SPEC = OpSpec("AveragePool", "qrt", infer, reference, lower, layout="channels_last")
