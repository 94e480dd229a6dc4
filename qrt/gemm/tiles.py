"""Tiles as functions that kernels call: the generated ones, and the scalar one they must equal."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np

from qrt.gemm.ranges import RUN, SCALE, quotient_code, widen_range
from qrt.gemm.table import TileSpec
from qrt.jit.declare import helper, intrinsic
from qrt.simd.memory import as_f32, as_i8, as_i32, as_i64, as_u8
from qrt.simd.scalar import add32, mul32, quantize_u8

PORTABLE_MR = 4
PORTABLE_NR = 16


@cache
def tiles(spec: TileSpec, epilogue: str) -> Any:
    """One function of all tiles of a row: `(height, nv, rows, ..., limits) -> 0`, all int64.

    `height` and `nv` are of the row's `heights` and `widths`; the rest is `tile.ARGUMENTS`.
    """
    family, heights, widths = spec.family, spec.heights, spec.widths
    if family == "portable":
        return _PORTABLE[epilogue]

    # nineteen arguments: numba needs the names spelled out
    def call_tile(  # type: ignore[no-untyped-def]
        typingctx, height, nv, rows, row_step, offsets, base, tile_step, tiles, taps, groups,
        panel, ahead, columns, sums, out, ldc, m, n, limits,
    ):  # fmt: skip
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            from llvmlite import ir

            from qrt.gemm.dots import FAMILIES
            from qrt.gemm.emit import need_features
            from qrt.gemm.epilogue import builder_of
            from qrt.gemm.tile import build_dispatch, build_tile

            name = f"qrt_tiles_{family}_{epilogue}"
            fn = builder.module.globals.get(name)
            if fn is None:
                dot, made = FAMILIES[family], {}
                end = builder_of(epilogue, dot.features)
                for size in product(heights, widths):
                    tile_name = f"{name}_{size[0]}x{size[1]}"
                    made[size] = build_tile(builder.module, tile_name, dot, *size, end)
                    need_features(context, made[size], dot.features)
                fn = build_dispatch(builder.module, name, made)
            builder.call(fn, args)
            return ir.Constant(ir.IntType(64), 0)

        return types.int64(*[types.int64] * 19), codegen

    call_tile.__name__ = f"tiles_{spec.mr}x{spec.nr}_{family}_{epilogue}"
    return intrinsic(call_tile)


@helper
def _portable_acc(  # type: ignore[no-untyped-def]
    rows, row_step, offsets, base, taps, groups, panel, columns, sums, r, j
):
    """Sum of one output: row r, column j; `sums` is the address of its row sum, or 0."""
    acc = as_i32(columns)[j]
    for tap in range(taps):
        a = as_u8(base + as_i64(offsets)[tap] + as_i64(rows + tap * row_step)[r])
        w = as_i8(panel + (tap * groups * PORTABLE_NR + j) * 4)
        for g in range(groups):
            for k in range(4):
                product = mul32(np.int32(a[g * 4 + k]), np.int32(w[g * PORTABLE_NR * 4 + k]))
                acc = add32(acc, product)
    if sums != 0:
        acc = add32(acc, mul32(as_i32(sums)[0], as_i32(columns)[2 * PORTABLE_NR + j]))
    return acc


@helper
def _portable_u8(  # type: ignore[no-untyped-def]
    height, nv, rows, row_step, offsets, base, tile_step, tiles, taps, groups, panel, ahead,
    columns, sums, out, ldc, m, n, limits,
):  # fmt: skip
    zero_point = as_i32(limits)[0]
    low = np.float32(as_i32(limits)[1] - zero_point)
    high = np.float32(as_i32(limits)[2] - zero_point)
    multiplier = as_f32(columns + 4 * PORTABLE_NR)
    # rows of the tiles behind the first follow its rows
    for i in range(tiles * m):
        r = i % m
        at = base + i // m * tile_step
        row_sum = sums + 4 * i if sums != 0 else 0
        y = as_u8(out + i * ldc)
        for j in range(n):
            acc = _portable_acc(
                rows, row_step, offsets, at, taps, groups, panel, columns, row_sum, r, j
            )
            y[j] = quantize_u8(np.float32(acc) * multiplier[j], low, high, zero_point)
    return 0


@helper
def _portable_f32(  # type: ignore[no-untyped-def]
    height, nv, rows, row_step, offsets, base, tile_step, tiles, taps, groups, panel, ahead,
    columns, sums, out, ldc, m, n, limits,
):  # fmt: skip
    scale = as_f32(columns + 4 * PORTABLE_NR)
    bias = as_f32(columns + 12 * PORTABLE_NR)
    ranged = as_i32(limits)[RUN] != 0
    for i in range(tiles * m):
        r = i % m
        at = base + i // m * tile_step
        row_sum = sums + 4 * i if sums != 0 else 0
        y = as_f32(out + i * ldc)
        for j in range(n):
            acc = _portable_acc(
                rows, row_step, offsets, at, taps, groups, panel, columns, row_sum, r, j
            )
            real = np.float32(np.float32(acc) * scale[j] + bias[j])
            if ranged:
                widen_range(limits, real)
            y[j] = real
    return 0


@helper
def _portable_codes(  # type: ignore[no-untyped-def]
    height, nv, rows, row_step, offsets, base, tile_step, tiles, taps, groups, panel, ahead,
    columns, sums, out, ldc, m, n, limits,
):  # fmt: skip
    scale = as_f32(columns + 4 * PORTABLE_NR)
    bias = as_f32(columns + 12 * PORTABLE_NR)
    step = as_f32(limits)[SCALE]
    for i in range(tiles * m):
        r = i % m
        at = base + i // m * tile_step
        row_sum = sums + 4 * i if sums != 0 else 0
        y = as_u8(out + i * ldc)
        for j in range(n):
            acc = _portable_acc(
                rows, row_step, offsets, at, taps, groups, panel, columns, row_sum, r, j
            )
            real = np.float32(np.float32(acc) * scale[j] + bias[j])
            widen_range(limits, real)
            y[j] = quotient_code(real, step)
    return 0


@helper
def _portable_sums(  # type: ignore[no-untyped-def]
    height, nv, rows, row_step, offsets, base, tile_step, tiles, taps, groups, panel, ahead,
    columns, sums, out, ldc, m, n, limits,
):  # fmt: skip
    for i in range(tiles * m):
        r = i % m
        at = base + i // m * tile_step
        row_sum = sums + 4 * i if sums != 0 else 0
        y = as_i32(out + i * ldc)
        for j in range(n):
            y[j] = _portable_acc(
                rows, row_step, offsets, at, taps, groups, panel, columns, row_sum, r, j
            )
    return 0


_PORTABLE = {
    "u8": _portable_u8,
    "codes": _portable_codes,
    "f32": _portable_f32,
    "sums": _portable_sums,
}
