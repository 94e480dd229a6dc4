"""Conv of float32 (ONNX, opset 1 to 22) over one or two spatial axes, channels last.

Each output is one chain of additions over (kernel row, kernel column, input channel), in this
order, then the bias. Taps in the padding read zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, helper, kernel, slots
from qrt.ops.sizes import within
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.ops.windows import FIELDS as WINDOW_FIELDS
from qrt.ops.windows import Windows, check_fields, first_tap, resolve, stop_tap
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import add_f32x16, load_f32x16, mul_f32x16, splat_f32x16, store_f32x16

# weights are (group, kh, kw, inputs, outputs) per group; `channels` counts inputs of all groups
FIELDS = ("x", "w", "bias", "y", *WINDOW_FIELDS, "group", "inputs", "outputs")
(
    X, W, BIAS, Y, BATCH, IH, IW, CHANNELS, OH, OW, KH, KW, STRIDE_H, STRIDE_W,
    PAD_TOP, PAD_LEFT, PAD_BOTTOM, PAD_RIGHT, DILATION_H, DILATION_W, GROUP, INPUTS, OUTPUTS,
) = slots(FIELDS)  # fmt: skip


def parse(node: Node) -> tuple[Windows, int]:
    """(windows, group)."""
    x, w = node.required(0).static_shape, node.required(1).static_shape
    attrs = AttrReader(node, ("strides", "pads", "dilations", "auto_pad"))
    group = attrs.int("group", 1)
    kernel_shape = tuple(attrs.ints("kernel_shape", w[2:]))
    attrs.done()
    if len(w) != len(x) or len(x) < 3 or kernel_shape != w[2:]:
        raise ModelError(f"kernel_shape {list(kernel_shape)} must be that of the weights {list(w)}")
    if group < 1 or x[1] != w[1] * group or w[0] % group:
        raise ModelError(f"group {group} does not fit x {list(x)} and weights {list(w)}")
    bias = node.input(2)
    if bias is not None and bias.static_shape != (w[0],):
        raise ModelError(f"bias must have shape [{w[0]}], got {list(bias.static_shape)}")
    return resolve(node, x[2:], w[2:]), group


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    windows, _ = parse(node)
    x, w = node.required(0), node.required(1)
    return [((x.static_shape[0], w.static_shape[0], *windows.counts), x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x, w = inputs[:2]
    assert x is not None and w is not None
    bias = inputs[2] if len(inputs) > 2 else None
    windows, group = parse(node)
    n, outputs = x.shape[0], w.shape[0]
    y = np.zeros((n, outputs, *windows.counts))
    flat = w.astype(np.float64).reshape(group, outputs // group, w.shape[1], -1)
    for tap, part in enumerate(windows.gather(x.astype(np.float64), 0)):
        grouped = part.reshape(n, group, w.shape[1], *windows.counts)
        y += np.einsum("goi,ngi...->ngo...", flat[..., tap], grouped).reshape(y.shape)
    if bias is not None:
        y += bias.astype(np.float64).reshape(1, -1, *(1,) * (x.ndim - 2))
    return [y.astype(np.float32)]


def lower(node: Node, program: Lowering) -> None:
    x, w, bias, y = node.required(0), node.required(1), node.input(2), node.outputs[0]
    windows, group = parse(node)
    weights, offsets = w.data, None if bias is None else bias.data
    if x.dtype != np.float32 or weights is None or (bias is not None and offsets is None):
        raise UnsupportedError("Conv needs float32 and constant weights and bias")
    batch, channels = x.static_shape[:2]
    fields = windows.fields(batch, channels)
    outputs, inputs = w.static_shape[0] // group, w.static_shape[1]
    taps = fields["kh"] * fields["kw"]
    depthwise = inputs == 1 and outputs == 1

    def pack() -> Array:
        assert weights is not None
        grouped = weights.reshape(group, outputs, inputs, taps)
        order = (3, 2, 1, 0) if depthwise else (0, 3, 2, 1)
        return np.ascontiguousarray(grouped.transpose(order))

    if offsets is None:
        offsets = np.zeros(w.static_shape[0], np.float32)
    program.emit(
        depthwise_kernel if depthwise else conv_kernel,
        x=program.operand(x),
        w=program.packed((id(weights), group, "float_conv"), pack),
        bias=program.constant(offsets),
        y=program.operand(y),
        **fields,
        group=group,
        inputs=inputs,
        outputs=outputs,
    )


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


def depthwise_extents(row: Mapping[str, int]) -> list[Extent]:
    within(row, "inputs", 1, 1)
    within(row, "outputs", 1, 1)
    return extents(row)


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


@kernel("conv_f32", FIELDS, extents, family="conv_f32")
def conv_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = operand(row, X, arena, constants)
    w = operand(row, W, arena, constants)
    bias = operand(row, BIAS, arena, constants)
    y = operand(row, Y, arena, constants)
    inputs, outputs = row[INPUTS], row[OUTPUTS]
    pixel = 4 * row[CHANNELS]
    w_row = 4 * row[KW] * inputs * outputs
    w_group = row[KH] * w_row
    start, stop = share(row[BATCH] * row[OH], thread, threads, 1)
    for r in range(start, stop):
        top = r % row[OH] * row[STRIDE_H] - row[PAD_TOP]
        i0 = first_tap(top, row[DILATION_H])
        i1 = max(stop_tap(top, row[IH], row[KH], row[DILATION_H]), i0)
        line = x + r // row[OH] * row[IH] * row[IW] * pixel
        for ow in range(row[OW]):
            left = ow * row[STRIDE_W] - row[PAD_LEFT]
            j0 = first_tap(left, row[DILATION_W])
            j1 = max(stop_tap(left, row[IW], row[KW], row[DILATION_W]), j0)
            h = top + i0 * row[DILATION_H]
            v = left + j0 * row[DILATION_W]
            source = line + (h * row[IW] + v) * pixel
            first = i0 * w_row + 4 * j0 * inputs * outputs
            for g in range(row[GROUP]):
                _pixel(
                    source + 4 * g * inputs,
                    w + g * w_group + first,
                    y + 4 * ((r * row[OW] + ow) * row[GROUP] + g) * outputs,
                    bias + 4 * g * outputs,
                    outputs, inputs, row, i1 - i0, j1 - j0, w_row,
                )  # fmt: skip
    return 0


@kernel("depthwise_conv_f32", FIELDS, depthwise_extents, family="conv_f32")
def depthwise_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = operand(row, X, arena, constants)
    w = operand(row, W, arena, constants)
    bias = operand(row, BIAS, arena, constants)
    y = operand(row, Y, arena, constants)
    channels = row[CHANNELS]
    pixel = 4 * channels
    row_step = row[DILATION_H] * row[IW] * pixel
    column_step = row[DILATION_W] * pixel
    start, stop = share(row[BATCH] * row[OH], thread, threads, 1)
    for r in range(start, stop):
        top = r % row[OH] * row[STRIDE_H] - row[PAD_TOP]
        i0 = first_tap(top, row[DILATION_H])
        i1 = stop_tap(top, row[IH], row[KH], row[DILATION_H])
        line = x + r // row[OH] * row[IH] * row[IW] * pixel
        for ow in range(row[OW]):
            left = ow * row[STRIDE_W] - row[PAD_LEFT]
            j0 = first_tap(left, row[DILATION_W])
            j1 = stop_tap(left, row[IW], row[KW], row[DILATION_W])
            source = line + (top * row[IW] + left) * pixel
            target = y + (r * row[OW] + ow) * pixel
            c = 0
            while c < channels and channels >= 16:
                at = 4 * min(c, channels - 16)  # the last block may overlap
                acc = splat_f32x16(np.float32(0))
                for i in range(i0, i1):
                    for j in range(j0, j1):
                        v = load_f32x16(source + i * row_step + j * column_step + at)
                        k = load_f32x16(w + (i * row[KW] + j) * pixel + at)
                        acc = add_f32x16(acc, mul_f32x16(v, k))
                store_f32x16(target + at, add_f32x16(acc, load_f32x16(bias + at)))
                c += 16
            while c < channels:
                acc1 = np.float32(0)
                for i in range(i0, i1):
                    for j in range(j0, j1):
                        v1 = as_f32(source + i * row_step + j * column_step)[c]
                        acc1 += v1 * as_f32(w + (i * row[KW] + j) * pixel)[c]
                as_f32(target)[c] = acc1 + as_f32(bias)[c]
                c += 1
    return 0


SPEC = OpSpec("Conv", "", infer, reference, lower, layout="channels_last")
