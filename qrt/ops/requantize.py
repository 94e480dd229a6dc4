"""qrt.Requantize: int32 sums of one scale, per_tensor or per_channel, to 8 bits of another.

y = clamp(round_half_even((float32(x) * x_scale) / y_scale) + zero_point, qmin, qmax), every
operation rounded to float32: DequantizeLinear, whose zero point must be 0 for int32, and
QuantizeLinear (opset 10) in one pass over memory. Where one product is proved to round as both
operations do it takes their place, else the product of the dequantization stays and the division
becomes two (`quant/division.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams
from qrt.jit.declare import Extent, helper, kernel, slots
from qrt.ops.channels import ChannelView, channel_view
from qrt.ops.code_streams import GRAIN, declare_codes, emit_codes
from qrt.ops.quantizing import FACTORS, PRODUCTS, QUANTIZERS, Scaling, make_records
from qrt.ops.sizes import product, within
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant.affine import dequantize, quantize
from qrt.quant.division import division_factors, requantization_factor
from qrt.simd.fma import fma_f32
from qrt.simd.memory import as_f32, as_i32, as_u8, operand, row_f32
from qrt.simd.scalar import quantize_u8, share
from qrt.simd.vectors import fma_f32x16, i32x16_to_f32x16, load_i32x16, mul_f32x16

FIELDS = (
    "x", "y", "n", "inner", "channels", "scales", "y_scale", "low", "high", "zero_point",
)  # fmt: skip
X, Y, N, INNER, CHANNELS, SCALES, Y_SCALE, LOW, HIGH, ZERO_POINT = slots(FIELDS)
FACTOR = "factor"  # the precondition of rows that multiply once


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    qparams: QParams = node.attrs["y"]
    return [(node.required(0).static_shape, qparams.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    y: QParams = node.attrs["y"]
    codes = quantize(dequantize(x, node.attrs["x"]), y)
    return [np.clip(codes, node.attrs["qmin"], node.attrs["qmax"]).astype(y.dtype)]


def lower(node: Node, program: Lowering) -> None:
    value = node.required(0)
    x, y = node.attrs["x"], node.attrs["y"]
    if value.dtype != np.int32 or not y.per_tensor or y.dtype.itemsize != 1:
        raise UnsupportedError(
            f"Requantize from {value.dtype} to {y.dtype} is not supported, only from int32 to"
            " 8 bits with one scale and zero point"
        )
    if np.any(x.zero_point != 0):
        raise UnsupportedError("Requantize of int32 needs zero points of 0")
    qmin, qmax = node.attrs["qmin"], node.attrs["qmax"]
    n = int(np.prod(value.static_shape))
    ends = {"x": program.operand(value), "y": program.operand(node.outputs[0])}
    view = ChannelView(1, 1, n) if x.per_tensor else channel_view(value, x.axis)
    found = _product_records(x, y, qmin, qmax)
    if found is not None and emit_codes(program, KERNELS, ends, view, *found):
        return
    zero_point = int(y.zero_point)
    program.emit(
        quotient_kernel,
        **ends,
        n=n,
        inner=max(1, view.inner),
        channels=max(1, view.channels),
        scales=program.constant(np.atleast_1d(x.scale)),
        y_scale=np.float32(y.scale),
        low=np.float32(qmin - zero_point),
        high=np.float32(qmax - zero_point),
        zero_point=zero_point,
    )


def _product_records(
    x: QParams, y: QParams, qmin: int, qmax: int
) -> tuple[Array, dict[str, int]] | None:
    """Records of products that are proved for all scales of `x`, and which; None without."""
    if np.any(x.scale > y.scale / 2):
        return None  # from half a step on, quotients may leave int32
    low, high = qmin - int(y.zero_point), qmax - int(y.zero_point)
    y_scale = float(y.scale)
    singles = [
        requantization_factor(float(scale), y_scale, low, high) for scale in x.scale.reshape(-1)
    ]
    if all(factor is not None for factor in singles):
        factors = np.array(singles, np.float32)
        rest = np.zeros((), np.float32)
        return make_records(x.scale, factors, rest, y.zero_point, qmin, qmax), {FACTOR: 1}
    pair = division_factors(y_scale, low, high)
    if pair is None:
        return None
    factor, rest = (np.asarray(v) for v in pair)
    return make_records(x.scale, factor, rest, y.zero_point, qmin, qmax), {FACTORS: 1}


@helper
def _load(address):  # type: ignore[no-untyped-def]
    return i32x16_to_f32x16(load_i32x16(address))


@helper
def _load_one(address):  # type: ignore[no-untyped-def]
    return np.float32(as_i32(address)[0])


@helper
def _product(t, scale, factor, rest):  # type: ignore[no-untyped-def]
    return mul_f32x16(t, factor)


@helper
def _product_of_one(t, scale, factor, rest):  # type: ignore[no-untyped-def]
    return t * factor


@helper
def _three_products(t, scale, factor, rest):  # type: ignore[no-untyped-def]
    t = mul_f32x16(t, scale)
    return fma_f32x16(t, factor, mul_f32x16(t, rest))


@helper
def _three_products_of_one(t, scale, factor, rest):  # type: ignore[no-untyped-def]
    t = t * scale
    return fma_f32(t, factor, t * rest)


def extents(row: Mapping[str, int]) -> list[Extent]:
    n = product(row, "n")
    within(row, "inner", 1, 1 << 48)
    nbytes = 4 * within(row, "channels", 1, 1 << 32)
    return [
        Extent("x", 4 * n),
        Extent("y", n, writes=True),
        Extent("scales", nbytes),
    ]


@kernel("requantize_s32_u8_quotient", FIELDS, extents, family="requantize")
def quotient_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = as_i32(operand(row, X, arena, constants))
    y = as_u8(operand(row, Y, arena, constants))
    scales = as_f32(operand(row, SCALES, arena, constants))
    inner = row[INNER]
    channels = row[CHANNELS]
    y_scale = row_f32(row, Y_SCALE)
    low = row_f32(row, LOW)
    high = row_f32(row, HIGH)
    zero_point = np.int32(row[ZERO_POINT])
    i, stop = share(row[N], thread, threads, GRAIN)
    while i < stop:
        scale = scales[i // inner % channels]
        end = min(stop, i - i % inner + inner)
        while i < end:
            y[i] = quantize_u8(np.float32(x[i]) * scale / y_scale, low, high, zero_point)
            i += 1
    return 0


ONE_PRODUCT = Scaling(_product, _product_of_one)
THREE_PRODUCTS = Scaling(_three_products, _three_products_of_one, (True, False, False))
_SMALL = tuple(replace(row, store=row.store_small) for row in QUANTIZERS)
ROWS = (
    *(replace(row, divide=ONE_PRODUCT, preconditions={FACTOR: 1}) for row in _SMALL),
    *(
        replace(row, isa=f"scaled_{row.isa}", divide=THREE_PRODUCTS)
        for row in _SMALL
        if row.divide is PRODUCTS
    ),
)
KERNELS = declare_codes("requantize", "s32_u8", ROWS, _load, _load_one)

SPEC = OpSpec("Requantize", "qrt", infer, reference, lower, layout="any")
