"""Tiles over few-bit weights as functions that kernels call: generated, and the scalar ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from qrt.gemm.nbits_table import NBitsTile
from qrt.jit.declare import helper, intrinsic
from qrt.simd.fma import fma_f32
from qrt.simd.memory import as_f32, as_i8, as_i32, as_u8
from qrt.simd.scalar import add32, mul32

LANES = 16  # columns of the scalar tile's panels


@cache
def nbits_tiles(tile: NBitsTile) -> Any:
    """One function of all heights of a row: `(height, x, ..., k) -> 0`, all int64.

    What follows `height` is `nbits_tile.ARGUMENTS`.
    """
    family, heights, types_, bits = tile.family, tile.heights, tile.types, tile.bits
    lanes, nv = tile.lanes, tile.nv
    if family == "portable":
        return _portable_s8(bits) if types_ == "s8" else _portable_f32(bits)

    # fifteen arguments: numba needs the names spelled out
    def call_nbits(  # type: ignore[no-untyped-def]
        typingctx, height, x, x_step, x_scales, x_sums, panel, zero_points, bias, out, ldc, m, n,
        blocks, block, k,
    ):  # fmt: skip
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            from llvmlite import ir

            from qrt.gemm.emit import need_features
            from qrt.gemm.nbits_tile import build, build_dispatch

            name = f"qrt_nbits_{types_}_{bits}b_{family}"
            fn = builder.module.globals.get(name)
            if fn is None:
                made = {}
                for mr in heights:
                    made[mr] = build(
                        builder.module, f"{name}_{mr}", family, types_, bits, lanes, mr, nv
                    )
                    need_features(context, made[mr], tile.features)
                fn = build_dispatch(builder.module, name, made)
            builder.call(fn, args)
            return ir.Constant(ir.IntType(64), 0)

        return types.int64(*[types.int64] * 15), codegen

    call_nbits.__name__ = f"tiles_{tile.kernel_name}"
    return intrinsic(call_nbits)


@helper
def _weight(group, bits, column, j):  # type: ignore[no-untyped-def]
    """Weight j of a column's dword in the group at address `group`."""
    byte = np.int64(as_u8(group + 4 * column)[j % 4])
    return (byte >> (bits * (j // 4))) & ((1 << bits) - 1)


def _portable_s8(bits: int) -> Any:
    per_group = 32 // bits

    def portable(  # type: ignore[no-untyped-def]
        height, x, x_step, x_scales, x_sums, panel, zero_points, bias, out, ldc, m, n, blocks,
        block, k,
    ):  # fmt: skip
        weights_nbytes = block // per_group * 4 * LANES
        for r in range(m):
            y = as_f32(out + r * ldc)
            for column in range(n):
                total = np.float32(0)
                for i in range(blocks):
                    q = as_i8(x + r * x_step + i * block)
                    at = panel + i * (weights_nbytes + 4 * LANES)
                    zero = np.int32(1 << (bits - 1))
                    if zero_points != 0:
                        zero = np.int32(as_u8(zero_points + i * LANES)[column])
                    acc = mul32(as_i32(x_sums)[r * blocks + i], zero)
                    for j in range(block):
                        group = at + j // per_group * 4 * LANES
                        w = np.int32(_weight(group, bits, column, j % per_group))
                        acc = add32(acc, mul32(np.int32(q[j]), w))
                    factor = as_f32(x_scales)[r * blocks + i]
                    factor *= as_f32(at + weights_nbytes)[column]
                    total = fma_f32(np.float32(acc), factor, total)
                y[column] = total + as_f32(bias)[column]
        return 0

    return helper(portable)


def _portable_f32(bits: int) -> Any:
    per_group = 32 // bits

    def portable(  # type: ignore[no-untyped-def]
        height, x, x_step, x_scales, x_sums, panel, zero_points, bias, out, ldc, m, n, blocks,
        block, k,
    ):  # fmt: skip
        weights_nbytes = block // per_group * 4 * LANES
        for r in range(m):
            y = as_f32(out + r * ldc)
            for column in range(n):
                total = np.float32(0)
                for i in range(blocks):
                    at = panel + i * (weights_nbytes + 4 * LANES)
                    scale = as_f32(at + weights_nbytes)[column]
                    zero = np.float32(1 << (bits - 1))
                    if zero_points != 0:
                        zero = as_f32(zero_points + i * 4 * LANES)[column]
                    values = as_f32(x + r * x_step + i * block * 4)
                    for j in range(min(block, k - i * block)):
                        group = at + j // per_group * 4 * LANES
                        q = np.float32(_weight(group, bits, column, j % per_group))
                        w = (q - zero) * scale
                        total = fma_f32(values[j], w, total)
                y[column] = total + as_f32(bias)[column]
        return 0

    return helper(portable)
