"""qrt.Dequantize: integers to float32, per_tensor or per_channel (ONNX DequantizeLinear, opset 10).

y = float32(q - zero_point) * scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops.channels import channel_view
from qrt.ops.dispatch import kernel_of
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant.affine import dequantize
from qrt.simd.memory import as_f32, as_i8, as_i16, as_i32, as_u8, as_u16, operand, row_f32
from qrt.simd.scalar import share, sub32

FIELDS = ("x", "y", "n", "scale", "zero_point")
X, Y, N, SCALE, ZERO_POINT = slots(FIELDS)
CHANNEL_FIELDS = ("x", "y", "outer", "channels", "inner", "scales", "zero_points")
CX, CY, OUTER, CHANNELS, INNER, SCALES, ZERO_POINTS = slots(CHANNEL_FIELDS)
GRAIN = 4096  # elements


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    return [(node.required(0).static_shape, np.dtype(np.float32))]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (q,) = inputs
    assert q is not None
    return [dequantize(q, node.attrs["x"])]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    qparams: QParams = node.attrs["x"]
    kernels = KERNELS if qparams.axis is None else CHANNEL_KERNELS
    chosen = kernel_of(kernels, x.dtype, "Dequantize of")
    if x.dtype == np.int32 and np.any(qparams.zero_point != 0):
        # q - zero_point could leave int32; ONNX Runtime refuses it too
        raise UnsupportedError("Dequantize of int32 needs zero points of 0")
    ends = {"x": program.operand(x), "y": program.operand(y)}
    if qparams.axis is not None:
        view = channel_view(x, qparams.axis)
        program.emit(
            chosen,
            **ends,
            outer=view.outer,
            channels=view.channels,
            inner=view.inner,
            scales=program.constant(qparams.scale.astype(np.float32)),
            zero_points=program.constant(qparams.zero_point.astype(np.int32)),
        )
        return
    program.emit(
        chosen,
        **ends,
        n=int(np.prod(x.static_shape)),
        scale=np.float32(qparams.scale),
        zero_point=int(qparams.zero_point),
    )


def _declare(dtype: str, as_in: Any) -> Kernel:
    itemsize = np.dtype(dtype).itemsize

    def extents(row: Mapping[str, int]) -> list[Extent]:
        n = product(row, "n")
        return [Extent("x", itemsize * n), Extent("y", 4 * n, writes=True)]

    @kernel(f"dequantize_{dtype}_f32", FIELDS, extents, family="dequantize")
    def dequantize_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = as_in(operand(row, X, arena, constants))
        y = as_f32(operand(row, Y, arena, constants))
        scale = row_f32(row, SCALE)
        zero_point = np.int32(row[ZERO_POINT])
        start, stop = share(row[N], thread, threads, GRAIN)
        for i in range(start, stop):
            y[i] = np.float32(sub32(np.int32(x[i]), zero_point)) * scale
        return 0

    return dequantize_kernel


def _declare_channels(dtype: str, as_in: Any) -> Kernel:
    itemsize = np.dtype(dtype).itemsize

    def extents(row: Mapping[str, int]) -> list[Extent]:
        n = product(row, "outer", "channels", "inner")
        return [
            Extent("x", itemsize * n),
            Extent("y", 4 * n, writes=True),
            Extent("scales", 4 * row["channels"]),
            Extent("zero_points", 4 * row["channels"]),
        ]

    name = f"dequantize_channels_{dtype}_f32"

    @kernel(name, CHANNEL_FIELDS, extents, family="dequantize_channels")
    def dequantize_channels_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = as_in(operand(row, CX, arena, constants))
        y = as_f32(operand(row, CY, arena, constants))
        scales = as_f32(operand(row, SCALES, arena, constants))
        zero_points = as_i32(operand(row, ZERO_POINTS, arena, constants))
        channels = row[CHANNELS]
        inner = row[INNER]
        start, stop = share(row[OUTER] * channels, thread, threads, 1)
        if inner == 1:
            r = start
            while r < stop:
                first = r % channels
                count = min(channels - first, stop - r)
                for c in range(count):
                    q = sub32(np.int32(x[r + c]), zero_points[first + c])
                    y[r + c] = np.float32(q) * scales[first + c]
                r += count
            return 0
        for r in range(start, stop):
            zero_point = zero_points[r % channels]
            scale = scales[r % channels]
            for i in range(r * inner, (r + 1) * inner):
                y[i] = np.float32(sub32(np.int32(x[i]), zero_point)) * scale
        return 0

    return dequantize_channels_kernel


_SOURCES = {"uint8": as_u8, "int8": as_i8, "uint16": as_u16, "int16": as_i16, "int32": as_i32}
KERNELS = {dtype: _declare(dtype, as_in) for dtype, as_in in _SOURCES.items()}
CHANNEL_KERNELS = {dtype: _declare_channels(dtype, as_in) for dtype, as_in in _SOURCES.items()}

SPEC = OpSpec("Dequantize", "qrt", infer, reference, lower, layout="any")
