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

from qrt.ir import Deferred, Node
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
# (kernel_w, stride_w) that blocks of their own run, at dilation 1
SHAPES = ((3, 1), (3, 2), (5, 1), (5, 2))


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


def lower_depthwise(program: Lowering, node: Node, windows: Mapping[str, int], bias: Array) -> None:
    """Emit the row of a Conv with as many groups as inputs and outputs; `bias` is (channels,)."""
    weights = node.required(1)
    w = weights.data
    assert w is not None
    if isinstance(weights, Deferred):
        program.note("weights of a depthwise convolution are float32: they are few")
    spec = next(s for s in FLOAT_DEPTHWISE if program.features.issuperset(s.features))
    channels = w.shape[0]
    macs = windows["batch"] * windows["oh"] * windows["ow"] * w.size
    program.emit(
        FLOAT_DEPTHWISE_KERNELS[spec],
        x=program.operand(node.required(0)),
        w=program.packed(
            (weights.identity, "float_depthwise"),
            lambda: np.ascontiguousarray(w.reshape(channels, -1).T),
        ),
        bias=program.constant(bias),
        y=program.operand(node.outputs[0]),
        pad=program.constant(np.zeros(channels, np.float32)),
        **windows,
        max_threads=program.threads() if macs >= THREAD_MACS else 1,
    )


@helper
def scalar_pixels(row, image, w, bias, y, pad, top, left, m):  # type: ignore[no-untyped-def]
    """m pixels, channel by channel: for less channels than a block has."""
    channels, stride_w = row[CHANNELS], row[STRIDE_W]
    for _ in range(m):
        for c in range(channels):
            acc = np.float32(0)
            for i in range(row[KH]):
                for j in range(row[KW]):
                    iy, ix = top + i * row[DILATION_H], left + j * row[DILATION_W]
                    inside = (iy >= 0) & (iy < row[IH]) & (ix >= 0) & (ix < row[IW])
                    v = image + (iy * row[IW] + ix) * 4 * channels if inside else pad
                    weight = as_f32(w)[(i * row[KW] + j) * channels + c]
                    acc = fma.fma_f32(as_f32(v)[c], weight, acc)
            as_f32(y)[c] = acc + as_f32(bias)[c]
        left += stride_w
        y += 4 * channels


def _make_store(lanes: int) -> Any:
    """Helper that adds the bias to four sums and stores the first m of them."""
    load, store = getattr(vectors, f"load_f32x{lanes}"), getattr(vectors, f"store_f32x{lanes}")
    add = getattr(vectors, f"add_f32x{lanes}")

    def finish(s0, s1, s2, s3, bias, y, step, m):  # type: ignore[no-untyped-def]
        b = load(bias)
        store(y, add(s0, b))
        if m > 1:
            store(y + step, add(s1, b))
        if m > 2:
            store(y + 2 * step, add(s2, b))
        if m > 3:
            store(y + 3 * step, add(s3, b))

    return helper(finish)


def _make_pixels(lanes: int, edges: bool, shape: tuple[int, int]) -> Any:
    """Helper of m <= 4 pixels, `lanes` channels at a time.

    With `edges` some taps may lie beside the image. `shape` is (kernel_w, stride_w) at dilation 1,
    known to LLVM, which then loads a column once for all the pixels that meet it; (0, 0) is any.
    """
    load, splat = getattr(vectors, f"load_f32x{lanes}"), getattr(vectors, f"splat_f32x{lanes}")
    step, finish = getattr(fma, f"fma_f32x{lanes}"), _make_store(lanes)
    shape_kw, shape_stride = shape
    shape_dilation = 1 if shape_kw else 0

    def pixels(row, image, w, bias, y, pad, top, left, m):  # type: ignore[no-untyped-def]
        channels, kh = row[CHANNELS], row[KH]
        ih, iw, nbytes = row[IH], row[IW], 4 * row[CHANNELS]
        kw = shape_kw if shape_kw else row[KW]
        stride_w = shape_stride if shape_stride else row[STRIDE_W]
        dilation_w = shape_dilation if shape_dilation else row[DILATION_W]
        dilation_h, line = row[DILATION_H], iw * nbytes
        c = 0
        while c < channels:
            at = 4 * min(c, channels - lanes)  # the last block may overlap
            s0 = s1 = s2 = s3 = splat(np.float32(0))
            k = w + at
            zeros = pad + at
            for i in range(kh):
                iy = top + i * dilation_h
                width = iw if (iy >= 0) & (iy < ih) else 0  # a line outside has no columns
                v = image + iy * line + at
                for j in range(kw):
                    x0 = left + j * dilation_w
                    x1, x2, x3 = x0 + stride_w, x0 + 2 * stride_w, x0 + 3 * stride_w
                    v0, v1 = v + x0 * nbytes, v + x1 * nbytes
                    v2, v3 = v + x2 * nbytes, v + x3 * nbytes
                    if edges:
                        v0 = v0 if (x0 >= 0) & (x0 < width) else zeros
                        v1 = v1 if (x1 >= 0) & (x1 < width) else zeros
                        v2 = v2 if (x2 >= 0) & (x2 < width) else zeros
                        v3 = v3 if (x3 >= 0) & (x3 < width) else zeros
                    weight = load(k)
                    s0 = step(load(v0), weight, s0)
                    s1 = step(load(v1), weight, s1)
                    s2 = step(load(v2), weight, s2)
                    s3 = step(load(v3), weight, s3)
                    k += nbytes
            finish(s0, s1, s2, s3, bias + at, y + at, nbytes, m)
            c += lanes

    return helper(pixels)


def _make_dense(lanes: int, edges: bool, kernel_w: int) -> Any:
    """The same for a kernel of `kernel_w` columns, all strides and dilations 1.

    Four neighbours share their columns: each new one is loaded once and handed down.
    """
    load, splat = getattr(vectors, f"load_f32x{lanes}"), getattr(vectors, f"splat_f32x{lanes}")
    step, finish = getattr(fma, f"fma_f32x{lanes}"), _make_store(lanes)

    def dense(row, image, w, bias, y, pad, top, left, m):  # type: ignore[no-untyped-def]
        channels, kh = row[CHANNELS], row[KH]
        ih, iw, n = row[IH], row[IW], 4 * row[CHANNELS]
        dilation_h, line = row[DILATION_H], iw * n
        c = 0
        while c < channels:
            at = 4 * min(c, channels - lanes)
            s0 = s1 = s2 = s3 = splat(np.float32(0))
            k = w + at
            zeros = pad + at
            for i in range(kh):
                iy = top + i * dilation_h
                width = iw if (iy >= 0) & (iy < ih) else 0
                v = image + iy * line + left * n + at
                v0, v1, v2 = v, v + n, v + 2 * n
                if edges:
                    v0 = v0 if (left >= 0) & (left < width) else zeros
                    v1 = v1 if (left >= -1) & (left + 1 < width) else zeros
                    v2 = v2 if (left >= -2) & (left + 2 < width) else zeros
                x0, x1, x2 = load(v0), load(v1), load(v2)
                for j in range(3, 3 + kernel_w):
                    v3 = v + j * n
                    if edges:
                        v3 = v3 if (left >= -j) & (left + j < width) else zeros
                    x3 = load(v3)
                    weight = load(k)
                    s0, s1 = step(x0, weight, s0), step(x1, weight, s1)
                    s2, s3 = step(x2, weight, s2), step(x3, weight, s3)
                    x0, x1, x2 = x1, x2, x3
                    k += n
            finish(s0, s1, s2, s3, bias + at, y + at, n, m)
            c += lanes

    return helper(dense)


def _make_shape(lanes: int, shape: tuple[int, int]) -> Any:
    """Helper that runs the pixels of `shape` at the edge of the image or inside."""
    at_edge, within_image = (
        _make_dense(lanes, edges, shape[0]) if shape[1] == 1 else _make_pixels(lanes, edges, shape)
        for edges in (True, False)
    )

    def run(row, image, w, bias, y, pad, top, left, m, inside):  # type: ignore[no-untyped-def]
        if inside:
            within_image(row, image, w, bias, y, pad, top, left, m)
        else:
            at_edge(row, image, w, bias, y, pad, top, left, m)

    return helper(run)


def make_kernel(spec: FloatDepthwiseSpec) -> Kernel:
    """The kernel of a table row."""
    lanes = spec.lanes
    run31, run32, run51, run52 = (_make_shape(lanes, shape) for shape in SHAPES)
    run_any = _make_shape(lanes, (0, 0))

    def depthwise(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        threads = min(threads, row[MAX_THREADS])
        if thread >= threads:
            return 0
        x = operand(row, X, arena, constants)
        w = operand(row, W, arena, constants)
        bias = operand(row, BIAS, arena, constants)
        pad = operand(row, PAD, arena, constants)
        channels, ih, iw, oh, ow = row[CHANNELS], row[IH], row[IW], row[OH], row[OW]
        kh, stride_h, stride_w = row[KH], row[STRIDE_H], row[STRIDE_W]
        dilation_h = row[DILATION_H]
        pad_top, pad_left = row[PAD_TOP], row[PAD_LEFT]
        nbytes = 4 * channels
        reach = (row[KW] - 1) * row[DILATION_W]  # columns from the first tap to the last
        kind = row[KW] * 4 + stride_w if row[DILATION_W] == 1 and stride_w < 3 else 0
        start, end = share(row[BATCH] * oh, thread, threads, 1)
        for r in range(start, end):
            image = x + r // oh * ih * iw * nbytes
            top = r % oh * stride_h - pad_top
            lines_inside = top >= 0 and top + (kh - 1) * dilation_h < ih
            for o in range(0, ow, PIXELS):
                first = max(min(o, ow - PIXELS), 0)  # the last pixels may overlap
                m = min(PIXELS, ow)
                left = first * stride_w - pad_left
                y = operand(row, Y, arena, constants) + (r * ow + first) * nbytes
                inside = lines_inside and left >= 0 and left + 3 * stride_w + reach < iw
                if channels < lanes:
                    scalar_pixels(row, image, w, bias, y, pad, top, left, m)
                elif kind == 3 * 4 + 1:
                    run31(row, image, w, bias, y, pad, top, left, m, inside)
                elif kind == 3 * 4 + 2:
                    run32(row, image, w, bias, y, pad, top, left, m, inside)
                elif kind == 5 * 4 + 1:
                    run51(row, image, w, bias, y, pad, top, left, m, inside)
                elif kind == 5 * 4 + 2:
                    run52(row, image, w, bias, y, pad, top, left, m, inside)
                else:
                    run_any(row, image, w, bias, y, pad, top, left, m, inside)
        return 0

    return kernel(spec.kernel_name, FIELDS, extents, family="conv_f32", features=spec.features)(
        depthwise
    )


FLOAT_DEPTHWISE_KERNELS: dict[FloatDepthwiseSpec, Kernel] = {
    spec: make_kernel(spec) for spec in FLOAT_DEPTHWISE
}
