"""qrt.Conv: convolution of u8 activations and s8 weights (QLinearConv, ConvInteger, QDQ).

1-D and 2-D; any kernel, stride, dilation, group and pads. Activations lie channels last. A
depthwise convolution has a kernel of its own (`depthwise.py`), and so have 3x3 ones of stride 1
that are large enough (`winograd.py`); every other one is a product over row pointers, so nothing
is copied, except that few input channels are first laid out with their pads, so that the taps of a
kernel row are one contiguous run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node, Value
from qrt.ops.depthwise import lower_depthwise
from qrt.ops.pad_pixels import lower_pad_pixels
from qrt.ops.product import finish, known, more_results, read_product, result_dtype, results
from qrt.ops.product_rows import lower_product, pad_byte
from qrt.ops.spec import Array, Lowering, Operand, OpSpec
from qrt.ops.windows import check_numbers
from qrt.ops.winograd import lower_winograd

# what a tap costs beside its dot groups (row pointers, loop ends), in dot groups of a tile
TAP_GROUPS = 0.5


@dataclass(frozen=True)
class Geometry:
    """Sizes of a 2-D convolution (a 1-D one has height 1)."""

    batch: int
    channels: int
    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    group: int


def parse(node: Node) -> Geometry:
    """Geometry from x, w and the attributes; raises ModelError when they do not fit."""
    x, w = node.required(0).static_shape, node.required(1).static_shape
    rank = len(x) - 2
    if rank not in (1, 2) or len(w) != rank + 2:
        raise ModelError(
            f"x must be (N, C, L) or (N, C, H, W) and w of the same rank,"
            f" got {list(x)} and {list(w)}"
        )
    group = int(node.attrs.get("group", 1))
    if group < 1 or x[1] != w[1] * group or w[0] % group:
        raise ModelError(
            f"x has {x[1]} channels and w is {list(w)}: with group {group} w must be"
            " (M, C / group, ...) with M divisible by group"
        )
    one = (1,) * rank
    strides = tuple(node.attrs.get("strides") or one)
    dilations = tuple(node.attrs.get("dilations") or one)
    pads = tuple(node.attrs.get("pads") or (0,) * (2 * rank))
    if len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank:
        raise ModelError(f"strides, dilations and pads must have rank {rank}")
    check_numbers(w[2:], strides, dilations, pads)
    out = tuple(
        max(0, (x[2 + i] + pads[i] + pads[rank + i] - dilations[i] * (w[2 + i] - 1) - 1)
            // strides[i] + 1)
        for i in range(rank)
    )  # fmt: skip
    if rank == 1:
        return Geometry(
            x[0], x[1], (1, x[2]), (1, out[0]), (1, w[2]), (1, strides[0]), (1, dilations[0]),
            (0, pads[0], 0, pads[1]), group,
        )  # fmt: skip
    return Geometry(
        x[0], x[1], (x[2], x[3]), (out[0], out[1]), (w[2], w[3]), (strides[0], strides[1]),
        (dilations[0], dilations[1]), (pads[0], pads[1], pads[2], pads[3]), group,
    )  # fmt: skip


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    g = parse(node)
    out = g.out if len(node.required(0).static_shape) == 4 else g.out[1:]
    shape = (g.batch, node.required(1).static_shape[0], *out)
    return [(shape, result_dtype(node)), *more_results(node)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    g = parse(node)
    x, w = inputs[0], inputs[1]
    assert x is not None and w is not None
    product = known(read_product(node, w.shape[0]), inputs)
    one_d = x.ndim == 3
    if one_d:
        x, w = x[:, :, None, :], w[:, :, None, :]
    xs = x.astype(np.int64) - int(product.x.zero_point)
    top, left, bottom, right = g.pads
    xs = np.pad(xs, ((0, 0), (0, 0), (top, bottom), (left, right)))
    n = w.shape[0]
    ws = w.astype(np.int64) - np.broadcast_to(product.w_zero_point, n).reshape(n, 1, 1, 1)
    acc = np.zeros((g.batch, n, *g.out), np.int64)
    per_group = n // g.group
    for ky in range(g.kernel[0] if acc.size else 0):
        for kx in range(g.kernel[1]):
            y0, x0 = ky * g.dilations[0], kx * g.dilations[1]
            window = xs[
                :, :, y0 : y0 + g.strides[0] * (g.out[0] - 1) + 1 : g.strides[0],
                x0 : x0 + g.strides[1] * (g.out[1] - 1) + 1 : g.strides[1],
            ]  # fmt: skip
            for group in range(g.group):
                part = window[:, group * w.shape[1] : (group + 1) * w.shape[1]]
                rows = slice(group * per_group, (group + 1) * per_group)
                acc[:, rows] += np.einsum("bchw,oc->bohw", part, ws[rows, :, ky, kx])
    y = finish(acc, product, (1, n, 1, 1))
    return results(node, y[:, :, 0] if one_d else y)


def lower(node: Node, program: Lowering) -> None:
    g = parse(node)
    x, w, y = node.required(0), node.required(1), node.outputs[0]
    assert w.data is not None
    n = w.data.shape[0]
    product = read_product(node, n)
    kh, kw = g.kernel
    cg = g.channels // g.group
    # (n, cg, kh, kw) -> (n, taps, cg)
    weights = np.ascontiguousarray(w.data.reshape(n, cg, kh * kw).transpose(0, 2, 1))
    geometry = geometry_fields(g) | {"y_pixel": n * product.itemsize}
    if lower_depthwise(program, node, product, geometry, channels=g.channels, group=g.group):
        return
    if lower_winograd(program, node, product, geometry, g.group):
        return
    source = program.operand(x)
    key: tuple[object, ...] = (id(w.data), "conv")
    if rows_are_runs(g):
        source = lower_runs(program, x, g, geometry, pad_byte(program, product))
        weights = weights.reshape(n, kh, kw * cg)
        key = (id(w.data), "conv_rows")
    lower_product(program, weights, key, product, g.group, geometry, source, program.operand(y))


def geometry_fields(g: Geometry) -> dict[str, int]:
    """The driver's fields of the convolution, from batch to x_group; channels count bytes."""
    return {
        "batch": g.batch,
        "height": g.size[0],
        "width": g.size[1],
        "out_height": g.out[0],
        "out_width": g.out[1],
        "kernel_h": g.kernel[0],
        "kernel_w": g.kernel[1],
        "stride_h": g.strides[0],
        "stride_w": g.strides[1],
        "pad_h": g.pads[0],
        "pad_w": g.pads[1],
        "dilation_h": g.dilations[0],
        "dilation_w": g.dilations[1],
        "x_pixel": g.channels,
        "x_row": g.channels * g.size[1],
        "x_image": g.channels * g.size[1] * g.size[0],
        "x_group": g.channels // g.group,
    }


def lower_runs(
    program: Lowering, x: Value, g: Geometry, geometry: dict[str, int], fill: Operand
) -> Operand:
    """Lay x out with its pads, the byte `fill`, and make every kernel row of `geometry` one tap.

    Returns where x is now; a tap then is kernel_w * channels long.
    """
    height, width = g.size[0] + g.pads[0] + g.pads[2], g.size[1] + g.pads[1] + g.pads[3]
    source = lower_pad_pixels(program, x, g, fill) if any(g.pads) else program.operand(x)
    geometry |= {
        "height": height,
        "width": width,
        "kernel_w": 1,
        "pad_h": 0,
        "pad_w": 0,
        "x_row": g.channels * width,
        "x_image": g.channels * width * height,
    }
    return source


def rows_are_runs(g: Geometry) -> bool:
    """True when reading a kernel row as one run of bytes saves dot groups or taps that matter."""
    if g.group != 1 or g.dilations[1] != 1 or g.kernel[1] == 1:
        return False
    apart = g.kernel[1] * (TAP_GROUPS + -(-g.channels // 4))
    together = TAP_GROUPS + -(-g.kernel[1] * g.channels // 4)
    return together <= 0.9 * apart


SPEC = OpSpec("Conv", "qrt", infer, reference, lower, layout="channels_last")
