"""Sums of the activations that every output sees: what weights with a zero point subtract.

A window's sum is a sum of pixels, and neighbours share theirs. So each pixel's channels are added
once (`pixel_sums_kernel`), and windows are boxes over those (`window_sums_kernel`): down the rows
of a kernel into one line, as long as all windows of a line of outputs reach, then along that line.
A pad is a pixel of zero points. Sums wrap to 32 bits, as those of the product do.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.gemm.extents import GEOMETRY, LIMIT
from qrt.jit.declare import Extent, helper, kernel, slots
from qrt.simd.memory import as_i32, operand
from qrt.simd.scalar import add32, mul32, share
from qrt.simd.vectors import (
    add_i32x16,
    first_u8x16,
    load_i32x16,
    load_u8x16,
    load_u8x64,
    splat_i32x16,
    store_i32x16,
    sum_u8x16,
    sum_u8x64,
)

PIXEL_SIZES = ("batch", "height", "width", "groups")
PIXEL_STEPS = ("x_pixel", "x_row", "x_image", "x_group", "channels", "max_threads")
PIXEL_FIELDS = (
    "x",
    "y",  # int32 (groups, batch, height, width)
    *PIXEL_SIZES,
    *PIXEL_STEPS,  # bytes, as the product's; `channels` bytes of each pixel are added
)
(
    X, Y, BATCH, HEIGHT, WIDTH, GROUPS, X_PIXEL, X_ROW, X_IMAGE, X_GROUP, CHANNELS, MAX_THREADS,
) = slots(PIXEL_FIELDS)  # fmt: skip
GRAIN = 16  # pixels: threads write lines of the cache of their own

WINDOW_SIZES = tuple(name for name in GEOMETRY if not name.startswith("pad"))
WINDOW_FIELDS = (
    "x",  # int32 (groups, batch, height, width): sums of pixels
    "y",  # int32 (groups, batch, out_height, out_width)
    "pad",  # a row of x zero points, as long as a tap's channels
    "rows",  # scratch: a line of int32 per thread
    *GEOMETRY,
    "channels",
    "groups",
    "max_threads",
)
(
    W_X, W_Y, W_PAD, W_ROWS, W_BATCH, W_HEIGHT, W_WIDTH, W_OUT_HEIGHT, W_OUT_WIDTH, W_KERNEL_H,
    W_KERNEL_W, W_STRIDE_H, W_STRIDE_W, W_PAD_H, W_PAD_W, W_DILATION_H, W_DILATION_W, W_CHANNELS,
    W_GROUPS, W_MAX_THREADS,
) = slots(WINDOW_FIELDS)  # fmt: skip
SPAN = 2**31  # pixels that a line's windows may reach: steps along one stay far inside int64


@helper
def sum_bytes(x, n):  # type: ignore[no-untyped-def]
    """The sum of n bytes, int32; reads up to 15 behind them."""
    total = np.int32(0)
    i = 0
    while i + 64 <= n:
        total = add32(total, sum_u8x64(load_u8x64(x + i)))
        i += 64
    while i + 16 <= n:
        total = add32(total, sum_u8x16(load_u8x16(x + i)))
        i += 16
    if i < n:
        total = add32(total, sum_u8x16(first_u8x16(load_u8x16(x + i), n - i)))
    return total


@helper
def sum_runs(source, stride, count, step, start, y, n):  # type: ignore[no-untyped-def]
    """y[i] = start + the sum of `count` int32, `step` bytes apart from source[i * stride] on, for
    n outputs."""
    i = 0
    if stride == 1:
        while i + 16 <= n:
            lanes = splat_i32x16(start)
            for k in range(count):
                lanes = add_i32x16(lanes, load_i32x16(source + i * 4 + k * step))
            store_i32x16(y + i * 4, lanes)
            i += 16
    while i < n:
        total = start
        for k in range(count):
            total = add32(total, as_i32(source + i * stride * 4 + k * step)[0])
        as_i32(y)[i] = total
        i += 1


def _check(row: Mapping[str, int], positive: tuple[str, ...], others: tuple[str, ...]) -> None:
    for names, least in ((positive, 1), (others, 0)):
        for name in names:
            if not least <= row[name] < LIMIT:
                raise ValueError(f"{name} must be at least {least}, got {row[name]}")


def pixel_sums_extents(row: Mapping[str, int]) -> list[Extent]:
    """Extents of the sums of pixels: x to the last channel of the last pixel, y in full.

    Raises ValueError for a size that is not positive or a step that is negative.
    """
    _check(row, PIXEL_SIZES, PIXEL_STEPS)
    last = sum(
        (row[count] - 1) * row[step]
        for count, step in (
            ("batch", "x_image"),
            ("height", "x_row"),
            ("width", "x_pixel"),
            ("groups", "x_group"),
        )
    )
    pixels = row["batch"] * row["height"] * row["width"]
    return [
        Extent("x", last + row["channels"] if row["channels"] else 0),
        Extent("y", 4 * pixels * row["groups"], writes=True),
    ]


@kernel("gemm_pixel_sums", PIXEL_FIELDS, pixel_sums_extents, family="gemm_sums")
def pixel_sums_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    threads = min(threads, row[MAX_THREADS])
    if thread >= threads:
        return 0
    height, width = row[HEIGHT], row[WIDTH]
    x_pixel, channels = row[X_PIXEL], row[CHANNELS]
    total = row[BATCH] * height * width
    start, stop = share(total, thread, threads, GRAIN)
    line = start // width
    for group in range(row[GROUPS]):
        x = operand(row, X, arena, constants) + group * row[X_GROUP]
        y = as_i32(operand(row, Y, arena, constants) + group * total * 4)
        image = line // height
        iy = line - image * height
        ix = start - line * width
        m = start
        while m < stop:
            at = x + image * row[X_IMAGE] + iy * row[X_ROW] + ix * x_pixel
            end = min(stop, m + width - ix)
            for i in range(m, end):
                y[i] = sum_bytes(at, channels)
                at += x_pixel
            m = end
            ix = 0
            iy += 1
            if iy == height:
                iy = 0
                image += 1
    return 0


def line_nbytes(row: Mapping[str, int]) -> int:
    """Bytes of one thread's line of column sums, which all windows of a line of outputs reach."""
    return 4 * _span(row, "out_width", "stride_w", "kernel_w", "dilation_w")


def _span(row: Mapping[str, int], out: str, stride: str, kernel: str, dilation: str) -> int:
    return (row[out] - 1) * row[stride] + (row[kernel] - 1) * row[dilation] + 1


def window_sums_extents(row: Mapping[str, int]) -> list[Extent]:
    """Extents of the sums of windows: x and y in full, a line per thread.

    Raises ValueError for a size that is negative, or where windows reach too far.
    """
    positive = tuple(name for name in WINDOW_SIZES if name not in ("height", "width"))
    others = ("height", "width", "pad_h", "pad_w", "channels", "max_threads")
    _check(row, (*positive, "groups"), others)
    for axis in ("h", "w"):
        out = {"h": "out_height", "w": "out_width"}[axis]
        span = _span(row, out, f"stride_{axis}", f"kernel_{axis}", f"dilation_{axis}")
        if span >= SPAN:
            raise ValueError(f"the windows of {out} reach over {span} pixels")
    images = row["batch"] * row["groups"]
    return [
        Extent("x", 4 * images * row["height"] * row["width"]),
        Extent("y", 4 * images * row["out_height"] * row["out_width"], writes=True),
        Extent("pad", row["channels"]),
        Extent("rows", row["max_threads"] * line_nbytes(row), writes=True),
    ]


@kernel("gemm_window_sums", WINDOW_FIELDS, window_sums_extents, family="gemm_sums")
def window_sums_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    threads = min(threads, row[W_MAX_THREADS])
    if thread >= threads:
        return 0
    height, width = row[W_HEIGHT], row[W_WIDTH]
    out_height, out_width = row[W_OUT_HEIGHT], row[W_OUT_WIDTH]
    kernel_h, kernel_w = row[W_KERNEL_H], row[W_KERNEL_W]
    dilation_h, dilation_w = row[W_DILATION_H], row[W_DILATION_W]
    pad = sum_bytes(operand(row, W_PAD, arena, constants), row[W_CHANNELS])
    span = (out_width - 1) * row[W_STRIDE_W] + (kernel_w - 1) * dilation_w + 1
    line = operand(row, W_ROWS, arena, constants) + thread * span * 4
    left = min(row[W_PAD_W], span)
    inside = min(width, span - left)
    # the pads on both sides stay as they are, the columns between are every line's own
    pads = mul32(pad, np.int32(kernel_h))
    sum_runs(line, 1, 0, 0, pads, line, left)
    sum_runs(line, 1, 0, 0, pads, line + (left + inside) * 4, span - left - inside)
    lines = row[W_BATCH] * out_height
    start, stop = share(lines, thread, threads, 1)
    for group in range(row[W_GROUPS]):
        x = operand(row, W_X, arena, constants) + group * row[W_BATCH] * height * width * 4
        y = operand(row, W_Y, arena, constants) + group * lines * out_width * 4
        image = start // out_height
        oy = start - image * out_height
        for i in range(start, stop):
            top = oy * row[W_STRIDE_H] - row[W_PAD_H]
            # the kernel's rows that lie inside the image
            k0 = min((dilation_h - 1 - top) // dilation_h, kernel_h) if top < 0 else 0
            k1 = min((height - 1 - top) // dilation_h + 1, kernel_h) if top < height else k0
            count = max(k1 - k0, 0)
            outside = mul32(pad, np.int32(kernel_h - count))
            first = x + (image * height + top + k0 * dilation_h) * width * 4
            sum_runs(first, 1, count, dilation_h * width * 4, outside, line + left * 4, inside)
            sum_runs(line, row[W_STRIDE_W], kernel_w, dilation_w * 4, np.int32(0),
                     y + i * out_width * 4, out_width)  # fmt: skip
            oy += 1
            if oy == out_height:
                oy = 0
                image += 1
    return 0
