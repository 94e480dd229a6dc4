"""A block of bytes a and b to bytes y by a formula over pairs of codes, on x86.

Bytes of a and b are interleaved into pairs of words, so that one vector holds both operands:

    a0 a1 .. a15 | b0 b1 .. b15   (each 128-bit lane)
    lo: a0 b0 a1 b1 .. a7 b7      hi: a8 b8 .. a15 b15
    words of lo: (a0, b0) .. (a3, b3) and (a4, b4) .. (a7, b7)

The formula turns a vector of pairs into int32. The saturating packs are the inverse of the unpacks,
lane by lane, so bytes come out in order, and a clamp of bytes ends it.

Formulas, with a multiplier m of 30 bits in two halves, m = high * 2**15 + low, so that 16-bit
multiply-adds carry it (high part + (low part >> 15), shifted by `shift` more, is the same floor as
shifting the whole sum at once):

    fixed_add       (a * ma + b * mb + c) >> (15 + shift)
    scaled_add      round_half_even((A + B) * factor) + y_zero_point, A = (a - a_zero) * a_scale ..
    scaled_product  round_half_even(((a - a_zero) * (b - b_zero)) * factor) + y_zero_point

the last two in float32, every operation rounded, where |.. * factor| < 2**31.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qrt.jit.declare import intrinsic
from qrt.simd.emit import declared, extreme, splat

PARAMETERS: dict[str, tuple[str, ...]] = {
    "fixed_add": ("high", "low", "c_high", "c_low", "shift"),
    "scaled_add": ("a_zero", "a_scale", "b_zero", "b_scale", "factor", "y_zero"),
    "scaled_product": ("a_zero", "b_zero", "factor", "y_zero"),
}
FLOATS = ("a_zero", "a_scale", "b_zero", "b_scale", "factor")


@dataclass(frozen=True)
class Isa:
    """Names of the instructions that a vector of `nbytes` needs."""

    name: str
    nbytes: int
    features: tuple[str, ...]
    pack_words: str
    pack_bytes: str
    multiply_add: str
    round: str
    fused: bool = False  # multiply_add takes the sum as its first operand


_512 = (
    "llvm.x86.avx512.packssdw.512",
    "llvm.x86.avx512.packuswb.512",
)
_ROUND_512 = "llvm.x86.avx512.mask.cvtps2dq.512"
ISAS = (
    Isa(
        "avx512vnni", 64, ("avx512", "avx512vnni"), *_512, "llvm.x86.avx512.vpdpwssd.512",
        _ROUND_512, fused=True,
    ),
    Isa("avx512", 64, ("avx512",), *_512, "llvm.x86.avx512.pmaddw.d.512", _ROUND_512),
    Isa(
        "avx2", 32, ("avx2",), "llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb",
        "llvm.x86.avx2.pmadd.wd", "llvm.x86.avx.cvt.ps2dq.256",
    ),
    Isa(
        "sse41", 16, ("sse41",), "llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128",
        "llvm.x86.sse2.pmadd.wd", "llvm.x86.sse2.cvtps2dq",
    ),
)  # fmt: skip


def pair_block(formula: str, isa: Isa) -> Any:
    """Intrinsic (a, b, y addresses, values): isa.nbytes bytes. `values` is a tuple of the formula's
    parameters (float32 those of `FLOATS`, else int32), then qmin and qmax (int32)."""

    def block(typingctx, a, b, y, values):  # type: ignore[no-untyped-def]
        return _block(formula, isa, values)

    return intrinsic(block)


def _block(formula: str, isa: Isa, values_type: Any) -> Any:
    """(signature, codegen) of a block."""
    from llvmlite import ir
    from numba import types

    names = PARAMETERS[formula]
    byte, word, dword = ir.IntType(8), ir.IntType(16), ir.IntType(32)
    nbytes, lanes = isa.nbytes, isa.nbytes // 4
    bytes_, words, dwords, floats = (
        ir.VectorType(byte, nbytes),
        ir.VectorType(word, nbytes // 2),
        ir.VectorType(dword, lanes),
        ir.VectorType(ir.FloatType(), lanes),
    )

    def unpack(half: int) -> Any:
        """Interleave the lower (0) or upper (8) bytes of each 16-byte lane of two vectors."""
        picks = []
        for lane in range(0, nbytes, 16):
            for i in range(8):
                picks += [lane + half + i, nbytes + lane + half + i]
        return ir.Constant(ir.VectorType(dword, nbytes), picks)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, y, values = args
        *scalars, qmin, qmax = (
            builder.extract_value(values, i) for i in range(len(names) + 2)
        )
        qmin, qmax = (builder.trunc(v, byte) for v in (qmin, qmax))
        a, b = (
            builder.load(builder.inttoptr(v, bytes_.as_pointer()), align=1) for v in (a, b)
        )
        parameters = {
            name: splat(builder, value, floats if name in FLOATS else dwords)
            for name, value in zip(names, scalars, strict=True)
        }
        zero = ir.Constant(bytes_, [0] * nbytes)
        narrow = declared(builder.module, isa.pack_words, words, [dwords, dwords])
        narrower = declared(builder.module, isa.pack_bytes, bytes_, [words, words])
        packed = []
        for side in (0, 8):
            pairs = builder.shuffle_vector(a, b, unpack(side))
            sums = []
            for part in (0, 8):
                wide = builder.shuffle_vector(pairs, zero, unpack(part))
                wide = builder.bitcast(wide, dwords)
                sums.append(_sum(formula, builder, isa, wide, parameters))
            packed.append(builder.call(narrow, sums))
        q = builder.call(narrower, packed)
        q = extreme(builder, ">", q, splat(builder, qmin, bytes_))
        q = extreme(builder, "<", q, splat(builder, qmax, bytes_))
        builder.store(q, builder.inttoptr(y, bytes_.as_pointer()), align=1)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, values_type), codegen


def _constants(vector: Any, value: int) -> Any:
    from llvmlite import ir

    return ir.Constant(vector, [value] * vector.count)


def _sum(formula: str, builder: Any, isa: Isa, pairs: Any, p: dict[str, Any]) -> Any:
    """int32 of a vector of pairs."""
    if formula == "fixed_add":
        return _fixed_add(builder, isa, pairs, p)
    real = _scaled_add if formula == "scaled_add" else _product
    value = real(builder, pairs, p)
    rounded = _round(builder, isa, builder.fmul(value, p["factor"]), p["y_zero"].type)
    return builder.add(rounded, p["y_zero"])


def _fixed_add(builder: Any, isa: Isa, pairs: Any, p: dict[str, Any]) -> Any:
    upper = _multiply_add(builder, isa, p["c_high"], pairs, p["high"])
    lower = _multiply_add(builder, isa, p["c_low"], pairs, p["low"])
    total = builder.add(upper, builder.ashr(lower, _constants(lower.type, 15)))
    return builder.ashr(total, p["shift"])


def _multiply_add(builder: Any, isa: Isa, acc: Any, pairs: Any, pair: Any) -> Any:
    """acc + the sum of the two products of words in each dword."""
    from llvmlite import ir

    if isa.fused:
        dot = declared(builder.module, isa.multiply_add, acc.type, [acc.type] * 3)
        return builder.call(dot, [acc, pairs, pair])
    words = ir.VectorType(ir.IntType(16), 2 * acc.type.count)
    product = declared(builder.module, isa.multiply_add, acc.type, [words, words])
    operands = [builder.bitcast(v, words) for v in (pairs, pair)]
    return builder.add(acc, builder.call(product, operands))


def _codes(builder: Any, pairs: Any, p: dict[str, Any]) -> tuple[Any, Any]:
    """float32 of both codes of each pair, less their zero points."""
    floats = p["a_zero"].type
    a = builder.and_(pairs, _constants(pairs.type, 0xFFFF))
    b = builder.lshr(pairs, _constants(pairs.type, 16))
    # never negative, so that the signed conversion, the one that every ISA has, is right
    return (
        builder.fsub(builder.sitofp(a, floats), p["a_zero"]),
        builder.fsub(builder.sitofp(b, floats), p["b_zero"]),
    )


def _scaled_add(builder: Any, pairs: Any, p: dict[str, Any]) -> Any:
    a, b = _codes(builder, pairs, p)
    return builder.fadd(builder.fmul(a, p["a_scale"]), builder.fmul(b, p["b_scale"]))


def _product(builder: Any, pairs: Any, p: dict[str, Any]) -> Any:
    return builder.fmul(*_codes(builder, pairs, p))


def _round(builder: Any, isa: Isa, value: Any, ints: Any) -> Any:
    """int32 of round_half_even, for values below 2**31."""
    from llvmlite import ir

    if isa.nbytes < 64:
        return builder.call(declared(builder.module, isa.round, ints, [value.type]), [value])
    mask, mode = ir.IntType(16), ir.IntType(32)
    convert = declared(builder.module, isa.round, ints, [value.type, ints, mask, mode])
    everywhere, current = ir.Constant(mask, -1), ir.Constant(mode, 4)
    return builder.call(convert, [value, _constants(ints, 0), everywhere, current])
