"""qrt.Quantize: float32 to 8 or 16 bit, per_tensor or per_channel (ONNX QuantizeLinear, opset 10).

y = clamp(round_half_even(x / scale) + zero_point, qmin, qmax); the division is float32's own, NaN
gives qmin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops.channels import ChannelView, channel_view
from qrt.ops.code_streams import declare_codes, emit_codes, load_one_f32
from qrt.ops.quantizing import QUANTIZERS, division_records
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant.affine import quantize
from qrt.simd.memory import as_f32, as_i32, as_u8, as_u16, operand, row_f32
from qrt.simd.scalar import clamp_f32, round_i32, share, sub32
from qrt.simd.vectors import load_f32x16

FIELDS = ("x", "y", "n", "scale", "low", "high", "zero_point")
X, Y, N, SCALE, LOW, HIGH, ZERO_POINT = slots(FIELDS)
CHANNEL_FIELDS = (
    "x", "y", "outer", "channels", "inner", "scales", "zero_points", "qmin", "qmax",
)  # fmt: skip
CX, CY, OUTER, CHANNELS, INNER, SCALES, ZERO_POINTS, QMIN, QMAX = slots(CHANNEL_FIELDS)
GRAIN = 4096  # elements; below this a second thread costs more than it saves
DTYPES = ("uint8", "int8", "uint16", "int16")


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    qparams: QParams = node.attrs["y"]
    return [(node.required(0).static_shape, qparams.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    return [quantize(x, node.attrs["y"])]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    qparams: QParams = node.attrs["y"]
    if x.dtype != np.float32 or qparams.dtype.name not in DTYPES:
        raise UnsupportedError(
            f"Quantize from {x.dtype} to {qparams.dtype} is not supported,"
            f" only from float32 to {', '.join(DTYPES)}"
        )
    nbits = 8 * qparams.dtype.itemsize
    n = int(np.prod(x.static_shape))
    ends = {"x": program.operand(x), "y": program.operand(y)}
    view = ChannelView(1, 1, n) if qparams.axis is None else channel_view(x, qparams.axis)
    if nbits == 8 and emit_codes(program, BYTE_KERNELS, ends, view, *division_records(qparams)):
        return
    if qparams.axis is not None:
        program.emit(
            CHANNEL_KERNELS[nbits],
            **ends,
            outer=view.outer,
            channels=view.channels,
            inner=view.inner,
            scales=program.constant(qparams.scale.astype(np.float32)),
            zero_points=program.constant(qparams.zero_point.astype(np.int32)),
            qmin=qparams.qmin,
            qmax=qparams.qmax,
        )
        return
    zero_point = int(qparams.zero_point)
    program.emit(
        word_kernel,
        **ends,
        n=n,
        scale=np.float32(qparams.scale),
        low=np.float32(qparams.qmin - zero_point),
        high=np.float32(qparams.qmax - zero_point),
        zero_point=zero_point,
    )


def word_extents(row: Mapping[str, int]) -> list[Extent]:
    n = product(row, "n")
    return [Extent("x", 4 * n), Extent("y", 2 * n, writes=True)]


@kernel("quantize_f32_u16", FIELDS, word_extents, family="quantize")
def word_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = as_f32(operand(row, X, arena, constants))
    y = as_u16(operand(row, Y, arena, constants))
    scale = row_f32(row, SCALE)
    low = row_f32(row, LOW)
    high = row_f32(row, HIGH)
    zero_point = np.int32(row[ZERO_POINT])
    start, stop = share(row[N], thread, threads, GRAIN)
    for i in range(start, stop):
        y[i] = round_i32(clamp_f32(x[i] / scale, low, high)) + zero_point
    return 0


def _declare_channels(nbits: int, as_out: Any) -> Kernel:
    def extents(row: Mapping[str, int]) -> list[Extent]:
        n = product(row, "outer", "channels", "inner")
        return [
            Extent("x", 4 * n),
            Extent("y", nbits // 8 * n, writes=True),
            Extent("scales", 4 * row["channels"]),
            Extent("zero_points", 4 * row["channels"]),
        ]

    @kernel(f"quantize_channels_f32_u{nbits}", CHANNEL_FIELDS, extents, family="quantize_channels")
    def quantize_channels_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = as_f32(operand(row, CX, arena, constants))
        y = as_out(operand(row, CY, arena, constants))
        scales = as_f32(operand(row, SCALES, arena, constants))
        zero_points = as_i32(operand(row, ZERO_POINTS, arena, constants))
        channels = row[CHANNELS]
        inner = row[INNER]
        qmin = np.int32(row[QMIN])
        qmax = np.int32(row[QMAX])
        start, stop = share(row[OUTER] * channels, thread, threads, 1)
        if inner == 1:
            r = start
            while r < stop:
                first = r % channels
                count = min(channels - first, stop - r)
                for c in range(count):
                    zero_point = zero_points[first + c]
                    low = np.float32(sub32(qmin, zero_point))
                    high = np.float32(sub32(qmax, zero_point))
                    t = clamp_f32(x[r + c] / scales[first + c], low, high)
                    y[r + c] = round_i32(t) + zero_point
                r += count
            return 0
        for r in range(start, stop):
            zero_point = zero_points[r % channels]
            scale = scales[r % channels]
            low = np.float32(sub32(qmin, zero_point))
            high = np.float32(sub32(qmax, zero_point))
            for i in range(r * inner, (r + 1) * inner):
                y[i] = round_i32(clamp_f32(x[i] / scale, low, high)) + zero_point
        return 0

    return quantize_channels_kernel


BYTE_KERNELS = declare_codes("quantize", "f32_u8", QUANTIZERS, load_f32x16, load_one_f32)
CHANNEL_KERNELS = {8: _declare_channels(8, as_u8), 16: _declare_channels(16, as_u16)}

SPEC = OpSpec("Quantize", "qrt", infer, reference, lower, layout="any")
