"""qrt.Add and qrt.Mul: uint8 with uint8 to uint8, NumPy broadcasting.

y = clamp(round_half_even(float32(A op B) / y_scale) + y_zero_point), A = float32(a - a_zero_point)
* a_scale and B alike, every operation rounded to float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams, Value
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.nests import elementwise_nest, names, numbered, reach
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.memory import as_u8, operand, row_f32
from qrt.simd.scalar import quantize_u8, share, sub32
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

RANK = 4  # loops of the kernel; what needs more is unrolled into rows
FIELDS = (
    "a", "b", "y", *names("n", RANK), *names("a_stride", RANK), *names("b_stride", RANK),
    "a_zero_point", "a_scale", "b_zero_point", "b_scale", "y_scale", "low", "high", "y_zero_point",
)  # fmt: skip
A, B, Y, N0, N1, N2, N3, A0, A1, A2, A3, B0, B1, B2, B3 = slots(FIELDS)[:15]
A_ZERO_POINT, A_SCALE, B_ZERO_POINT, B_SCALE, Y_SCALE, LOW, HIGH, Y_ZERO_POINT = slots(FIELDS)[15:]
GRAIN = 2048  # elements; below this a second thread costs more than it saves
MAX_ROWS = 64  # rows that one node may unroll into


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    a, b = node.required(0), node.required(1)
    return [(np.broadcast_shapes(a.static_shape, b.static_shape), np.dtype(np.uint8))]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    a, b = inputs
    assert a is not None and b is not None
    qy: QParams = node.attrs["y"]
    real_a, real_b = (_real(q, node.attrs[name]) for q, name in ((a, "a"), (b, "b")))
    t = (real_a + real_b if node.op == "Add" else real_a * real_b) / qy.scale
    y = np.rint(t).astype(np.float64) + float(qy.zero_point)
    return [np.clip(y, node.attrs["qmin"], node.attrs["qmax"]).astype(np.uint8)]


def _real(q: Array, qparams: QParams) -> Array:
    return np.asarray((q.astype(np.int32) - int(qparams.zero_point)).astype(np.float32) * qparams.scale)


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
    for nest, ends in unrolled(program, y, a, b):
        program.emit(
            KERNELS[node.op],
            **ends,
            **nest,
            a_zero_point=int(qa.zero_point),
            a_scale=np.float32(qa.scale),
            b_zero_point=int(qb.zero_point),
            b_scale=np.float32(qb.scale),
            y_scale=np.float32(qy.scale),
            low=np.float32(node.attrs["qmin"] - y_zero_point),
            high=np.float32(node.attrs["qmax"] - y_zero_point),
            y_zero_point=y_zero_point,
        )


def unrolled(
    program: Lowering, y: Value, a: Value, b: Value
) -> list[tuple[dict[str, int], dict[str, Any]]]:
    """Nest fields and operands a, b, y of each row: one, unless broadcasting needs more loops."""
    nest = elementwise_nest(y, a, b)
    if nest.count == 0:
        return []
    outer = max(len(nest.sizes) - RANK, 0)
    lead = nest.sizes[:outer]
    if math.prod(lead) > MAX_ROWS:
        raise UnsupportedError(f"broadcasting needs {len(nest.sizes)} nested loops")
    inner_sizes = nest.sizes[outer:]
    inner = type(nest)(inner_sizes, tuple(s[outer:] for s in nest.strides)).padded(RANK)
    fields = inner.fields("n", "a_stride", "b_stride")
    rows = []
    for i, index in enumerate(np.ndindex(lead)):
        at = [sum(k * s for k, s in zip(index, row[:outer], strict=True)) for row in nest.strides]
        ends = {
            "a": program.operand(a).at(at[0] * _itemsize(a)),
            "b": program.operand(b).at(at[1] * _itemsize(b)),
            "y": program.operand(y).at(i * inner.count * _itemsize(y)),
        }
        rows.append((fields, ends))
    return rows


def _itemsize(value: Value) -> int:
    return int(np.dtype(value.dtype).itemsize)


def binary_extents(row: Mapping[str, int], itemsize: int) -> list[Extent]:
    """What a row with nest fields n, a_stride, b_stride and contiguous y touches."""
    sizes = numbered(row, "n", RANK)
    found = []
    for name in "ab":
        low, high = reach(sizes, numbered(row, f"{name}_stride", RANK))
        found.append(Extent(name, itemsize * (high - low), start=itemsize * low))
    return [*found, Extent("y", itemsize * math.prod(sizes), writes=True)]


def extents(row: Mapping[str, int]) -> list[Extent]:
    return binary_extents(row, 1)


@helper
def add_scalar(a, b):  # type: ignore[no-untyped-def]
    """a + b in float32."""
    return a + b


@helper
def mul_scalar(a, b):  # type: ignore[no-untyped-def]
    """a * b in float32."""
    return a * b


def _declare(op: str, scalar_op: Callable[..., Any], vector_op: Any) -> Kernel:
    @helper
    def span(a, b, y, n, a_step, b_step, row):  # type: ignore[no-untyped-def]
        """`n` outputs at address y; a_step and b_step are the element strides of the operands."""
        a_scale = row_f32(row, A_SCALE)
        b_scale = row_f32(row, B_SCALE)
        y_scale = row_f32(row, Y_SCALE)
        low = row_f32(row, LOW)
        high = row_f32(row, HIGH)
        a_zero_point = np.int32(row[A_ZERO_POINT])
        b_zero_point = np.int32(row[B_ZERO_POINT])
        y_zero_point = np.int32(row[Y_ZERO_POINT])
        i = 0
        if a_step <= 1 and b_step <= 1 and a_step >= 0 and b_step >= 0:
            qa = splat_i32x16(np.int32(as_u8(a)[0]))
            qb = splat_i32x16(np.int32(as_u8(b)[0]))
            while i + 16 <= n:
                if a_step == 1:
                    qa = load_u8_as_i32x16(a + i)
                if b_step == 1:
                    qb = load_u8_as_i32x16(b + i)
                ra = mul_f32x16(
                    i32x16_to_f32x16(sub_i32x16(qa, splat_i32x16(a_zero_point))),
                    splat_f32x16(a_scale),
                )
                rb = mul_f32x16(
                    i32x16_to_f32x16(sub_i32x16(qb, splat_i32x16(b_zero_point))),
                    splat_f32x16(b_scale),
                )
                t = div_f32x16(vector_op(ra, rb), splat_f32x16(y_scale))
                q = quantize_u8x16(
                    t, splat_f32x16(low), splat_f32x16(high), splat_i32x16(y_zero_point)
                )
                store_u8x16(y + i, q)
                i += 16
        while i < n:
            ra = np.float32(sub32(np.int32(as_u8(a)[i * a_step]), a_zero_point)) * a_scale
            rb = np.float32(sub32(np.int32(as_u8(b)[i * b_step]), b_zero_point)) * b_scale
            as_u8(y)[i] = quantize_u8(scalar_op(ra, rb) / y_scale, low, high, y_zero_point)
            i += 1

    @kernel(f"{op.lower()}_u8", FIELDS, extents, family=f"{op.lower()}_u8")
    def binary_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        a = operand(row, A, arena, constants)
        b = operand(row, B, arena, constants)
        y = operand(row, Y, arena, constants)
        n = row[N3]
        start, stop = share(row[N0] * row[N1] * row[N2] * n, thread, threads, GRAIN)
        if start >= stop:
            return 0
        r = start // n
        i2 = r % row[N2]
        i1 = r // row[N2] % row[N1]
        i0 = r // row[N2] // row[N1]
        i = start
        while i < stop:
            first = i - r * n
            count = min(stop - i, n - first)
            at_a = a + i0 * row[A0] + i1 * row[A1] + i2 * row[A2] + first * row[A3]
            at_b = b + i0 * row[B0] + i1 * row[B1] + i2 * row[B2] + first * row[B3]
            span(at_a, at_b, y + i, count, row[A3], row[B3], row)
            i += count
            r += 1
            i2 += 1
            if i2 == row[N2]:
                i2 = 0
                i1 += 1
                if i1 == row[N1]:
                    i1 = 0
                    i0 += 1
        return 0

    return binary_kernel


KERNELS = {
    "Add": _declare("Add", add_scalar, add_f32x16),
    "Mul": _declare("Mul", mul_scalar, mul_f32x16),
}

ADD = OpSpec("Add", "qrt", infer, reference, lower, layout="any")
MUL = OpSpec("Mul", "qrt", infer, reference, lower, layout="any")
