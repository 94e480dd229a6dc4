"""qrt.Add and qrt.Mul: uint8 with uint8 to uint8, NumPy broadcasting.

y = clamp(round_half_even(float32(A op B) / y_scale) + y_zero_point), A = float32(a - a_zero_point)
* a_scale and B alike, every operation rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams
from qrt.jit.declare import Kernel, helper, slots
from qrt.ops.broadcast import FIELDS as NEST_FIELDS
from qrt.ops.broadcast import broadcast_rows, declare_broadcast, repeated
from qrt.ops.byte_pairs import emit_pairs
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant.affine import dequantize
from qrt.simd.memory import as_u8, row_f32
from qrt.simd.scalar import quantize_u8, sub32
from qrt.simd.vectors import (
    add_f32x16,
    div_f32x16,
    i32x16_to_f32x16,
    load_u8_as_i32x16,
    mul_f32x16,
    quantize_u8x16,
    splat_f32x16,
    splat_i32x16,
    store_u8x16,
    sub_i32x16,
)

MORE_FIELDS = (
    "a_zero_point", "a_scale", "b_zero_point", "b_scale", "y_scale", "low", "high", "y_zero_point",
)  # fmt: skip
A_ZERO_POINT, A_SCALE, B_ZERO_POINT, B_SCALE, Y_SCALE, LOW, HIGH, Y_ZERO_POINT = slots(
    (*NEST_FIELDS, *MORE_FIELDS)
)[-len(MORE_FIELDS) :]


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    a, b = node.required(0), node.required(1)
    return [(np.broadcast_shapes(a.static_shape, b.static_shape), np.dtype(np.uint8))]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    a, b = inputs
    assert a is not None and b is not None
    qy: QParams = node.attrs["y"]
    real_a, real_b = dequantize(a, node.attrs["a"]), dequantize(b, node.attrs["b"])
    t = (real_a + real_b if node.op == "Add" else real_a * real_b) / qy.scale
    y = np.rint(t).astype(np.float64) + float(qy.zero_point)
    return [np.clip(y, node.attrs["qmin"], node.attrs["qmax"]).astype(np.uint8)]


def lower(node: Node, program: Lowering) -> None:
    a, b, y = node.required(0), node.required(1), node.outputs[0]
    for value, name in ((a, "a"), (b, "b"), (y, "y")):
        if value.dtype != np.uint8 or not node.attrs[name].per_tensor:
            raise UnsupportedError(
                f"{name} of {node.op} must be uint8 with one scale and zero point,"
                f" got {value.dtype}{'' if node.attrs[name].per_tensor else ' per channel'}"
            )
    qa, qb, qy = (node.attrs[name] for name in "aby")
    y_zero_point = int(qy.zero_point)
    for nest in broadcast_rows(program, y, a, b):
        fields = repeated(program, nest, 1)
        if emit_pairs(program, node.op, node.attrs, fields):
            continue
        program.emit(
            KERNELS[node.op],
            **fields,
            a_zero_point=int(qa.zero_point),
            a_scale=np.float32(qa.scale),
            b_zero_point=int(qb.zero_point),
            b_scale=np.float32(qb.scale),
            y_scale=np.float32(qy.scale),
            low=np.float32(node.attrs["qmin"] - y_zero_point),
            high=np.float32(node.attrs["qmax"] - y_zero_point),
            y_zero_point=y_zero_point,
        )


@helper
def add_scalar(a, b):  # type: ignore[no-untyped-def]
    """a + b in float32."""
    return a + b


@helper
def mul_scalar(a, b):  # type: ignore[no-untyped-def]
    """a * b in float32."""
    return a * b


@helper
def _dequantize16(q, zero_point, scale):  # type: ignore[no-untyped-def]
    centered = i32x16_to_f32x16(sub_i32x16(q, splat_i32x16(zero_point)))
    return mul_f32x16(centered, splat_f32x16(scale))


@helper
def _read(row):  # type: ignore[no-untyped-def]
    return (
        row_f32(row, A_SCALE),
        row_f32(row, B_SCALE),
        row_f32(row, Y_SCALE),
        row_f32(row, LOW),
        row_f32(row, HIGH),
        np.int32(row[A_ZERO_POINT]),
        np.int32(row[B_ZERO_POINT]),
        np.int32(row[Y_ZERO_POINT]),
    )


def _declare(op: str, scalar_op: Callable[..., Any], vector_op: Any) -> Kernel:
    @helper
    def span(a, b, y, n, a_step, b_step, values):  # type: ignore[no-untyped-def]
        a_scale, b_scale, y_scale, low, high, a_zero_point, b_zero_point, y_zero_point = values
        i = 0
        if a_step <= 1 and b_step <= 1 and a_step >= 0 and b_step >= 0 and n >= 16:
            qa = splat_i32x16(np.int32(as_u8(a)[0]))
            qb = splat_i32x16(np.int32(as_u8(b)[0]))
            while i < n:
                at = min(i, n - 16)  # the last block may overlap
                if a_step == 1:
                    qa = load_u8_as_i32x16(a + at)
                if b_step == 1:
                    qb = load_u8_as_i32x16(b + at)
                ra = _dequantize16(qa, a_zero_point, a_scale)
                rb = _dequantize16(qb, b_zero_point, b_scale)
                t = div_f32x16(vector_op(ra, rb), splat_f32x16(y_scale))
                q = quantize_u8x16(
                    t, splat_f32x16(low), splat_f32x16(high), splat_i32x16(y_zero_point)
                )
                store_u8x16(y + at, q)
                i += 16
        while i < n:
            ra1 = np.float32(sub32(np.int32(as_u8(a)[i * a_step]), a_zero_point)) * a_scale
            rb1 = np.float32(sub32(np.int32(as_u8(b)[i * b_step]), b_zero_point)) * b_scale
            as_u8(y)[i] = quantize_u8(scalar_op(ra1, rb1) / y_scale, low, high, y_zero_point)
            i += 1

    return declare_broadcast(f"{op.lower()}_u8", MORE_FIELDS, (1, 1, 1), _read, span)


KERNELS = {
    "Add": _declare("Add", add_scalar, add_f32x16),
    "Mul": _declare("Mul", mul_scalar, mul_f32x16),
}

ADD = OpSpec("Add", "qrt", infer, reference, lower, layout="any")
MUL = OpSpec("Mul", "qrt", infer, reference, lower, layout="any")
