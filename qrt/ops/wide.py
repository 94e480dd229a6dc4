"""Products of 16-bit activations, as two of 8 bits: qrt.SplitBytes before, qrt.JoinSums behind.

u = 256 * high + low, so sum (u - z) w = 256 * sum (high - z // 256) w + sum (low - z % 256) w, each
exact in int32, their sum in int64. JoinSums then is what follows every product: float32(acc) *
(scale / y_scale), rounded half to even, zero point, clamp; or float32(acc) * scale + float_bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.ir import Node, QParams, Value
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.channels import channel_view
from qrt.ops.dispatch import kernel_of
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.memory import as_f32, as_f64, as_i16, as_i32, as_u8, as_u16, operand
from qrt.simd.scalar import clamp_f32, round_i32, share

SPLIT_FIELDS = ("x", "high", "low", "n", "flip")
SX, HIGH, LOW, SN, FLIP = slots(SPLIT_FIELDS)
FIELDS = (
    "high", "low", "y", "outer", "channels", "inner", "bias", "factors", "added", "limits",
)  # fmt: skip
JHIGH, JLOW, Y, OUTER, CHANNELS, INNER, BIAS, FACTORS, ADDED, LIMITS = slots(FIELDS)
GRAIN = 4096
SIGN = 1 << 15
NO_BIAS = np.float32(-0.0)  # changes no float
F32 = np.dtype(np.float32)


def infer_split(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    return [(node.required(0).static_shape, np.dtype(np.uint8))] * 2


def reference_split(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    u = x.astype(np.int64) + (SIGN if x.dtype == np.int16 else 0)
    return [(u >> 8).astype(np.uint8), (u & 255).astype(np.uint8)]


def lower_split(node: Node, program: Lowering) -> None:
    x = node.required(0)
    high, low = node.outputs
    program.emit(
        split_kernel,
        x=program.operand(x),
        high=program.operand(high),
        low=program.operand(low),
        n=math.prod(x.static_shape),
        flip=SIGN if x.dtype == np.int16 else 0,
    )


def infer_join(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    y: QParams | None = node.attrs["y"]
    return [(node.required(0).static_shape, F32 if y is None else y.dtype)]


def reference_join(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    high, low = inputs[:2]
    assert high is not None and low is not None
    bias, factors, added = _columns(node)
    shape = [1] * high.ndim
    shape[node.attrs["axis"]] = -1
    acc = 256 * high.astype(np.int64) + low + bias.reshape(shape)
    scaled = acc.astype(F32) * factors.reshape(shape)
    y: QParams | None = node.attrs["y"]
    if y is None:
        return [scaled + added.reshape(shape)]
    codes = np.rint(scaled).astype(np.float64) + int(y.zero_point)
    return [np.clip(codes, node.attrs["qmin"], node.attrs["qmax"]).astype(y.dtype)]


def lower_join(node: Node, program: Lowering) -> None:
    high, low, out = node.required(0), node.required(1), node.outputs[0]
    y: QParams | None = node.attrs["y"]
    view = channel_view(out, node.attrs["axis"])
    bias, factors, added = (
        np.ascontiguousarray(np.broadcast_to(a, view.channels)) for a in _columns(node)
    )
    limits = np.zeros(3, np.int32)
    if y is not None:
        zero_point = int(y.zero_point)
        limits[:] = zero_point, node.attrs["qmin"] - zero_point, node.attrs["qmax"] - zero_point
    program.emit(
        kernel_of(KERNELS, out.dtype, "JoinSums to"),
        high=program.operand(high),
        low=program.operand(low),
        y=program.operand(out),
        outer=view.outer,
        channels=view.channels,
        inner=view.inner,
        bias=program.constant(bias.astype(np.float64)),  # exact: of int32
        factors=program.constant(factors),
        added=program.constant(added),
        limits=program.constant(limits),
    )


def _columns(node: Node) -> tuple[Array, Array, Array]:
    """int64 bias, float32 factors and float32 biases, one for each channel or for all."""
    y: QParams | None = node.attrs["y"]
    scale = np.asarray(node.attrs["scale"], F32).reshape(-1)
    factors = scale if y is None else (scale / y.scale).astype(F32)
    bias, added = (_constant(node.input(i)) for i in (2, 3))
    return (
        np.zeros(1, np.int64) if bias is None else bias.astype(np.int64),
        factors,
        np.full(1, NO_BIAS) if added is None else added.astype(F32),
    )


def _constant(value: Value | None) -> Array | None:
    if value is None:
        return None
    assert value.data is not None, value
    return value.data.reshape(-1)


def split_extents(row: Mapping[str, int]) -> list[Extent]:
    n = product(row, "n")
    return [
        Extent("x", 2 * n),
        Extent("high", n, writes=True),
        Extent("low", n, writes=True),
    ]


@kernel("split_bytes", SPLIT_FIELDS, split_extents, family="wide")
def split_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = as_u16(operand(row, SX, arena, constants))
    high = as_u8(operand(row, HIGH, arena, constants))
    low = as_u8(operand(row, LOW, arena, constants))
    flip = np.uint16(row[FLIP])
    start, stop = share(row[SN], thread, threads, GRAIN)
    for i in range(start, stop):
        u = x[i] ^ flip
        high[i] = np.uint8(u >> 8)
        low[i] = np.uint8(u & 255)
    return 0


@helper
def joined(high, low, bias):  # type: ignore[no-untyped-def]
    """float32(256 * high + low + bias), rounded once: every step is an integer below 2**53."""
    return np.float32(np.float64(high) * 256.0 + np.float64(low) + bias)


@helper
def _as_real(scaled, added, zero_point, least, most):  # type: ignore[no-untyped-def]
    return scaled + added


@helper
def _as_code(scaled, added, zero_point, least, most):  # type: ignore[no-untyped-def]
    return round_i32(clamp_f32(scaled, least, most)) + zero_point


def _declare(dtype: str, as_out: Any) -> Kernel:
    itemsize = np.dtype(dtype).itemsize
    finished = _as_real if dtype == "float32" else _as_code

    def extents(row: Mapping[str, int]) -> list[Extent]:
        n = product(row, "outer", "channels", "inner")
        channels = row["channels"]
        return [
            Extent("high", 4 * n),
            Extent("low", 4 * n),
            Extent("y", itemsize * n, writes=True),
            Extent("bias", 8 * channels),
            Extent("factors", 4 * channels),
            Extent("added", 4 * channels),
            Extent("limits", 12),
        ]

    @kernel(f"join_sums_{dtype}", FIELDS, extents, family="wide")
    def join_sums(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        high = as_i32(operand(row, JHIGH, arena, constants))
        low = as_i32(operand(row, JLOW, arena, constants))
        y = as_out(operand(row, Y, arena, constants))
        bias = as_f64(operand(row, BIAS, arena, constants))
        factors = as_f32(operand(row, FACTORS, arena, constants))
        added = as_f32(operand(row, ADDED, arena, constants))
        limits = as_i32(operand(row, LIMITS, arena, constants))
        zero_point, least, most = limits[0], np.float32(limits[1]), np.float32(limits[2])
        channels, inner = row[CHANNELS], row[INNER]
        if inner == 1:  # channels last: the loop over them fills vectors
            start, stop = share(row[OUTER], thread, threads, 1)
            for at in range(start * channels, stop * channels, channels):
                for c in range(channels):
                    acc = joined(high[at + c], low[at + c], bias[c])
                    y[at + c] = finished(acc * factors[c], added[c], zero_point, least, most)
            return 0
        start, stop = share(row[OUTER] * channels, thread, threads, 1)
        for r in range(start, stop):
            c = r % channels
            for i in range(r * inner, (r + 1) * inner):
                acc = joined(high[i], low[i], bias[c])
                y[i] = finished(acc * factors[c], added[c], zero_point, least, most)
        return 0

    return join_sums


KERNELS = {
    dtype: _declare(dtype, as_out)
    for dtype, as_out in (
        ("float32", as_f32), ("uint8", as_u8), ("uint16", as_u16), ("int16", as_i16)
    )
}  # fmt: skip

SPLIT = OpSpec("SplitBytes", "qrt", infer_split, reference_split, lower_split, layout="any")
JOIN = OpSpec("JoinSums", "qrt", infer_join, reference_join, lower_join, layout="any")
