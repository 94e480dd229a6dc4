"""A block of bytes a and b to bytes y by a formula over pairs of codes.

Bytes of a and b are interleaved into pairs of words, so that one vector holds both operands:

    a0 a1 .. a15 | b0 b1 .. b15   (each 128-bit lane)
    lo: a0 b0 a1 b1 .. a7 b7      hi: a8 b8 .. a15 b15
    words of lo: (a0, b0) .. (a3, b3) and (a4, b4) .. (a7, b7)

The formula turns a vector of pairs into int32. The saturating packs (`narrow.py`) are the inverse
of the unpacks, lane by lane, so bytes come out in order, and a clamp of bytes ends it.

Formulas, with a multiplier m of 30 bits in two halves, m = high * 2**15 + low, so that 16-bit
multiply-adds carry it (high part + (low part >> 15), shifted by `shift` more, is the same floor as
shifting the whole sum at once):

    fixed_add       (a * ma + b * mb + c) >> (15 + shift)
    scaled_add      round_half_even((A + B) * factor) + y_zero_point, A = (a - a_zero) * a_scale ..
    scaled_product  round_half_even(((a - a_zero) * (b - b_zero)) * factor) + y_zero_point

the last two in float32, every operation rounded, where |.. * factor| < 2**31. A product of codes
multiplies words of a and of b, whose lower and upper halves unpack to int32 in the same order; NEON
gives them as int32 (smull), and has no sum of two products, so it adds pairs of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qrt.jit.declare import intrinsic
from qrt.simd.emit import declared, extreme, splat, unpack
from qrt.simd.narrow import AVX2, AVX512, NEON, SSE, Narrowing, pack, round_i32

PARAMETERS: dict[str, tuple[str, ...]] = {
    "fixed_add": ("high", "low", "c_high", "c_low", "shift"),
    "scaled_add": ("a_zero", "a_scale", "b_zero", "b_scale", "factor", "y_zero"),
    "scaled_product": ("a_zero", "b_zero", "factor", "y_zero"),
}
FLOATS = ("a_scale", "b_scale", "factor")


@dataclass(frozen=True)
class Isa:
    """The instructions of one register width. Without a `multiply_high`, `multiply_add` is NEON's
    product of words as dwords."""

    name: str
    features: tuple[str, ...]
    narrowing: Narrowing
    multiply_add: str
    multiply_high: str = ""
    fused: bool = False  # multiply_add takes the sum as its first operand

    @property
    def nbytes(self) -> int:
        """Bytes of a register."""
        return self.narrowing.nbytes


_HIGH_512 = "llvm.x86.avx512.pmulh.w.512"
ISAS = (
    Isa(
        "avx512vnni", ("avx512", "avx512vnni"), AVX512, "llvm.x86.avx512.vpdpwssd.512", _HIGH_512,
        fused=True,
    ),
    Isa("avx512", ("avx512",), AVX512, "llvm.x86.avx512.pmaddw.d.512", _HIGH_512),
    Isa("avx2", ("avx2",), AVX2, "llvm.x86.avx2.pmadd.wd", "llvm.x86.avx2.pmulh.w"),
    Isa("sse41", ("sse41",), SSE, "llvm.x86.sse2.pmadd.wd", "llvm.x86.sse2.pmulh.w"),
    Isa("neon", ("neon",), NEON, "llvm.aarch64.neon.smull.v4i32"),
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
    byte, dword = ir.IntType(8), ir.IntType(32)
    nbytes, lanes = isa.nbytes, isa.nbytes // 4
    bytes_, dwords, floats = (
        ir.VectorType(byte, nbytes),
        ir.VectorType(dword, lanes),
        ir.VectorType(ir.FloatType(), lanes),
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, y, values = args
        *scalars, qmin, qmax = (builder.extract_value(values, i) for i in range(len(names) + 2))
        qmin, qmax = (builder.trunc(v, byte) for v in (qmin, qmax))
        a, b = (builder.load(builder.inttoptr(v, bytes_.as_pointer()), align=1) for v in (a, b))
        parameters = {
            name: splat(builder, value, floats if name in FLOATS else dwords)
            for name, value in zip(names, scalars, strict=True)
        }
        quarters = _products if formula == "scaled_product" else _pairs
        sums = [
            _sum(formula, builder, isa, quarter, parameters)
            for quarter in quarters(builder, isa, a, b, parameters)
        ]
        packed = [pack(builder, isa.narrowing, *sums[i : i + 2]) for i in (0, 2)]
        q = pack(builder, isa.narrowing, *packed)
        q = extreme(builder, ">", q, splat(builder, qmin, bytes_))
        q = extreme(builder, "<", q, splat(builder, qmax, bytes_))
        builder.store(q, builder.inttoptr(y, bytes_.as_pointer()), align=1)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, values_type), codegen


def _pairs(builder: Any, isa: Isa, a: Any, b: Any, p: dict[str, Any]) -> list[Any]:
    """Words (a, b) of each pair of codes, as four vectors of dwords."""
    from llvmlite import ir

    zero = _constants(a.type, 0)
    dwords = ir.VectorType(ir.IntType(32), isa.nbytes // 4)
    return [
        builder.bitcast(unpack(builder, pairs, zero, upper), dwords)
        for pairs in (unpack(builder, a, b, side) for side in (False, True))
        for upper in (False, True)
    ]


def _products(builder: Any, isa: Isa, a: Any, b: Any, p: dict[str, Any]) -> list[Any]:
    """(a - a_zero) * (b - b_zero) of each pair of codes, as four vectors of dwords."""
    from llvmlite import ir

    dwords = p["y_zero"].type
    words = ir.VectorType(ir.IntType(16), 2 * dwords.count)
    result = []
    for side in (False, True):
        x, y = (
            builder.sub(
                builder.bitcast(unpack(builder, codes, _constants(codes.type, 0), side), words),
                _both_words(builder, p[zero], words),
            )
            for codes, zero in ((a, "a_zero"), (b, "b_zero"))
        )
        if not isa.multiply_high:
            result += _wide_products(builder, isa, x, y)
            continue
        high = declared(builder.module, isa.multiply_high, words, [words, words])
        halves = builder.mul(x, y), builder.call(high, [x, y])
        result += [builder.bitcast(unpack(builder, *halves, u), dwords) for u in (False, True)]
    return result


def _wide_products(builder: Any, isa: Isa, x: Any, y: Any) -> list[Any]:
    """Products of words as dwords, those of the lower halves and those of the upper ones."""
    from llvmlite import ir

    lanes = x.type.count // 2
    half, dwords = (ir.VectorType(ir.IntType(n), lanes) for n in (16, 32))
    product = declared(builder.module, isa.multiply_add, dwords, [half, half])
    masks = [
        ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(first, first + lanes)))
        for first in (0, lanes)
    ]
    return [
        builder.call(product, [builder.shuffle_vector(v, v, mask) for v in (x, y)])
        for mask in masks
    ]


def _both_words(builder: Any, value: Any, words: Any) -> Any:
    """The lower words of dwords (not negative) in both words."""
    shifted = builder.shl(value, _constants(value.type, 16))
    return builder.bitcast(builder.or_(value, shifted), words)


def _constants(vector: Any, value: int) -> Any:
    from llvmlite import ir

    return ir.Constant(vector, [value] * vector.count)


def _sum(formula: str, builder: Any, isa: Isa, quarter: Any, p: dict[str, Any]) -> Any:
    """int32 of a vector of pairs or products."""
    if formula == "fixed_add":
        return _fixed_add(builder, isa, quarter, p)
    floats = p["factor"].type
    if formula == "scaled_add":
        value = _scaled_add(builder, quarter, p)
    else:
        value = builder.sitofp(quarter, floats)
    rounded = round_i32(builder, isa.narrowing, builder.fmul(value, p["factor"]))
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
    operands = [builder.bitcast(v, words) for v in (pairs, pair)]
    if not isa.multiply_high:
        addp = declared(builder.module, "llvm.aarch64.neon.addp.v4i32", acc.type, [acc.type] * 2)
        return builder.add(acc, builder.call(addp, _wide_products(builder, isa, *operands)))
    product = declared(builder.module, isa.multiply_add, acc.type, [words, words])
    return builder.add(acc, builder.call(product, operands))


def _scaled_add(builder: Any, pairs: Any, p: dict[str, Any]) -> Any:
    """(a - a_zero) * a_scale + (b - b_zero) * b_scale in float32."""
    floats = p["factor"].type
    a = builder.and_(pairs, _constants(pairs.type, 0xFFFF))
    b = builder.lshr(pairs, _constants(pairs.type, 16))
    # never negative, so that the signed conversion, the one that every ISA has, is right
    reals = [
        builder.fmul(
            builder.fsub(builder.sitofp(codes, floats), builder.sitofp(p[f"{x}_zero"], floats)),
            p[f"{x}_scale"],
        )
        for codes, x in ((a, "a"), (b, "b"))
    ]
    return builder.fadd(*reals)

