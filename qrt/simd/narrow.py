"""64 float32 to 64 bytes: round half to even, add and clamp by saturating packs.

The packs of x86 work within 128-bit lanes, so that dwords come out in another order:

    a0 .. a3 | a4 .. a7    packssdw    a0 .. a3 b0 .. b3 | a4 .. a7 b4 .. b7
    packuswb of (a b) and (c d)        a b c d (low halves) | a b c d (high halves)

One shuffle of dwords at the end puts them right. NEON narrows one register after the other (sqxtn,
sqxtun), in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qrt.jit.declare import intrinsic
from qrt.simd.emit import declared, splat


@dataclass(frozen=True)
class Narrowing:
    """The instructions of one register width; `single` where a pack takes one register."""

    nbytes: int
    round_f32: str
    pack_words: str
    pack_bytes: str
    single: bool = False


SSE = Narrowing(
    16, "llvm.x86.sse2.cvtps2dq", "llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128"
)
AVX2 = Narrowing(
    32, "llvm.x86.avx.cvt.ps2dq.256", "llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"
)
AVX512 = Narrowing(
    64,
    "llvm.x86.avx512.mask.cvtps2dq.512",
    "llvm.x86.avx512.packssdw.512",
    "llvm.x86.avx512.packuswb.512",
)
NEON = Narrowing(
    16,
    "llvm.aarch64.neon.fcvtns.v4i32.v4f32",
    "llvm.aarch64.neon.sqxtn.v4i16",
    "llvm.aarch64.neon.sqxtun.v8i8",
    single=True,
)


def _narrow(isa: Narrowing, name: str) -> Any:
    def narrow(typingctx: Any, a: Any, b: Any, c: Any, d: Any, offset: Any) -> Any:
        from numba import types

        from qrt.simd.vector_types import Vector

        reals, codes = Vector("f32", 16), Vector("u8", 64)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _emit(builder, isa, args)

        return codes(reals, reals, reals, reals, types.int16), codegen

    narrow.__name__ = name
    narrow.__doc__ = (
        "clamp(round_half_even(t) + offset, 0, 255) as u8x64 of four f32x16 t that are below 2**31"
        " (NEON: of any t); NaN gives 0."
    )
    return intrinsic(narrow)


narrow_u8x64_sse41 = _narrow(SSE, "narrow_u8x64_sse41")
narrow_u8x64_avx2 = _narrow(AVX2, "narrow_u8x64_avx2")
narrow_u8x64_avx512 = _narrow(AVX512, "narrow_u8x64_avx512")
narrow_u8x64_neon = _narrow(NEON, "narrow_u8x64_neon")


def round_i32(b: Any, isa: Narrowing, t: Any) -> Any:
    """int32 of floats, half to even. What int32 does not hold gives its lowest value on x86, the
    nearest one on ARM; NaN gives the lowest on x86, 0 on ARM."""
    from llvmlite import ir

    dwords = ir.VectorType(ir.IntType(32), t.type.count)
    if isa.nbytes < 64:
        return b.call(declared(b.module, isa.round_f32, dwords, [t.type]), [t])
    mask, mode = ir.IntType(16), ir.IntType(32)
    fn = declared(b.module, isa.round_f32, dwords, [t.type, dwords, mask, mode])
    nearest = 8  # half to even, whatever mode the process is in
    nothing = ir.Constant(dwords, ir.Undefined)
    return b.call(fn, [t, nothing, ir.Constant(mask, -1), ir.Constant(mode, nearest)])


def pack(b: Any, isa: Narrowing, low: Any, high: Any) -> Any:
    """Dwords to words that saturate as int16, or words to bytes that saturate as uint8: on x86 each
    128-bit lane of the result has that of `low`, then that of `high`."""
    from llvmlite import ir

    nbits = low.type.element.width // 2
    name = isa.pack_words if nbits == 16 else isa.pack_bytes
    if isa.single:
        half = ir.VectorType(ir.IntType(nbits), low.type.count)
        fn = declared(b.module, name, half, [low.type])
        return _join(b, [b.call(fn, [v]) for v in (low, high)])
    whole = ir.VectorType(ir.IntType(nbits), 2 * low.type.count)
    return b.call(declared(b.module, name, whole, [low.type] * 2), [low, high])


def _emit(b: Any, isa: Narrowing, args: Any) -> Any:
    from llvmlite import ir

    *reals, offset = args
    lanes = isa.nbytes // 4
    dwords = ir.VectorType(ir.IntType(32), lanes)
    words = ir.VectorType(ir.IntType(16), 2 * lanes)
    offset = splat(b, offset, words)
    plus = declared(b.module, f"llvm.sadd.sat.v{2 * lanes}i16", words, [words, words])
    parts = [part for t in reals for part in _split(b, t, lanes)]
    rounded = [round_i32(b, isa, _no_nan(b, part) if isa.single else part) for part in parts]
    packed = []
    for k in range(0, len(rounded), 4):
        halves = [
            b.call(plus, [pack(b, isa, *rounded[k + i : k + i + 2]), offset]) for i in (0, 2)
        ]
        packed.append(_in_order(b, pack(b, isa, *halves), dwords))
    return _join(b, packed)


def _no_nan(b: Any, t: Any) -> Any:
    """The lowest int32 in place of a NaN and of what is below (NEON's fmaxnm)."""
    from llvmlite import ir

    larger = declared(b.module, "llvm.aarch64.neon.fmaxnm.v4f32", t.type, [t.type, t.type])
    return b.call(larger, [t, ir.Constant(t.type, [-(2.0**31)] * t.type.count)])


def _in_order(b: Any, q: Any, dwords: Any) -> Any:
    """Dword 4 * lane + part of what the packs gave is dword lanes * part + lane."""
    from llvmlite import ir

    lanes = dwords.count // 4
    if lanes == 1:  # one lane, in order
        return q
    picks = [4 * (i % lanes) + i // lanes for i in range(dwords.count)]
    mask = ir.Constant(ir.VectorType(ir.IntType(32), dwords.count), picks)
    wide = b.bitcast(q, dwords)
    return b.bitcast(b.shuffle_vector(wide, ir.Constant(dwords, ir.Undefined), mask), q.type)


def _split(b: Any, v: Any, lanes: int) -> list[Any]:
    from llvmlite import ir

    index = ir.IntType(32)
    nothing = ir.Constant(v.type, ir.Undefined)
    picks = [range(k, k + lanes) for k in range(0, v.type.count, lanes)]
    masks = [ir.Constant(ir.VectorType(index, lanes), list(pick)) for pick in picks]
    return [b.shuffle_vector(v, nothing, mask) for mask in masks]


def _join(b: Any, parts: list[Any]) -> Any:
    from llvmlite import ir

    while len(parts) > 1:
        count = 2 * parts[0].type.count
        mask = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(count)))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [b.shuffle_vector(low, high, mask) for low, high in pairs]
    return parts[0]
