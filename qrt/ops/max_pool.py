"""MaxPool over uint8 (qrt) and float32 (ONNX MaxPool, opset 1 to 22), channels last.

Padding never wins: it stands for the smallest value, 0 or -inf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.dispatch import kernel_of
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.ops.windows import FIELDS as WINDOW_FIELDS
from qrt.ops.windows import Windows, check_fields, first_tap, output_shape, parse, stop_tap
from qrt.simd.memory import as_f32, as_u8, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import (
    load_f32x16,
    load_u8x16,
    load_u8x64,
    max_f32x16,
    max_u8x16,
    max_u8x64,
    splat_f32x16,
    splat_u8x16,
    splat_u8x64,
    store_f32x16,
    store_u8x16,
    store_u8x64,
)

FIELDS = ("x", "y", *WINDOW_FIELDS)
(
    X, Y, BATCH, IH, IW, CHANNELS, OH, OW, KH, KW, STRIDE_H, STRIDE_W,
    PAD_TOP, PAD_LEFT, PAD_BOTTOM, PAD_RIGHT, DILATION_H, DILATION_W,
) = slots(FIELDS)  # fmt: skip


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    if node.domain == "":
        _check_attributes(node)
    return [(output_shape(node, parse(node)), node.required(0).dtype)]


def _check_attributes(node: Node) -> None:
    attrs = AttrReader(
        node, ("kernel_shape", "strides", "pads", "dilations", "auto_pad", "ceil_mode")
    )
    if len(node.outputs) > 1:
        raise UnsupportedError("the Indices output of MaxPool is not supported")
    attrs.int("storage_order", 0)  # only Indices depend on it
    attrs.done()


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    y = None
    for tap in parse(node).gather(x, lowest):
        y = tap if y is None else np.maximum(y, tap)
    assert y is not None
    return [np.ascontiguousarray(y)]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    windows: Windows = parse(node)
    batch, channels = x.static_shape[:2]
    program.emit(
        kernel_of(KERNELS, x.dtype, "MaxPool of"),
        x=program.operand(x),
        y=program.operand(y),
        **windows.fields(batch, channels),
    )


def _declare(name: str, itemsize: int, as_item: Any, lowest: Any, blocks: Any) -> Kernel:
    """`blocks`: (lanes, load, store, splat, maximum) of a wide and of a narrow vector."""
    wide, load_w, store_w, splat_w, max_w = blocks[0]
    narrow, load_n, store_n, splat_n, max_n = blocks[1]

    def extents(row: Mapping[str, int]) -> list[Extent]:
        n, m = check_fields(row)
        return [Extent("x", itemsize * n), Extent("y", itemsize * m, writes=True)]

    @helper
    def line_of_3(x, column_step):  # type: ignore[no-untyped-def]
        return max_w(max_w(load_w(x), load_w(x + column_step)), load_w(x + 2 * column_step))

    @helper
    def wide_block(x, y, rows, columns, row_step, column_step):  # type: ignore[no-untyped-def]
        if rows == 3 and columns == 3:  # the usual window, without loops
            top = line_of_3(x, column_step)
            middle = line_of_3(x + row_step, column_step)
            store_w(y, max_w(max_w(top, middle), line_of_3(x + 2 * row_step, column_step)))
            return
        acc = splat_w(lowest)
        for i in range(rows):
            for j in range(columns):
                acc = max_w(load_w(x + i * row_step + j * column_step), acc)
        store_w(y, acc)

    @helper
    def narrow_block(x, y, rows, columns, row_step, column_step):  # type: ignore[no-untyped-def]
        acc = splat_n(lowest)
        for i in range(rows):
            for j in range(columns):
                acc = max_n(load_n(x + i * row_step + j * column_step), acc)
        store_n(y, acc)

    @helper
    def window(x, y, channels, rows, columns, row_step, column_step):  # type: ignore[no-untyped-def]
        """Maximum of rows x columns pixels at addresses from x on; the last block may overlap."""
        if channels >= wide:
            c = 0
            while c < channels:
                at = itemsize * min(c, channels - wide)
                wide_block(x + at, y + at, rows, columns, row_step, column_step)
                c += wide
        elif channels >= narrow:
            c = 0
            while c < channels:
                at = itemsize * min(c, channels - narrow)
                narrow_block(x + at, y + at, rows, columns, row_step, column_step)
                c += narrow
        else:
            for c in range(channels):
                best = lowest
                for i in range(rows):
                    for j in range(columns):
                        v = as_item(x + i * row_step + j * column_step)[c]
                        best = v if v > best else best
                as_item(y)[c] = best

    @kernel(f"max_pool_{name}", FIELDS, extents, family="max_pool")
    def max_pool_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        channels = row[CHANNELS]
        pixel = channels * itemsize
        # read once: LLVM must assume that a store to y changes the row
        ih, iw, oh, ow = row[IH], row[IW], row[OH], row[OW]
        kh, kw, dilation_h, dilation_w = row[KH], row[KW], row[DILATION_H], row[DILATION_W]
        stride_w, pad_left = row[STRIDE_W], row[PAD_LEFT]
        start, stop = share(row[BATCH] * oh, thread, threads, 1)
        for r in range(start, stop):
            top = r % oh * row[STRIDE_H] - row[PAD_TOP]
            i0 = first_tap(top, dilation_h)
            i1 = stop_tap(top, ih, kh, dilation_h)
            line = x + (r // oh * ih + top + i0 * dilation_h) * iw * pixel
            for o in range(ow):
                left = o * stride_w - pad_left
                j0 = np.int64(0)
                j1 = kw
                if left < 0 or left + (kw - 1) * dilation_w >= iw:
                    j0 = first_tap(left, dilation_w)
                    j1 = stop_tap(left, iw, kw, dilation_w)
                window(
                    line + (left + j0 * dilation_w) * pixel,
                    y + (r * ow + o) * pixel,
                    channels,
                    i1 - i0,
                    j1 - j0,
                    dilation_h * iw * pixel,
                    dilation_w * pixel,
                )
        return 0

    return max_pool_kernel


_F32 = (16, load_f32x16, store_f32x16, splat_f32x16, max_f32x16)
KERNELS = {
    "uint8": _declare(
        "u8",
        1,
        as_u8,
        np.uint8(0),
        (
            (64, load_u8x64, store_u8x64, splat_u8x64, max_u8x64),
            (16, load_u8x16, store_u8x16, splat_u8x16, max_u8x16),
        ),
    ),
    "float32": _declare("f32", 4, as_f32, np.float32(-np.inf), (_F32, _F32)),
}

SPEC = OpSpec("MaxPool", "qrt", infer, reference, lower, layout="channels_last")
FLOAT_SPEC = OpSpec("MaxPool", "", infer, reference, lower, layout="channels_last")
