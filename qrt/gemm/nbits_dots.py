"""How each family multiplies few-bit weights, as operands of the generator in `nbits_tile`.

A group of weights is a dword of one column in a lane. A byte of it holds one weight in each of its
planes: plane p, shifted down and masked, leaves four bytes, the weights of four neighbours in k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from qrt.gemm.dots import multiply_pairs, sdot, splat_const, vpdpbusd
from qrt.gemm.emit import I8, I16, I32, declare


@dataclass(frozen=True)
class NBitsDot:
    """Products of one family: `step(b, acc, x, w, bits)` adds to each int32 lane of acc the four
    products of s8 in x and u8 below 2**bits in w (dwords both).

    A family of `signed` bytes takes weights of 8 bits less 128; its zero points are less 128 too.
    """

    step: Callable[[Any, Any, Any, Any, int], Any]
    signed: bool = False

    def offset(self, bits: int) -> int:
        """What weights and zero points are less by."""
        return 128 if self.signed and bits == 8 else 0


def _vnni(b: Any, acc: Any, x: Any, w: Any, bits: int) -> Any:
    return vpdpbusd(b, acc, w, x)


_MADDUBS = {8: "avx2.pmadd.ub.sw", 16: "avx512.pmaddubs.w.512"}
_MADDWD = {8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}


def _maddubs(b: Any, acc: Any, x: Any, w: Any, bits: int) -> Any:
    """Pairs in int16, pairs of those in int32. 15 * 128 * 2 does not saturate; 255 * 128 * 2 would,
    so 8 bits are two halves of 4."""
    if bits < 8:
        return _pairs(b, acc, x, w, 1)
    low = splat_const(0x0F0F0F0F, I32, w.type.count)
    acc = _pairs(b, acc, x, b.and_(w, low), 1)
    return _pairs(b, acc, x, b.and_(b.lshr(w, splat_const(4, I32, w.type.count)), low), 16)


def _pairs(b: Any, acc: Any, x: Any, w: Any, factor: int) -> Any:
    lanes = acc.type.count
    octets, words = ir.VectorType(I8, 4 * lanes), ir.VectorType(I16, 2 * lanes)
    madd = declare(b.module, f"llvm.x86.{_MADDUBS[lanes]}", words, [octets, octets])
    fold = declare(b.module, f"llvm.x86.{_MADDWD[lanes]}", acc.type, [words, words])
    pairs = b.call(madd, [b.bitcast(w, octets), b.bitcast(x, octets)])
    return b.add(acc, b.call(fold, [pairs, splat_const(factor, I16, 2 * lanes)]))


_BYTES = ir.VectorType(I8, 16)


def _to_signed(b: Any, w: Any, bits: int) -> Any:
    octets = b.bitcast(w, _BYTES)
    return octets if bits < 8 else b.xor(octets, splat_const(0x80, I8, 16))


def _sdot(b: Any, acc: Any, x: Any, w: Any, bits: int) -> Any:
    return sdot(b, acc, b.bitcast(x, _BYTES), _to_signed(b, w, bits))


def _smull(b: Any, acc: Any, x: Any, w: Any, bits: int) -> Any:
    """Products k0 and k1 of each lane first, then k2 and k3: pairs of bytes side by side."""
    octets = [b.bitcast(x, _BYTES), _to_signed(b, w, bits)]
    for first in (0, 2):
        picks = [4 * lane + first + i for lane in range(4) for i in (0, 1)]
        mask = ir.Constant(ir.VectorType(I32, 8), picks)
        halves = [b.shuffle_vector(v, ir.Constant(_BYTES, ir.Undefined), mask) for v in octets]
        acc = multiply_pairs(b, acc, *halves)
    return acc


NBITS_FAMILIES = {
    "vnni512": NBitsDot(_vnni),
    "vnni256": NBitsDot(_vnni),
    "vnni256vl": NBitsDot(_vnni),
    "madd512": NBitsDot(_maddubs),
    "madd256": NBitsDot(_maddubs),
    "dotprod": NBitsDot(_sdot, signed=True),
    "neon": NBitsDot(_smull, signed=True),
}
