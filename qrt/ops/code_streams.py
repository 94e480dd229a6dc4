"""Kernels that make bytes of float32 or int32: scale, round, add the zero point, clamp, store.

A row of the program walks spans of `inner` elements that share a record (`ops/quantizing.py`;
per_tensor: one span), or rows of columns that have factors of their own (channels that are last in
memory).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.channels import ChannelView
from qrt.ops.dispatch import usable_kernel
from qrt.ops.quantizing import RECORD_NBYTES, WIDTH, Quantizer, read_record
from qrt.ops.sizes import product, within
from qrt.ops.spec import Array, Lowering, Operand
from qrt.simd.memory import as_f32, as_u8, operand
from qrt.simd.scalar import quantize_u8, share
from qrt.simd.vectors import (
    load_f32x16,
    quantize_u8x16,
    splat_f32x16,
    splat_i32x16,
    store_u8x16,
)

FIELDS = ("x", "y", "n", "inner", "channels", "records")
COLUMN_FIELDS = (*FIELDS, "factors")
X, Y, N, INNER, CHANNELS, RECORDS, COLUMNS = slots(COLUMN_FIELDS)
# elements; rows that are shorter are taken several at a time. Their factors, 12 KiB, stay in L1
LEAST_COLUMNS = 1024
GRAIN = 4096  # elements; below this a second thread costs more than it saves


def emit_codes(
    program: Lowering,
    kernels: Mapping[str, Sequence[Kernel]],
    ends: Mapping[str, Operand],
    view: ChannelView,
    records: Array,
    facts: Mapping[str, int],
) -> bool:
    """Emit the row of `kernels` (made by `declare_codes`) for x and y of `view`.

    False where there is none for these facts, for many channels too short for a vector, and for
    columns of several zero points.
    """
    n = view.outer * view.channels * view.inner
    if n == 0:
        return True
    fields: dict[str, int | Operand] = {**ends, "n": n, "channels": len(records)}
    if len(records) == 1 or view.inner >= WIDTH:
        inner = n if len(records) == 1 else view.inner
        kernel = usable_kernel(kernels["spans"], program.features, facts)
        if kernel is None:
            return False
        program.emit(kernel, **fields, inner=inner, records=program.constant(records))
        return True
    width = view.channels * view.inner
    if (view.inner > 1 and width > LEAST_COLUMNS) or np.any(records[:, 3:] != records[0, 3:]):
        return False
    columns = np.tile(records[:, :3].T.repeat(view.inner, axis=1), -(-LEAST_COLUMNS // width))
    kernel = usable_kernel(kernels["columns"], program.features, facts)
    if kernel is None:
        return False
    program.emit(
        kernel,
        **fields | {"channels": 1},
        inner=columns.shape[1],
        records=program.constant(records[:1]),
        factors=program.constant(columns),
    )
    return True


@helper
def load_one_f32(address):  # type: ignore[no-untyped-def]
    """The float32 at `address`."""
    return as_f32(address)[0]


def span_of_codes(row: Quantizer, load: Any, load_one: Any, columns: bool) -> Any:
    """Helper (x, y, n, end, factors, stride): n codes at y of n elements of 4 bytes at x.

    `load(address)` gives f32x16, `load_one` a float32. With `columns` each element has a scale at
    `factors`, a factor `stride` elements after it, and a rest after that.
    """
    store, divide, divide_one = row.store, row.divide.vector, row.divide.scalar
    scales, factors_, rests = (columns and varies for varies in row.divide.varies)

    @helper
    def scaled(x, i, end, factors, stride):  # type: ignore[no-untyped-def]
        p = factors + 4 * i
        scale = load_f32x16(p) if scales else splat_f32x16(end[0])
        factor = load_f32x16(p + 4 * stride) if factors_ else splat_f32x16(end[1])
        rest = load_f32x16(p + 8 * stride) if rests else splat_f32x16(end[2])
        return divide(load(x + 4 * i), scale, factor, rest)

    @helper
    def span(x, y, n, end, factors, stride):  # type: ignore[no-untyped-def]
        i = 0
        while i < n and n >= WIDTH:
            at = min(i, n - WIDTH)  # the last block may overlap
            a = scaled(x, at, end, factors, stride)
            b = scaled(x, at + 16, end, factors, stride)
            c = scaled(x, at + 32, end, factors, stride)
            d = scaled(x, at + 48, end, factors, stride)
            store(y + at, a, b, c, d, end)
            i += WIDTH
        while i < n and n >= 16:
            at = min(i, n - 16)
            t = scaled(x, at, end, factors, stride)
            low = splat_f32x16(end[3])
            high = splat_f32x16(end[4])
            store_u8x16(y + at, quantize_u8x16(t, low, high, splat_i32x16(end[5])))
            i += 16
        while i < n:
            scale, factor, rest = end[:3]
            if columns:
                scale = as_f32(factors)[i]
                factor = as_f32(factors)[i + stride]
                rest = as_f32(factors)[i + 2 * stride]
            t = divide_one(load_one(x + 4 * i), scale, factor, rest)
            as_u8(y)[i] = quantize_u8(t, end[3], end[4], end[5])
            i += 1

    return span


def declare_codes(
    family: str, types: str, rows: Sequence[Quantizer], load: Any, load_one: Any
) -> dict[str, tuple[Kernel, ...]]:
    """Tables of kernels, fastest first: `spans` of one record each, and `columns`. `types` are part
    of their names."""
    return {
        "spans": tuple(_declare(family, types, row, load, load_one, False) for row in rows),
        "columns": tuple(
            _declare(f"{family}_columns", types, row, load, load_one, True) for row in rows
        ),
    }


def codes_extents(row: Mapping[str, int]) -> list[Extent]:
    n = product(row, "n")
    within(row, "inner", 1, 1 << 48)
    within(row, "channels", 1, 1 << 32)
    records = Extent("records", RECORD_NBYTES * row["channels"])
    return [Extent("x", 4 * n), Extent("y", n, writes=True), records]


def column_extents(row: Mapping[str, int]) -> list[Extent]:
    return [*codes_extents(row), Extent("factors", 12 * row["inner"])]


def _declare(
    family: str, types: str, row: Quantizer, load: Any, load_one: Any, columns: bool
) -> Kernel:
    span = span_of_codes(row, load, load_one, columns)

    @kernel(
        row.name(f"{family}_{types}"),
        COLUMN_FIELDS if columns else FIELDS,
        column_extents if columns else codes_extents,
        family=family,
        features=row.features,
        preconditions=row.preconditions,
    )
    def codes_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        records = operand(row, RECORDS, arena, constants)
        factors = operand(row, COLUMNS, arena, constants) if columns else records
        inner = row[INNER]
        i, stop = share(row[N], thread, threads, GRAIN)
        while i < stop:
            first = i % inner
            n = min(inner - first, stop - i)
            end = read_record(records + RECORD_NBYTES * (i // inner % row[CHANNELS]))
            span(x + 4 * i, y + i, n, end, factors + 4 * first, inner)
            i += n
        return 0

    return codes_kernel
