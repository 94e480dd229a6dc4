"""DynamicQuantizeLinear (ONNX, opset 11): float32 to uint8 by the range of the data itself.

low = min(0, x), high = max(0, x); scale = (high - low) / 255; zero_point = round_half_even(-low /
scale); y = clamp(round_half_even(x / scale) + zero_point). Where all elements are 0 the scale is 1,
as in ONNX Runtime. NaN is no part of the range, and its code is 0. One row finds the range of
each thread's part, the next one quantizes: by two products in place of the quotient where it can
prove, once it knows the scale, that they round alike.

qrt.DynamicQuantize is the same of clip(x, low, high), low <= 0 <= high, which costs nothing: the
range is clipped, and so are the codes. Codes that are too low are 0 anyway, the code of low. Its
second input is the range of x, where what wrote x has found that too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qrt.errors import UnsupportedError
from qrt.gemm.ranges import PARTS as MOST_PARTS
from qrt.gemm.ranges import (
    RECORD_NBYTES,
    clear_ranges,
    found_range,
    ranges_nbytes,
    widen_range_by,
)
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.code_streams import GRAIN, load_one_f32, span_of_codes
from qrt.ops.dispatch import best_kernel
from qrt.ops.quantizing import QUANTIZERS, QUOTIENT, Quantizer
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, Operand, OpSpec
from qrt.quant.division import LARGEST, SMALLEST
from qrt.simd.fma import fma_f32
from qrt.simd.memory import as_f32, as_u8, bits_f32, f32_bits, operand, row_f32
from qrt.simd.scalar import add32, clamp_f32, round_i32, share, sub32
from qrt.simd.vectors import (
    load_f32x16,
)

RANGE_FIELDS = ("x", "ranges", "n", "parts")
RX, R_RANGES, RN, RPARTS = slots(RANGE_FIELDS)
# low and high are the bits of float32
FIELDS = ("x", "ranges", "y", "scale", "zero_point", "n", "parts", "low", "high")
X, RANGES, Y, SCALE, ZERO_POINT, N, PARTS, LOW, HIGH = slots(FIELDS)
LONG = 32768  # elements whose quotients take longer than the proof that spares them
NEAR = 4  # floats on each side: a quotient is in doubt within two, and ulps may halve there
ZERO, STEPS = np.float32(0), np.float32(255)
LIMITS = ("low", "high")
NO_LIMITS = (np.float32(-np.inf), np.float32(np.inf))


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    AttrReader(node).done()
    u8 = np.dtype(np.uint8)
    return [(node.required(0).static_shape, u8), ((), np.dtype(np.float32)), ((), u8)]


def infer_clipped(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    return infer(Node("DynamicQuantizeLinear", node.inputs[:1], node.outputs))


def reference_clipped(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x = inputs[0]
    assert x is not None
    return reference(node, [np.minimum(np.maximum(x, node.attrs["low"]), node.attrs["high"])])


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    low = np.fmin.reduce(x, axis=None, initial=ZERO)
    high = np.fmax.reduce(x, axis=None, initial=ZERO)
    with np.errstate(all="ignore"):
        scale = np.float32((high - low) / STEPS) if high > low else np.float32(1)
        zero_point = np.clip(np.rint(-low / scale), 0, 255)
        codes = np.rint(x / scale) + zero_point
    y = np.clip(np.where(np.isnan(codes), 0, codes), 0, 255).astype(np.uint8)
    return [y, np.asarray(scale), np.asarray(zero_point, np.uint8)]


def lower(node: Node, program: Lowering) -> None:
    x = node.required(0)
    y, scale, zero_point = node.outputs
    if x.dtype != np.float32:
        raise UnsupportedError(f"DynamicQuantizeLinear of {x.dtype} is not supported, only float32")
    n = math.prod(x.static_shape)
    limits = tuple(node.attrs.get(name, end) for name, end in zip(LIMITS, NO_LIMITS, strict=True))
    found = node.input(1)
    ranges = None if found is None else program.operand(found)
    emit_dynamic_quantize(program, program.operand(x), n, y, scale, zero_point, limits, ranges)


def emit_dynamic_quantize(
    program: Lowering,
    x: Operand,
    n: int,
    y: Value,
    scale: Value,
    zero_point: Value,
    limits: Sequence[np.float32] = NO_LIMITS,
    ranges: Operand | None = None,
) -> None:
    """The rows that quantize n floats at `x`, clipped to `limits`; `ranges` are x's if known."""
    parts = min(program.threads(), MOST_PARTS)
    sizes = {"n": n, "parts": parts}
    if ranges is None:
        ranges = program.scratch(ranges_nbytes(parts))
        program.emit(range_kernel, x=x, ranges=ranges, **sizes)
    ends = {"x": x, "ranges": ranges}
    program.emit(
        best_kernel(KERNELS, program.features),
        **ends,
        y=program.operand(y),
        scale=program.operand(scale),
        zero_point=program.operand(zero_point),
        low=limits[0],
        high=limits[1],
        **sizes,
    )


def range_extents(row: Mapping[str, int]) -> list[Extent]:
    return [
        Extent("x", 4 * product(row, "n")),
        Extent("ranges", ranges_nbytes(row["parts"]), writes=True),
    ]


def extents(row: Mapping[str, int]) -> list[Extent]:
    n = product(row, "n")
    return [
        Extent("x", 4 * n),
        Extent("ranges", ranges_nbytes(row["parts"])),
        Extent("y", n, writes=True),
        Extent("scale", 4, writes=True),
        Extent("zero_point", 1, writes=True),
    ]


@kernel("range_f32", RANGE_FIELDS, range_extents)
def range_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    threads = min(threads, row[RPARTS])
    if thread >= threads:
        return 0
    x = operand(row, RX, arena, constants)
    ranges = operand(row, R_RANGES, arena, constants)
    start, stop = share(row[RN], thread, threads, GRAIN)
    clear_ranges(ranges, row[RPARTS], thread, threads)
    widen_range_by(ranges + thread * RECORD_NBYTES, x + 4 * start, stop - start)
    return 0


@helper
def reciprocal(scale):  # type: ignore[no-untyped-def]
    """1 / scale as a float32 below it and the rest (`quant/division.py`)."""
    exact = 1.0 / np.float64(scale)
    factor = np.float32(exact)
    factor = factor if factor < exact else bits_f32(sub32(f32_bits(factor), np.int32(1)))
    return factor, np.float32(exact - np.float64(factor))


@helper
def round_alike(scale, factor, rest, zero):  # type: ignore[no-untyped-def]
    """True when x * factor + x * rest rounds to the codes that x / scale does, for all x.

    Both grow with x, and NEAR floats away from where a code should begin neither is in doubt.
    """
    least = np.float32(-zero)
    most = np.float32(add32(255, -zero))
    differ = np.int32(0)
    for away in range(-NEAR, NEAR):
        for code in range(1, 256):  # the longer loop inside, for vectors
            begin = np.float32(add32(np.int32(code), -zero)) - np.float32(0.5)
            x = bits_f32(add32(f32_bits(begin * scale), np.int32(away)))
            want = round_i32(clamp_f32(x / scale, least, most))
            got = round_i32(clamp_f32(fma_f32(x, factor, x * rest), least, most))
            differ |= want ^ got
    return differ == 0


def _declare(row: Quantizer) -> Kernel:
    quotient = replace(row, divide=QUOTIENT)
    by_quotient = span_of_codes(quotient, load_f32x16, load_one_f32, False)
    by_row = span_of_codes(row, load_f32x16, load_one_f32, False)
    may_multiply = row.divide is not QUOTIENT

    @kernel(
        row.name("dynamic_quantize_f32_u8"),
        FIELDS,
        extents,
        family="dynamic_quantize_f32_u8",
        features=row.features,
    )
    def dynamic_quantize_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        low, high = found_range(operand(row, RANGES, arena, constants), row[PARTS])
        floor, ceiling = row_f32(row, LOW), row_f32(row, HIGH)
        low = low if low > floor else floor
        clips = high > ceiling
        high = ceiling if clips else high
        scale = (high - low) / STEPS if high > low else np.float32(1)
        zero = round_i32(-low / scale)  # within [0, 255], since low is within [-255 * scale, 0]
        if thread == 0:
            as_f32(operand(row, SCALE, arena, constants))[0] = scale
            as_u8(operand(row, ZERO_POINT, arena, constants))[0] = np.uint8(zero)
        least = np.float32(-zero)
        most = np.float32(add32(255, -zero))
        if clips:  # the code of `high` may not be 255: zero_point is rounded
            most = min(most, np.float32(round_i32(high / scale)))
        start, stop = share(row[N], thread, threads, GRAIN)
        n = stop - start
        factor = rest = ZERO
        multiply = may_multiply and n >= LONG and scale >= SMALLEST and scale <= LARGEST
        if multiply:
            factor, rest = reciprocal(scale)
            multiply = round_alike(scale, factor, rest, zero)
        end = (scale, factor, rest, least, most, zero)
        if multiply:
            by_row(x + 4 * start, y + start, n, end, x, 0)
        else:
            by_quotient(x + 4 * start, y + start, n, end, x, 0)
        return 0

    return dynamic_quantize_kernel


KERNELS = tuple(_declare(row) for row in QUANTIZERS)

SPEC = OpSpec("DynamicQuantizeLinear", "", infer, reference, lower, layout="any")
CLIPPED_SPEC = OpSpec(
    "DynamicQuantize", "qrt", infer_clipped, reference_clipped, lower, layout="any"
)
