"""Conv of float32 (ONNX, opset 1 to 22) over one or two spatial axes, channels last.

Each output is one chain of fused multiply-adds over (kernel row, kernel column, input channel), in
this order, then the bias. Taps in the padding read zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.gemm.code_pack import Form
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.conv import Geometry, geometry_fields, lower_runs, rows_are_runs
from qrt.ops.float_depthwise import lower_depthwise
from qrt.ops.float_products import (
    ITEMSIZE,
    NO_BIAS,
    Codes,
    lower_coded_float_product,
    lower_float_product,
    packed_weights,
)
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.ops.windows import Windows, resolve


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
    offsets = None if bias is None else bias.data
    if not w.is_constant or (bias is not None and offsets is None):
        raise UnsupportedError("Conv needs constant weights and bias")
    for name, value in (("x", x), ("w", w), ("bias", bias)):
        if value is not None and value.dtype != np.float32:
            raise UnsupportedError(f"Conv needs float32, {name} is {value.dtype}")
    if math.prod(y.static_shape) == 0:
        return
    outputs, inputs = w.static_shape[0] // group, w.static_shape[1]
    if offsets is None:
        offsets = np.full(w.static_shape[0], NO_BIAS)
    batch, channels = x.static_shape[:2]
    fields = windows.fields(batch, channels)
    if inputs == 1 and outputs == 1:
        lower_depthwise(program, node, fields, offsets)
        return
    g = Geometry(
        batch,
        channels * ITEMSIZE,
        (fields["ih"], fields["iw"]),
        (fields["oh"], fields["ow"]),
        (fields["kh"], fields["kw"]),
        (fields["stride_h"], fields["stride_w"]),
        (fields["dilation_h"], fields["dilation_w"]),
        (fields["pad_top"], fields["pad_left"], fields["pad_bottom"], fields["pad_right"]),
        group,
    )
    geometry = geometry_fields(g) | {
        "y_pixel": group * outputs * ITEMSIZE,
        "y_group": outputs * ITEMSIZE,
        "channels": inputs * ITEMSIZE,
    }
    source = program.operand(x)
    pack = packed_weights(program, w, Form(group, 0, 1, tuple(range(2, len(w.static_shape)))))
    if pack is not None:
        if rows_are_runs(g):
            source = lower_runs(program, x, g, geometry, program.constant(np.zeros(1, np.uint8)))
            geometry["channels"] *= g.kernel[1]
        codes = Codes.stored(program, pack)
        y_at = program.operand(y)
        lower_coded_float_product(program, codes, geometry, source, y_at, bias=offsets)
        return
    weights = w.data
    assert weights is not None
    # (group, outputs, inputs, kh, kw) -> (group, taps, inputs, outputs)
    split = weights.reshape(group, outputs, inputs, math.prod(g.kernel)).transpose(0, 3, 2, 1)
    if rows_are_runs(g):
        source = lower_runs(program, x, g, geometry, program.constant(np.zeros(1, np.uint8)))
        geometry["channels"] *= g.kernel[1]
        split = split.reshape(group, g.kernel[0], g.kernel[1] * inputs, outputs)
    # the order of the weights is the same either way: tap by tap, input by input
    lower_float_product(
        program, split, (w.identity, "float_conv"), geometry, source, program.operand(y),
        bias=offsets,
    )  # fmt: skip


SPEC = OpSpec("Conv", "", infer, reference, lower, layout="channels_last")
