"""The dot instructions of each family, as operands of the tile generator."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from qrt.gemm.tile import I16, I32, Dot, const, declare, load, splat


def _vnni_step(b: Any, acc: Any, operands: Any, weights: Any) -> Any:
    vec = ir.VectorType(I32, 16)
    dp = declare(b.module, "llvm.x86.avx512.vpdpbusd.512", vec, [vec, vec, vec])
    return b.call(dp, [acc, operands, weights])


# vpdpbusd: each int32 lane gains four u8 * s8 products, no saturation in between
VNNI512 = Dot(
    lanes=16,
    weight_nbytes=4,
    features="+avx512f,+avx512bw,+avx512vl,+avx512vnni",
    expand=lambda b, dword: splat(b, dword, 16),
    weights=lambda b, address: load(b, address, ir.VectorType(I32, 16), 64),
    step=_vnni_step,
)


def _madd_expand(b: Any, dword: Any) -> tuple[Any, Any]:
    """Bytes (0, 2) and (1, 3) of the dword as int16 pairs, in every lane."""
    both = b.bitcast(splat(b, dword, 8), ir.VectorType(I16, 16))
    even = b.and_(both, splat_const(0x00FF, I16, 16))
    odd = b.lshr(both, splat_const(8, I16, 16))
    return even, odd


def _madd_weights(b: Any, address: Any) -> tuple[Any, Any]:
    vec = ir.VectorType(I16, 16)
    return load(b, address, vec, 32), load(b, b.add(address, const(32)), vec, 32)


def _madd_step(b: Any, acc: Any, operands: Any, weights: Any) -> Any:
    madd = declare(
        b.module,
        "llvm.x86.avx2.pmadd.wd",
        ir.VectorType(I32, 8),
        [ir.VectorType(I16, 16), ir.VectorType(I16, 16)],
    )
    for a, w in zip(operands, weights, strict=True):
        acc = b.add(acc, b.call(madd, [a, w]))
    return acc


# vpmaddwd on int16 pairs: |u8 * s8| * 2 < 2**17, so nothing saturates, unlike vpmaddubsw
MADD256 = Dot(
    lanes=8,
    weight_nbytes=8,
    features="+avx2",
    expand=_madd_expand,
    weights=_madd_weights,
    step=_madd_step,
)


def splat_const(value: int, ty: Any, lanes: int) -> Any:
    """A constant vector of equal elements."""
    return ir.Constant(ir.VectorType(ty, lanes), [value] * lanes)


FAMILIES = {"vnni512": VNNI512, "madd256": MADD256}
