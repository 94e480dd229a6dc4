"""Rows of qrt.Add and qrt.Mul by formulas over pairs of codes, on x86: two to three times faster,
for scales for which a formula was proved on all pairs (`fixed_point`, `scaled_pairs`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qrt.jit.declare import Kernel, helper, slots
from qrt.ops.broadcast import FIELDS as NEST_FIELDS
from qrt.ops.broadcast import RANK, declare_broadcast
from qrt.ops.fixed_point import LOW_BITS, fixed_add
from qrt.ops.scaled_pairs import scaled_add, scaled_product
from qrt.ops.spec import Lowering
from qrt.simd.byte_pairs import ISAS, PARAMETERS, Isa, pair_block
from qrt.simd.memory import as_u8, row_f32
from qrt.simd.scalar import quantize_u8

LEAST_COLUMNS = 64  # columns of the innermost loop below which blocks do not pay

# per operator, the formulas to try, fastest first: (name, attributes -> row fields or None)
Finder = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
FORMULAS: dict[str, tuple[tuple[str, Finder], ...]] = {
    "Add": (("fixed_add", fixed_add), ("scaled_add", scaled_add)),
    "Mul": (("scaled_product", scaled_product),),
}


def emit_pairs(
    program: Lowering, op: str, attrs: Mapping[str, Any], nest: Mapping[str, Any]
) -> bool:
    """Emit the row if this CPU, the nest and the scales allow it; else False."""
    isa = next((i for i in ISAS if program.features.issuperset(i.features)), None)
    last = RANK - 1
    dense = nest[f"a_stride{last}"] == nest[f"b_stride{last}"] == 1
    if isa is None or not dense or nest[f"n{last}"] < LEAST_COLUMNS:
        return False
    for formula, find in FORMULAS[op]:
        fields = find(attrs)
        if fields is not None:
            ends = {"qmin": attrs["qmin"], "qmax": attrs["qmax"]}
            program.emit(KERNELS[formula, isa], **nest, **fields, **ends)
            return True
    return False


def _slots(formula: str) -> tuple[int, ...]:
    more = _more_fields(formula)
    return tuple(slots((*NEST_FIELDS, *more))[-len(more) :])


def _more_fields(formula: str) -> tuple[str, ...]:
    return (*PARAMETERS[formula], "qmin", "qmax")


HIGH, LOW, C_HIGH, C_LOW, SHIFT, FIXED_QMIN, FIXED_QMAX = _slots("fixed_add")
SUM_A, SUM_A_SCALE, SUM_B, SUM_B_SCALE, SUM_FACTOR, SUM_Y, SUM_QMIN, SUM_QMAX = _slots("scaled_add")
MUL_A, MUL_B, MUL_FACTOR, MUL_Y, MUL_QMIN, MUL_QMAX = _slots("scaled_product")


@helper
def _read_fixed(row):  # type: ignore[no-untyped-def]
    return (
        np.int32(row[HIGH]), np.int32(row[LOW]), np.int32(row[C_HIGH]), np.int32(row[C_LOW]),
        np.int32(row[SHIFT]), np.int32(row[FIXED_QMIN]), np.int32(row[FIXED_QMAX]),
    )  # fmt: skip


@helper
def _one_fixed(a, b, values):  # type: ignore[no-untyped-def]
    high, low, c_high, c_low, shift, qmin, qmax = values
    upper = np.int64(a) * (high & 0xFFFF) + np.int64(b) * (high >> 16 & 0xFFFF) + c_high
    lower = np.int64(a) * (low & 0xFFFF) + np.int64(b) * (low >> 16 & 0xFFFF) + c_low
    q = ((upper << LOW_BITS) + lower) >> (shift + LOW_BITS)
    return np.uint8(min(max(q, np.int64(qmin)), np.int64(qmax)))


@helper
def _read_sum(row):  # type: ignore[no-untyped-def]
    return (
        np.int32(row[SUM_A]), row_f32(row, SUM_A_SCALE), np.int32(row[SUM_B]),
        row_f32(row, SUM_B_SCALE), row_f32(row, SUM_FACTOR), np.int32(row[SUM_Y]),
        np.int32(row[SUM_QMIN]), np.int32(row[SUM_QMAX]),
    )  # fmt: skip


@helper
def _one_sum(a, b, values):  # type: ignore[no-untyped-def]
    a_zero, a_scale, b_zero, b_scale, factor, y_zero, qmin, qmax = values
    real_a = (np.float32(a) - np.float32(a_zero)) * a_scale
    real_b = (np.float32(b) - np.float32(b_zero)) * b_scale
    low, high = np.float32(qmin - y_zero), np.float32(qmax - y_zero)
    return quantize_u8((real_a + real_b) * factor, low, high, y_zero)


@helper
def _read_product(row):  # type: ignore[no-untyped-def]
    return (
        np.int32(row[MUL_A]), np.int32(row[MUL_B]), row_f32(row, MUL_FACTOR),
        np.int32(row[MUL_Y]), np.int32(row[MUL_QMIN]), np.int32(row[MUL_QMAX]),
    )  # fmt: skip


@helper
def _one_product(a, b, values):  # type: ignore[no-untyped-def]
    a_zero, b_zero, factor, y_zero, qmin, qmax = values
    product = (np.float32(a) - np.float32(a_zero)) * (np.float32(b) - np.float32(b_zero))
    low, high = np.float32(qmin - y_zero), np.float32(qmax - y_zero)
    return quantize_u8(product * factor, low, high, y_zero)


def _declare(kernel_name: str, formula: str, isa: Isa, read: Any, one: Any) -> Kernel:
    block, width = pair_block(formula, isa), isa.nbytes

    @helper
    def span(a, b, y, n, a_step, b_step, values):  # type: ignore[no-untyped-def]
        i = 0
        while i < n and n >= width and a_step == 1 and b_step == 1:
            at = min(i, n - width)  # the last block may overlap
            block(a + at, b + at, y + at, values)
            i += width
        while i < n:
            as_u8(y)[i] = one(as_u8(a)[i * a_step], as_u8(b)[i * b_step], values)
            i += 1

    name = f"{kernel_name}_{isa.name}"
    return declare_broadcast(name, _more_fields(formula), (1, 1, 1), read, span, isa.features)


_FAMILIES = (
    ("add_u8_fixed", "fixed_add", _read_fixed, _one_fixed),
    ("add_u8_scaled", "scaled_add", _read_sum, _one_sum),
    ("mul_u8_scaled", "scaled_product", _read_product, _one_product),
)
KERNELS: dict[tuple[str, Isa], Kernel] = {
    (formula, isa): _declare(name, formula, isa, read, one)
    for name, formula, read, one in _FAMILIES
    for isa in ISAS
}
