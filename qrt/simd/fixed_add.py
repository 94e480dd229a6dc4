"""A block of bytes a and b to clamp((a * ma + b * mb + c) >> (15 + shift)), exact, on x86.

A multiplier m has 30 bits in two halves, m = high * 2**15 + low, so that 16-bit multiply-adds carry
it: sum = high part + (low part >> 15), and shifting that by `shift` more is the same floor as
shifting the whole sum at once. Bytes of a and b are interleaved into pairs of words:

    a0 a1 .. a15 | b0 b1 .. b15   (each 128-bit lane)
    lo: a0 b0 a1 b1 .. a7 b7      hi: a8 b8 .. a15 b15
    words of lo: (a0, b0) .. (a3, b3) and (a4, b4) .. (a7, b7)

and the saturating packs are the inverse of the unpacks, lane by lane, so bytes come out in order.
"""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import intrinsic


def _block(nbytes: int, madd: Any, pack_words: str, pack_bytes: str) -> Any:
    """codegen of (a, b, y addresses; high and low multiplier pairs, high and low c, shift; qmin,
    qmax). `madd(builder, acc, words, pair)` adds the products of pairs of words to acc."""
    from llvmlite import ir
    from numba import types

    byte, word, dword = ir.IntType(8), ir.IntType(16), ir.IntType(32)
    lanes = nbytes // 4
    bytes_, words, dwords = (
        ir.VectorType(byte, nbytes),
        ir.VectorType(word, nbytes // 2),
        ir.VectorType(dword, lanes),
    )

    def unpack(half: int) -> Any:
        """Interleave the lower (0) or upper (8) bytes of each 16-byte lane of two vectors."""
        picks = []
        for lane in range(0, nbytes, 16):
            for i in range(8):
                picks += [lane + half + i, nbytes + lane + half + i]
        return ir.Constant(ir.VectorType(dword, nbytes), picks)

    def splat(builder: Any, scalar: Any, vector: Any) -> Any:
        undefined = ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(undefined, scalar, ir.Constant(dword, 0))
        zeros = ir.Constant(ir.VectorType(dword, vector.count), [0] * vector.count)
        return builder.shuffle_vector(one, undefined, zeros)

    def extreme(builder: Any, which: str, a: Any, b: Any) -> Any:
        return builder.select(builder.icmp_unsigned(which, a, b), a, b)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, y, high, low, c_high, c_low, shift, qmin, qmax = args
        a, b = (
            builder.load(builder.inttoptr(v, bytes_.as_pointer()), align=1) for v in (a, b)
        )
        high, low, c_high, c_low, shift = (
            splat(builder, v, dwords) for v in (high, low, c_high, c_low, shift)
        )
        zero = ir.Constant(bytes_, [0] * nbytes)
        fifteen = ir.Constant(dwords, [15] * lanes)
        narrow = _declare(builder.module, pack_words, words, [dwords, dwords])
        narrower = _declare(builder.module, pack_bytes, bytes_, [words, words])
        packed = []
        for side in (0, 8):
            pairs = builder.shuffle_vector(a, b, unpack(side))
            sums = []
            for part in (0, 8):
                wide = builder.bitcast(builder.shuffle_vector(pairs, zero, unpack(part)), words)
                upper = madd(builder, c_high, wide, high)
                lower = madd(builder, c_low, wide, low)
                total = builder.add(upper, builder.ashr(lower, fifteen))
                sums.append(builder.ashr(total, shift))
            packed.append(builder.call(narrow, sums))
        q = builder.call(narrower, packed)
        q = extreme(builder, ">", q, splat(builder, qmin, bytes_))
        q = extreme(builder, "<", q, splat(builder, qmax, bytes_))
        builder.store(q, builder.inttoptr(y, bytes_.as_pointer()), align=1)
        return context.get_dummy_value()

    i64, i32, u8 = types.int64, types.int32, types.uint8
    return types.void(i64, i64, i64, i32, i32, i32, i32, i32, u8, u8), codegen


def _declare(module: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    from llvmlite import ir

    found = module.globals.get(name)
    return found or ir.Function(module, ir.FunctionType(result, arguments), name)


def _multiply_add(name: str) -> Any:
    """acc + the sum of two products of words, by pmaddwd and an addition."""

    def madd(builder: Any, acc: Any, words: Any, pair: Any) -> Any:
        product = _declare(builder.module, name, acc.type, [words.type, words.type])
        return builder.add(acc, builder.call(product, [words, builder.bitcast(pair, words.type)]))

    return madd


def _dot_add(builder: Any, acc: Any, words: Any, pair: Any) -> Any:
    """acc + the sum of two products of words, by vpdpwssd."""
    dot = _declare(builder.module, "llvm.x86.avx512.vpdpwssd.512", acc.type, [acc.type] * 3)
    return builder.call(dot, [acc, builder.bitcast(words, acc.type), pair])


@intrinsic
def fixed_add_u8x32_avx2(
    typingctx: Any, a: Any, b: Any, y: Any, high: Any, low: Any, c_high: Any, c_low: Any,
    shift: Any, qmin: Any, qmax: Any,
) -> Any:  # fmt: skip
    """32 bytes."""
    madd = _multiply_add("llvm.x86.avx2.pmadd.wd")
    return _block(32, madd, "llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb")


@intrinsic
def fixed_add_u8x64_avx512(
    typingctx: Any, a: Any, b: Any, y: Any, high: Any, low: Any, c_high: Any, c_low: Any,
    shift: Any, qmin: Any, qmax: Any,
) -> Any:  # fmt: skip
    """64 bytes."""
    madd = _multiply_add("llvm.x86.avx512.pmaddw.d.512")
    return _block(64, madd, "llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512")


@intrinsic
def fixed_add_u8x64_vnni(
    typingctx: Any, a: Any, b: Any, y: Any, high: Any, low: Any, c_high: Any, c_low: Any,
    shift: Any, qmin: Any, qmax: Any,
) -> Any:  # fmt: skip
    """64 bytes."""
    return _block(64, _dot_add, "llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512")
