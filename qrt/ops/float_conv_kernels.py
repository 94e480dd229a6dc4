"""Kernels of the float32 Conv: four pixels or one, 16 to 64 outputs at a time, and depthwise.

Each output is one chain of additions over (kernel row, kernel column, input channel) and then the
bias, whichever block computes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.jit.declare import Extent, helper, kernel, slots
from qrt.ops.sizes import within
from qrt.ops.windows import FIELDS as WINDOW_FIELDS
from qrt.ops.windows import check_fields, first_tap, stop_tap
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import add_f32x16, load_f32x16, mul_f32x16, splat_f32x16, store_f32x16

# weights are (group, kh, kw, inputs, outputs) per group; `channels` counts inputs of all groups
FIELDS = ("x", "w", "bias", "y", *WINDOW_FIELDS, "group", "inputs", "outputs")
(
    X, W, BIAS, Y, BATCH, IH, IW, CHANNELS, OH, OW, KH, KW, STRIDE_H, STRIDE_W,
    PAD_TOP, PAD_LEFT, PAD_BOTTOM, PAD_RIGHT, DILATION_H, DILATION_W, GROUP, INPUTS, OUTPUTS,
) = slots(FIELDS)  # fmt: skip


def extents(row: Mapping[str, int]) -> list[Extent]:
    for name in ("group", "inputs", "outputs"):
        within(row, name, 1, 1 << 31)
    if row["channels"] != row["group"] * row["inputs"]:
        raise ValueError("channels must be group * inputs")
    n, _ = check_fields(row)
    outputs = row["group"] * row["outputs"]
    return [
        Extent("x", 4 * n),
        Extent("w", 4 * outputs * row["inputs"] * row["kh"] * row["kw"]),
        Extent("bias", 4 * outputs),
        Extent("y", 4 * row["batch"] * row["oh"] * row["ow"] * outputs, writes=True),
    ]


@helper
def _pixel(x, w, y, bias, n, k, row, rows, columns, w_row):  # type: ignore[no-untyped-def]
    """`n` outputs of one pixel: `rows` x `columns` taps from x on, `k` channels each."""
    row_step = 4 * row[DILATION_H] * row[IW] * row[CHANNELS]
    column_step = 4 * row[DILATION_W] * row[CHANNELS]
    w_k = 4 * row[OUTPUTS]
    j = 0
    while j + 64 <= n:
        s0 = s1 = s2 = s3 = splat_f32x16(np.float32(0))
        for kh in range(rows):
            for kw in range(columns):
                source = as_f32(x + kh * row_step + kw * column_step)
                at = w + kh * w_row + kw * k * w_k + 4 * j
                for i in range(k):
                    v = splat_f32x16(source[i])
                    s0 = add_f32x16(s0, mul_f32x16(v, load_f32x16(at)))
                    s1 = add_f32x16(s1, mul_f32x16(v, load_f32x16(at + 64)))
                    s2 = add_f32x16(s2, mul_f32x16(v, load_f32x16(at + 128)))
                    s3 = add_f32x16(s3, mul_f32x16(v, load_f32x16(at + 192)))
                    at += w_k
        store_f32x16(y + 4 * j, add_f32x16(s0, load_f32x16(bias + 4 * j)))
        store_f32x16(y + 4 * j + 64, add_f32x16(s1, load_f32x16(bias + 4 * j + 64)))
        store_f32x16(y + 4 * j + 128, add_f32x16(s2, load_f32x16(bias + 4 * j + 128)))
        store_f32x16(y + 4 * j + 192, add_f32x16(s3, load_f32x16(bias + 4 * j + 192)))
        j += 64
    while j < n and n >= 16:
        first = 4 * min(j, n - 16)  # the last block may overlap
        s = splat_f32x16(np.float32(0))
        for kh in range(rows):
            for kw in range(columns):
                source = as_f32(x + kh * row_step + kw * column_step)
                at = w + kh * w_row + kw * k * w_k + first
                for i in range(k):
                    s = add_f32x16(s, mul_f32x16(splat_f32x16(source[i]), load_f32x16(at)))
                    at += w_k
        store_f32x16(y + first, add_f32x16(s, load_f32x16(bias + first)))
        j += 16
    while j < n:
        s1x = np.float32(0)
        for kh in range(rows):
            for kw in range(columns):
                source = as_f32(x + kh * row_step + kw * column_step)
                at = w + kh * w_row + kw * k * w_k
                for i in range(k):
                    s1x += source[i] * as_f32(at)[j]
                    at += w_k
        as_f32(y)[j] = s1x + as_f32(bias)[j]
        j += 1


@helper
def _four_pixels(x, x_next, w, y, y_next, bias, n, k, row, rows, columns, w_row):  # type: ignore[no-untyped-def]
    """`_pixel` for four pixels, x_next and y_next bytes apart, and n >= 32."""
    row_step = 4 * row[DILATION_H] * row[IW] * row[CHANNELS]
    column_step = 4 * row[DILATION_W] * row[CHANNELS]
    w_k = 4 * row[OUTPUTS]
    j = 0
    while j < n:
        first = 4 * min(j, n - 32)  # the last block may overlap
        s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = splat_f32x16(np.float32(0))
        for kh in range(rows):
            for kw in range(columns):
                p0 = as_f32(x + kh * row_step + kw * column_step)
                p1 = as_f32(x + kh * row_step + kw * column_step + x_next)
                p2 = as_f32(x + kh * row_step + kw * column_step + 2 * x_next)
                p3 = as_f32(x + kh * row_step + kw * column_step + 3 * x_next)
                at = w + kh * w_row + kw * k * w_k + first
                for i in range(k):
                    w0 = load_f32x16(at)
                    w1 = load_f32x16(at + 64)
                    v = splat_f32x16(p0[i])
                    s00 = add_f32x16(s00, mul_f32x16(v, w0))
                    s01 = add_f32x16(s01, mul_f32x16(v, w1))
                    v = splat_f32x16(p1[i])
                    s10 = add_f32x16(s10, mul_f32x16(v, w0))
                    s11 = add_f32x16(s11, mul_f32x16(v, w1))
                    v = splat_f32x16(p2[i])
                    s20 = add_f32x16(s20, mul_f32x16(v, w0))
                    s21 = add_f32x16(s21, mul_f32x16(v, w1))
                    v = splat_f32x16(p3[i])
                    s30 = add_f32x16(s30, mul_f32x16(v, w0))
                    s31 = add_f32x16(s31, mul_f32x16(v, w1))
                    at += w_k
        b0 = load_f32x16(bias + first)
        b1 = load_f32x16(bias + first + 64)
        target = y + first
        store_f32x16(target, add_f32x16(s00, b0))
        store_f32x16(target + 64, add_f32x16(s01, b1))
        store_f32x16(target + y_next, add_f32x16(s10, b0))
        store_f32x16(target + y_next + 64, add_f32x16(s11, b1))
        store_f32x16(target + 2 * y_next, add_f32x16(s20, b0))
        store_f32x16(target + 2 * y_next + 64, add_f32x16(s21, b1))
        store_f32x16(target + 3 * y_next, add_f32x16(s30, b0))
        store_f32x16(target + 3 * y_next + 64, add_f32x16(s31, b1))
        j += 32


@kernel("conv_f32", FIELDS, extents, family="conv_f32")
def conv_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = operand(row, X, arena, constants)
    w = operand(row, W, arena, constants)
    bias = operand(row, BIAS, arena, constants)
    y = operand(row, Y, arena, constants)
    inputs, outputs = row[INPUTS], row[OUTPUTS]
    pixel = 4 * row[CHANNELS]
    # read once: LLVM must assume that a store to y changes the row
    ih, iw, oh, ow, kh, kw = row[IH], row[IW], row[OH], row[OW], row[KH], row[KW]
    dilation_h, dilation_w = row[DILATION_H], row[DILATION_W]
    stride_w, pad_left, group = row[STRIDE_W], row[PAD_LEFT], row[GROUP]
    w_row = 4 * kw * inputs * outputs
    w_group = kh * w_row
    reach = 3 * stride_w + (kw - 1) * dilation_w  # from the first of four pixels to the last tap
    start, stop = share(row[BATCH] * oh, thread, threads, 1)
    for r in range(start, stop):
        top = r % oh * row[STRIDE_H] - row[PAD_TOP]
        i0 = first_tap(top, dilation_h)
        i1 = max(stop_tap(top, ih, kh, dilation_h), i0)
        line = x + (r // oh * ih + top + i0 * dilation_h) * iw * pixel
        o = 0
        while o < ow:
            left = o * stride_w - pad_left
            four = outputs >= 32 and o + 4 <= ow and left >= 0 and left + reach < iw
            j0 = first_tap(left, dilation_w)
            j1 = max(stop_tap(left, iw, kw, dilation_w), j0)
            source = line + (left + j0 * dilation_w) * pixel
            weights = w + i0 * w_row + 4 * j0 * inputs * outputs
            target = y + 4 * (r * ow + o) * group * outputs
            for g in range(group):
                at_x = source + 4 * g * inputs
                at_w = weights + g * w_group
                at_y = target + 4 * g * outputs
                at_b = bias + 4 * g * outputs
                if four:
                    _four_pixels(
                        at_x, stride_w * pixel, at_w, at_y, 4 * group * outputs, at_b,
                        outputs, inputs, row, i1 - i0, kw, w_row,
                    )  # fmt: skip
                else:
                    _pixel(at_x, at_w, at_y, at_b, outputs, inputs, row, i1 - i0, j1 - j0, w_row)
            o += 4 if four else 1
    return 0
