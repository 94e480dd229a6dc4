"""AveragePool of float32 (ONNX, opset 1 to 22), channels last: the sum of a window, tap after tap,
divided by the number of its elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, helper, kernel, slots
from qrt.ops.sizes import within
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.ops.windows import FIELDS as WINDOW_FIELDS
from qrt.ops.windows import check_fields, first_tap, output_shape, parse, stop_tap
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import add_f32x16, div_f32x16, load_f32x16, splat_f32x16, store_f32x16

FIELDS = ("x", "y", *WINDOW_FIELDS, "include_pad")
(
    X, Y, BATCH, IH, IW, CHANNELS, OH, OW, KH, KW, STRIDE_H, STRIDE_W,
    PAD_TOP, PAD_LEFT, PAD_BOTTOM, PAD_RIGHT, DILATION_H, DILATION_W, INCLUDE_PAD,
) = slots(FIELDS)  # fmt: skip


def includes_pad(node: Node) -> bool:
    """count_include_pad; refuses attributes that are not implemented."""
    windows = ("kernel_shape", "strides", "pads", "dilations", "auto_pad", "ceil_mode")
    attrs = AttrReader(node, windows)
    include = attrs.bool("count_include_pad", False)
    attrs.done()
    return include


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    includes_pad(node)
    return [(output_shape(node, parse(node)), node.required(0).dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    windows = parse(node)
    total = np.zeros(output_shape(node, windows), np.float32)
    for tap in windows.gather(x, 0):
        total = total + tap
    return [total / windows.sizes(includes_pad(node)).astype(np.float32)]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    if x.dtype != np.float32:
        raise UnsupportedError(f"AveragePool of {x.dtype} is not supported, only float32")
    windows, include = parse(node), includes_pad(node)
    if not (windows.sizes(include) > 0).all():
        raise UnsupportedError("AveragePool with a window that has no elements")
    batch, channels = x.static_shape[:2]
    program.emit(
        average_pool_kernel,
        x=program.operand(x),
        y=program.operand(y),
        **windows.fields(batch, channels),
        include_pad=int(include),
    )


def extents(row: Mapping[str, int]) -> list[Extent]:
    n, m = check_fields(row)
    within(row, "include_pad", 0, 1)
    return [Extent("x", 4 * n), Extent("y", 4 * m, writes=True)]


@helper
def _window(x, y, channels, rows, columns, row_step, column_step, count):  # type: ignore[no-untyped-def]
    c = 0
    while c < channels and channels >= 16:
        at = 4 * min(c, channels - 16)  # the last block may overlap
        acc = splat_f32x16(np.float32(0))
        for i in range(rows):
            for j in range(columns):
                acc = add_f32x16(acc, load_f32x16(x + i * row_step + j * column_step + at))
        store_f32x16(y + at, div_f32x16(acc, splat_f32x16(count)))
        c += 16
    while c < channels:
        acc1 = np.float32(0)
        for i in range(rows):
            for j in range(columns):
                acc1 += as_f32(x + i * row_step + j * column_step)[c]
        as_f32(y)[c] = acc1 / count
        c += 1


@kernel("average_pool_f32", FIELDS, extents, family="average_pool_f32")
def average_pool_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = operand(row, X, arena, constants)
    y = operand(row, Y, arena, constants)
    pixel = row[CHANNELS] * 4
    start, stop = share(row[BATCH] * row[OH], thread, threads, 1)
    for r in range(start, stop):
        top = r % row[OH] * row[STRIDE_H] - row[PAD_TOP]
        i0 = first_tap(top, row[DILATION_H])
        i1 = stop_tap(top, row[IH], row[KH], row[DILATION_H])
        h_count = i1 - i0
        if row[INCLUDE_PAD]:
            h_count = stop_tap(top, row[IH] + row[PAD_BOTTOM], row[KH], row[DILATION_H])
        line = x + r // row[OH] * row[IH] * row[IW] * pixel
        for ow in range(row[OW]):
            left = ow * row[STRIDE_W] - row[PAD_LEFT]
            j0 = first_tap(left, row[DILATION_W])
            j1 = stop_tap(left, row[IW], row[KW], row[DILATION_W])
            w_count = j1 - j0
            if row[INCLUDE_PAD]:
                w_count = stop_tap(left, row[IW] + row[PAD_RIGHT], row[KW], row[DILATION_W])
            h = top + i0 * row[DILATION_H]
            w = left + j0 * row[DILATION_W]
            _window(
                line + (h * row[IW] + w) * pixel,
                y + (r * row[OW] + ow) * pixel,
                row[CHANNELS],
                max(i1 - i0, 0),
                max(j1 - j0, 0),
                row[DILATION_H] * row[IW] * pixel,
                row[DILATION_W] * pixel,
                np.float32(h_count * w_count),
            )
    return 0


SPEC = OpSpec("AveragePool", "", infer, reference, lower, layout="channels_last")
