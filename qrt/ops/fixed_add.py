"""Rows of qrt.Add in integers, for x86: twice as fast, for scales that `fixed_point` proved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qrt.jit.declare import Kernel, helper, slots
from qrt.ops.broadcast import FIELDS as NEST_FIELDS
from qrt.ops.broadcast import RANK, declare_broadcast
from qrt.ops.fixed_point import LOW_BITS, fixed_add
from qrt.ops.spec import Lowering
from qrt.simd.fixed_add import fixed_add_u8x32_avx2, fixed_add_u8x64_avx512, fixed_add_u8x64_vnni
from qrt.simd.memory import as_u8

MORE_FIELDS = ("high", "low", "c_high", "c_low", "shift", "qmin", "qmax")
HIGH, LOW, C_HIGH, C_LOW, SHIFT, QMIN, QMAX = slots((*NEST_FIELDS, *MORE_FIELDS))[-7:]
LEAST_COLUMNS = 64  # columns of the innermost loop below which blocks do not pay


def emit_fixed_add(
    program: Lowering, attrs: Mapping[str, Any], nest: Mapping[str, Any]
) -> bool:
    """Emit the row if this CPU, the nest and the scales allow it; else False."""
    kernel = next((k for k in KERNELS if k.features <= program.features), None)
    last = RANK - 1
    dense = nest[f"a_stride{last}"] == nest[f"b_stride{last}"] == 1
    if kernel is None or not dense or nest[f"n{last}"] < LEAST_COLUMNS:
        return False
    formula = fixed_add(attrs["a"], attrs["b"], attrs["y"], attrs["qmin"], attrs["qmax"])
    if formula is None:
        return False
    program.emit(kernel, **nest, **formula.fields(), qmin=attrs["qmin"], qmax=attrs["qmax"])
    return True


@helper
def _read(row):  # type: ignore[no-untyped-def]
    return row[HIGH], row[LOW], row[C_HIGH], row[C_LOW], row[SHIFT], row[QMIN], row[QMAX]


def _declare(suffix: str, width: int, block: Any, features: tuple[str, ...]) -> Kernel:
    @helper
    def span(a, b, y, n, a_step, b_step, values):  # type: ignore[no-untyped-def]
        high, low, c_high, c_low, shift, qmin, qmax = values
        i = 0
        while i < n and n >= width and a_step == 1 and b_step == 1:
            at = min(i, n - width)  # the last block may overlap
            block(
                a + at,
                b + at,
                y + at,
                np.int32(high),
                np.int32(low),
                np.int32(c_high),
                np.int32(c_low),
                np.int32(shift),
                np.uint8(qmin),
                np.uint8(qmax),
            )
            i += width
        ma = (high & 0xFFFF) << LOW_BITS | (low & 0xFFFF)
        mb = (high >> 16 & 0xFFFF) << LOW_BITS | (low >> 16 & 0xFFFF)
        c = (c_high << LOW_BITS) + c_low
        bits = shift + LOW_BITS
        while i < n:
            q = (as_u8(a)[i * a_step] * ma + as_u8(b)[i * b_step] * mb + c) >> bits
            as_u8(y)[i] = np.uint8(min(max(q, qmin), qmax))
            i += 1

    name = f"add_u8_fixed_{suffix}"
    return declare_broadcast(name, MORE_FIELDS, (1, 1, 1), _read, span, features)


KERNELS = (
    _declare("avx512vnni", 64, fixed_add_u8x64_vnni, ("avx512", "avx512vnni")),
    _declare("avx512", 64, fixed_add_u8x64_avx512, ("avx512",)),
    _declare("avx2", 32, fixed_add_u8x32_avx2, ("avx2",)),
)
