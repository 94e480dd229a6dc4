"""Kernel of the float32 depthwise Conv: one weight per channel and tap, channels last."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.jit.declare import Extent, helper, kernel
from qrt.ops.float_conv_kernels import (
    BATCH,
    BIAS,
    CHANNELS,
    DILATION_H,
    DILATION_W,
    FIELDS,
    IH,
    IW,
    KH,
    KW,
    OH,
    OW,
    PAD_LEFT,
    PAD_TOP,
    STRIDE_H,
    STRIDE_W,
    W,
    X,
    Y,
    extents,
)
from qrt.ops.sizes import within
from qrt.ops.windows import first_tap, stop_tap
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import add_f32x16, load_f32x16, mul_f32x16, splat_f32x16, store_f32x16


def depthwise_extents(row: Mapping[str, int]) -> list[Extent]:
    within(row, "inputs", 1, 1)
    within(row, "outputs", 1, 1)
    return extents(row)


@helper
def _fold(acc, x, w):  # type: ignore[no-untyped-def]
    """acc + x * w for 16 channels at addresses."""
    return add_f32x16(acc, mul_f32x16(load_f32x16(x), load_f32x16(w)))


@kernel("depthwise_conv_f32", FIELDS, depthwise_extents, family="conv_f32")
def depthwise_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = operand(row, X, arena, constants)
    w = operand(row, W, arena, constants)
    bias = operand(row, BIAS, arena, constants)
    y = operand(row, Y, arena, constants)
    channels = row[CHANNELS]
    pixel = 4 * channels
    # read once: LLVM must assume that a store to y changes the row
    ih, iw, oh, ow, kh, kw = row[IH], row[IW], row[OH], row[OW], row[KH], row[KW]
    dilation_h, dilation_w = row[DILATION_H], row[DILATION_W]
    stride_w, pad_left = row[STRIDE_W], row[PAD_LEFT]
    row_step = dilation_h * iw * pixel
    column_step = dilation_w * pixel
    start, stop = share(row[BATCH] * oh, thread, threads, 1)
    for r in range(start, stop):
        top = r % oh * row[STRIDE_H] - row[PAD_TOP]
        i0 = first_tap(top, dilation_h)
        i1 = stop_tap(top, ih, kh, dilation_h)
        line = x + (r // oh * ih + top + i0 * dilation_h) * iw * pixel
        for o in range(ow):
            left = o * stride_w - pad_left
            j0 = first_tap(left, dilation_w)
            j1 = stop_tap(left, iw, kw, dilation_w)
            source = line + (left + j0 * dilation_w) * pixel
            weights = w + (i0 * kw + j0) * pixel
            target = y + (r * ow + o) * pixel
            c = 0
            while c + 64 <= channels:
                s0 = s1 = s2 = s3 = splat_f32x16(np.float32(0))
                for i in range(i1 - i0):
                    v = source + i * row_step + 4 * c
                    k = weights + i * kw * pixel + 4 * c
                    for _ in range(j1 - j0):
                        s0 = _fold(s0, v, k)
                        s1 = _fold(s1, v + 64, k + 64)
                        s2 = _fold(s2, v + 128, k + 128)
                        s3 = _fold(s3, v + 192, k + 192)
                        v += column_step
                        k += pixel
                at = 4 * c
                store_f32x16(target + at, add_f32x16(s0, load_f32x16(bias + at)))
                store_f32x16(target + at + 64, add_f32x16(s1, load_f32x16(bias + at + 64)))
                store_f32x16(target + at + 128, add_f32x16(s2, load_f32x16(bias + at + 128)))
                store_f32x16(target + at + 192, add_f32x16(s3, load_f32x16(bias + at + 192)))
                c += 64
            while c < channels and channels >= 16:
                at = 4 * min(c, channels - 16)  # the last block may overlap
                acc = splat_f32x16(np.float32(0))
                for i in range(i1 - i0):
                    for j in range(j1 - j0):
                        v = source + i * row_step + j * column_step + at
                        acc = _fold(acc, v, weights + (i * kw + j) * pixel + at)
                store_f32x16(target + at, add_f32x16(acc, load_f32x16(bias + at)))
                c += 16
            while c < channels:
                acc1 = np.float32(0)
                for i in range(i1 - i0):
                    for j in range(j1 - j0):
                        v1 = as_f32(source + i * row_step + j * column_step)[c]
                        acc1 += v1 * as_f32(weights + (i * kw + j) * pixel)[c]
                as_f32(target)[c] = acc1 + as_f32(bias)[c]
                c += 1
    return 0
