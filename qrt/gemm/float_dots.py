"""Fused multiply-adds of float32 as operands of the tile generator: a dot group is one value."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from qrt.gemm.emit import F32, I32, load, splat
from qrt.gemm.tile_groups import Dot
from qrt.simd.fma import emulated_fma, hardware_fma


def _family(lanes: int, features: tuple[str, ...], fma: Any, **more: Any) -> Dot:
    vec = ir.VectorType(F32, lanes)
    return Dot(
        lanes=lanes,
        weight_nbytes=4,
        features=features,
        expand=lambda b, dword: splat(b, b.bitcast(dword, F32), lanes),
        weights=lambda b, address: load(b, address, vec, 4 * lanes),
        step=lambda b, acc, x, w: fma(b, x, w, acc),
        sum_type=F32,
        **more,
    )


def _four_values(b: Any, address: Any) -> list[Any]:
    """Each of four values in every lane: the by-element operand of fmla."""
    vec = ir.VectorType(F32, 4)
    x = load(b, address, vec)
    nothing = ir.Constant(vec, ir.Undefined)
    masks = [ir.Constant(ir.VectorType(I32, 4), [i] * 4) for i in range(4)]
    return [b.shuffle_vector(x, nothing, mask) for mask in masks]


FLOAT_FAMILIES = {
    "fma512": _family(16, ("avx512", "fma"), hardware_fma),
    "fma256": _family(8, ("avx2", "fma"), hardware_fma),
    "fmla": _family(
        4, ("neon",), hardware_fma, block=_four_values, block_groups=4, tune="cortex-a55"
    ),
    "emulated": _family(4, (), emulated_fma),
}
