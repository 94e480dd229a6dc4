"""The float32 depthwise Conv: one weight per channel and tap, channels last.

Each output is one chain of fused multiply-adds over (kernel row, kernel column), then the bias;
taps in the padding read zeros. Four pixels side by side share every weight they load. Unlike a
product's tile, a block finds its pixels by steps and not by a table of pointers: with a few dozen
channels the table costs as much as the sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.ir import Node
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.product_rows import THREAD_MACS
from qrt.ops.spec import Array, Lowering
from qrt.ops.windows import FIELDS as WINDOW_FIELDS
from qrt.ops.windows import check_fields
from qrt.simd import fma, vectors
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share

# weights are (kh, kw, channels), pad is a pixel of zeros
FIELDS = ("x", "w", "bias", "y", "pad", *WINDOW_FIELDS, "max_threads")
(
    X, W, BIAS, Y, PAD, BATCH, IH, IW, CHANNELS, OH, OW, KH, KW, STRIDE_H, STRIDE_W,
    PAD_TOP, PAD_LEFT, PAD_BOTTOM, PAD_RIGHT, DILATION_H, DILATION_W, MAX_THREADS,
) = slots(FIELDS)  # fmt: skip
PIXELS = 4


@dataclass(frozen=True)
class FloatDepthwiseSpec:
    """A row of the table: channels of a block, and the features that make such blocks fast."""

    lanes: int
    features: tuple[str, ...]

    @property
    def kernel_name(self) -> str:
        """Id of the kernel."""
        return f"depthwise_f32_{PIXELS}x{self.lanes}"


# the fused multiply-add itself is what the target has, or its emulation (`simd.fma`)
FLOAT_DEPTHWISE = (FloatDepthwiseSpec(16, ("avx512", "fma")), FloatDepthwiseSpec(8, ()))


def extents(row: Mapping[str, int]) -> list[Extent]:
    """x, y, weights, bias and pad in full."""
    if not 0 < row["max_threads"] < 1 << 31:
        raise ValueError(f"max_threads must be positive, got {row['max_threads']}")
    x, y = check_fields(row)
    return [
        Extent("x", 4 * x),
        Extent("w", 4 * row["channels"] * row["kh"] * row["kw"]),
        Extent("bias", 4 * row["channels"]),
        Extent("y", 4 * y, writes=True),
        Extent("pad", 4 * row["channels"]),
    ]


def lower_depthwise(
    program: Lowering, node: Node, windows: Mapping[str, int], bias: Array
) -> None:
    """Emit the row of a Conv with as many groups as inputs and outputs; `bias` is (channels,)."""
    w = node.required(1).data
    assert w is not None
    spec = next(s for s in FLOAT_DEPTHWISE if program.features.issuperset(s.features))
    channels = w.shape[0]
    macs = windows["batch"] * windows["oh"] * windows["ow"] * w.size
    program.emit(
        FLOAT_DEPTHWISE_KERNELS[spec],
        x=program.operand(node.required(0)),
        w=program.packed(
            (id(w), "float_depthwise"), lambda: np.ascontiguousarray(w.reshape(channels, -1).T)
        ),
        bias=program.constant(bias),
        y=program.operand(node.outputs[0]),
        pad=program.constant(np.zeros(channels, np.float32)),
        **windows,
        max_threads=program.threads() if macs >= THREAD_MACS else 1,
    )


@helper
def source_of(row, image, pad, iy, ix):  # type: ignore[no-untyped-def]
    """Address of pixel (iy, ix) of the image, or of the pad outside of it."""
    inside = (iy >= 0) & (iy < row[IH]) & (ix >= 0) & (ix < row[IW])
    return image + (iy * row[IW] + ix) * 4 * row[CHANNELS] if inside else pad


@helper
def scalar_pixel(row, image, w, bias, y, pad, top, left):  # type: ignore[no-untyped-def]
    """One pixel, channel by channel: for less channels than a block has."""
    channels = row[CHANNELS]
    for c in range(channels):
        acc = np.float32(0)
        for i in range(row[KH]):
            for j in range(row[KW]):
                iy, ix = top + i * row[DILATION_H], left + j * row[DILATION_W]
                v = as_f32(source_of(row, image, pad, iy, ix))[c]
                acc = fma.fma_f32(v, as_f32(w)[(i * row[KW] + j) * channels + c], acc)
        as_f32(y)[c] = acc + as_f32(bias)[c]


def _make_blocks(lanes: int) -> tuple[Any, Any, Any]:
    """Helpers of `lanes` channels at a time: one pixel, four, four under a dense 3-wide kernel."""
    load, store, splat, add = (
        getattr(vectors, f"{name}_f32x{lanes}") for name in ("load", "store", "splat", "add")
    )
    step = getattr(fma, f"fma_f32x{lanes}")

    def pixel(row, image, w, bias, y, pad, top, left):  # type: ignore[no-untyped-def]
        channels, kh, kw = row[CHANNELS], row[KH], row[KW]
        dilation_h, dilation_w = row[DILATION_H], row[DILATION_W]
        c = 0
        while c < channels:
            at = 4 * min(c, channels - lanes)  # the last block may overlap
            acc = splat(np.float32(0))
            k = w + at
            for i in range(kh):
                for j in range(kw):
                    v = source_of(row, image, pad, top + i * dilation_h, left + j * dilation_w)
                    acc = step(load(v + at), load(k), acc)
                    k += 4 * channels
            store(y + at, add(acc, load(bias + at)))
            c += lanes

    def pixels(row, image, w, bias, y, pad, top, left):  # type: ignore[no-untyped-def]
        channels, kh, kw = row[CHANNELS], row[KH], row[KW]
        ih, nbytes = row[IH], 4 * row[CHANNELS]
        dilation_h, column_step = row[DILATION_H], row[DILATION_W] * nbytes
        pixel_step, line = row[STRIDE_W] * nbytes, row[IW] * nbytes
        c = 0
        while c < channels:
            at = 4 * min(c, channels - lanes)
            s0 = s1 = s2 = s3 = splat(np.float32(0))
            k = w + at
            for i in range(kh):
                iy = top + i * dilation_h
                inside = (iy >= 0) & (iy < ih)
                v = (image + iy * line + left * nbytes if inside else pad) + at
                next_pixel = pixel_step if inside else 0
                next_column = column_step if inside else 0
                for _ in range(kw):
                    weight = load(k)
                    s0 = step(load(v), weight, s0)
                    s1 = step(load(v + next_pixel), weight, s1)
                    s2 = step(load(v + 2 * next_pixel), weight, s2)
                    s3 = step(load(v + 3 * next_pixel), weight, s3)
                    v += next_column
                    k += nbytes
            b = load(bias + at)
            store(y + at, add(s0, b))
            store(y + at + nbytes, add(s1, b))
            store(y + at + 2 * nbytes, add(s2, b))
            store(y + at + 3 * nbytes, add(s3, b))
            c += lanes

    def pixels3(row, image, w, bias, y, pad, top, left):  # type: ignore[no-untyped-def]
        channels, kh = row[CHANNELS], row[KH]
        ih, nbytes = row[IH], 4 * row[CHANNELS]
        dilation_h, line = row[DILATION_H], row[IW] * nbytes
        c = 0
        while c < channels:
            at = 4 * min(c, channels - lanes)
            s0 = s1 = s2 = s3 = splat(np.float32(0))
            k = w + at
            for i in range(kh):
                iy = top + i * dilation_h
                inside = (iy >= 0) & (iy < ih)
                v = (image + iy * line + left * nbytes if inside else pad) + at
                n = nbytes if inside else 0
                w0, w1, w2 = load(k), load(k + nbytes), load(k + 2 * nbytes)
                x0, x1, x2 = load(v), load(v + n), load(v + 2 * n)
                x3, x4, x5 = load(v + 3 * n), load(v + 4 * n), load(v + 5 * n)
                s0 = step(x2, w2, step(x1, w1, step(x0, w0, s0)))
                s1 = step(x3, w2, step(x2, w1, step(x1, w0, s1)))
                s2 = step(x4, w2, step(x3, w1, step(x2, w0, s2)))
                s3 = step(x5, w2, step(x4, w1, step(x3, w0, s3)))
                k += 3 * nbytes
            b = load(bias + at)
            store(y + at, add(s0, b))
            store(y + at + nbytes, add(s1, b))
            store(y + at + 2 * nbytes, add(s2, b))
            store(y + at + 3 * nbytes, add(s3, b))
            c += lanes

    return helper(pixel), helper(pixels), helper(pixels3)


def make_kernel(spec: FloatDepthwiseSpec) -> Kernel:
    """The kernel of a table row."""
    lanes = spec.lanes
    pixel, pixels, pixels3 = _make_blocks(lanes)

    def depthwise(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        threads = min(threads, row[MAX_THREADS])
        if thread >= threads:
            return 0
        x = operand(row, X, arena, constants)
        w = operand(row, W, arena, constants)
        bias = operand(row, BIAS, arena, constants)
        pad = operand(row, PAD, arena, constants)
        channels, ih, iw, oh, ow = row[CHANNELS], row[IH], row[IW], row[OH], row[OW]
        stride_h, stride_w = row[STRIDE_H], row[STRIDE_W]
        pad_top, pad_left = row[PAD_TOP], row[PAD_LEFT]
        nbytes = 4 * channels
        reach = (row[KW] - 1) * row[DILATION_W]
        dense3 = row[KW] == 3 and row[DILATION_W] == 1 and stride_w == 1
        # outputs from first to stop read no pixel beside the image
        first = min((pad_left + stride_w - 1) // stride_w, ow)
        room = iw - 1 - reach + pad_left
        stop = max(min(room // stride_w + 1 if room >= 0 else 0, ow), first)
        blocks = channels >= lanes and stop - first >= PIXELS
        start, end = share(row[BATCH] * oh, thread, threads, 1)
        for r in range(start, end):
            image = x + r // oh * ih * iw * nbytes
            top = r % oh * stride_h - pad_top
            y = operand(row, Y, arena, constants) + r * ow * nbytes
            o = 0
            while o < ow:
                if blocks and o >= first and o < stop:
                    at = min(o, stop - PIXELS)  # the last block may overlap
                    left = at * stride_w - pad_left
                    if dense3:
                        pixels3(row, image, w, bias, y + at * nbytes, pad, top, left)
                    else:
                        pixels(row, image, w, bias, y + at * nbytes, pad, top, left)
                    o = at + PIXELS
                else:
                    left = o * stride_w - pad_left
                    if channels >= lanes:
                        pixel(row, image, w, bias, y + o * nbytes, pad, top, left)
                    else:
                        scalar_pixel(row, image, w, bias, y + o * nbytes, pad, top, left)
                    o += 1
        return 0

    return kernel(
        spec.kernel_name, FIELDS, extents, family="conv_f32", features=spec.features
    )(depthwise)


FLOAT_DEPTHWISE_KERNELS: dict[FloatDepthwiseSpec, Kernel] = {
    spec: make_kernel(spec) for spec in FLOAT_DEPTHWISE
}
