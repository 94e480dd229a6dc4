"""Byte lookups in a table of 256 entries: a block of bytes through the table at once.

Table loads carry `invariant.load` (constants never change), so LLVM keeps the table in registers
across the loop around these.
"""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import intrinsic
from qrt.simd.emit import declared, load, splat, unpack


def _emit_segments(builder: Any, table: Any, nbytes: int) -> list[Any]:
    """The 16 segments of the table as differences (see `_by_shuffles`), each in every lane."""
    from llvmlite import ir

    byte, index = ir.IntType(8), ir.IntType(32)
    quarter = ir.VectorType(byte, 16)
    repeat = ir.Constant(ir.VectorType(index, nbytes), [i % 16 for i in range(nbytes)])
    plain = []
    for k in range(16):
        segment = load(builder, table, 16 * k, quarter, invariant=True)
        plain.append(builder.shuffle_vector(segment, ir.Constant(quarter, ir.Undefined), repeat))
    segments = plain[:1] + [builder.xor(plain[k - 1], plain[k]) for k in range(1, 16)]
    return segments[:8] + [builder.xor(segments[k], segments[k - 8]) for k in range(8, 16)]


def _by_shuffles(nbytes: int, shuffle: str) -> Any:
    """`nbytes` bytes through a table of 16 segments of 16 bytes, by byte shuffles.

    A shuffle reads the low 4 bits of an index and gives 0 where its bit 7 is set. Step k looks up
    x - 16k in segment k; as x counts down, an entry of the right segment appears, and the steps
    before and after cancel since the segments hold differences (the method of XNNPACK's x8-lut).
    From step 9 on the subtraction saturates, so that small x stay negative.
    """
    from llvmlite import ir
    from numba import types

    byte = ir.IntType(8)
    vector = ir.VectorType(byte, nbytes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        module = builder.module
        look = declared(module, shuffle, vector, [vector, vector])
        below = declared(module, f"llvm.ssub.sat.v{nbytes}i8", vector, [vector, vector])
        step = ir.Constant(vector, [16] * nbytes)
        segments = _emit_segments(builder, args[1], nbytes)
        x = load(builder, args[0], 0, vector)
        y = builder.call(look, [segments[0], x])
        for k in range(1, 16):
            x = builder.sub(x, step) if k < 9 else builder.call(below, [x, step])
            y = builder.xor(y, builder.call(look, [segments[k], x]))
        builder.store(y, builder.inttoptr(args[2], vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def lookup_u8x16_sse41(typingctx: Any, x: Any, table: Any, y: Any) -> Any:
    """y[i] = table[x[i]] for 16 bytes at addresses x and y."""
    return _by_shuffles(16, "llvm.x86.ssse3.pshuf.b.128")


@intrinsic
def lookup_u8x32_avx2(typingctx: Any, x: Any, table: Any, y: Any) -> Any:
    """y[i] = table[x[i]] for 32 bytes at addresses x and y."""
    return _by_shuffles(32, "llvm.x86.avx2.pshuf.b")


@intrinsic
def lookup_u8x64_neon(typingctx: Any, x: Any, table: Any, y: Any) -> Any:
    """y[i] = table[x[i]] for 64 bytes at addresses x and y: four registers of the table at a time,
    by x - 64k; tbl gives 0 where that is 64 or more, tbx leaves what was there."""
    from llvmlite import ir
    from numba import types

    vector = ir.VectorType(ir.IntType(8), 16)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        x, table, y = args
        look = declared(b.module, "llvm.aarch64.neon.tbl4.v16i8", vector, [vector] * 5)
        look_on = declared(b.module, "llvm.aarch64.neon.tbx4.v16i8", vector, [vector] * 6)
        parts = [load(b, table, 16 * i, vector, invariant=True) for i in range(16)]
        for at in range(0, 64, 16):
            index = load(b, x, at, vector)
            found = b.call(look, [*parts[:4], index])
            for k in range(64, 256, 64):
                below = b.sub(index, ir.Constant(vector, [k] * 16))
                found = b.call(look_on, [found, *parts[k // 16 : k // 16 + 4], below])
            place = b.add(y, ir.Constant(ir.IntType(64), at))
            b.store(found, b.inttoptr(place, vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def lookup_u8x64_avx512(typingctx: Any, x: Any, table: Any, y: Any) -> Any:
    """y[i] = table[x[i]] for 64 bytes: vpermi2w picks from 64 words of the table by the low 6 bits
    of an index, once for each half of the table; bit 7 of a byte chooses the half, bit 0 the byte.

    A word of x holds two bytes: `lower` has the table's byte in its low half, `upper` in the other.
    """
    from llvmlite import ir
    from numba import types

    words = ir.VectorType(ir.IntType(16), 32)
    vector = ir.VectorType(ir.IntType(8), 64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        pick = declared(b.module, "llvm.x86.avx512.vpermi2var.hi.512", words, [words] * 3)
        parts = [load(b, args[1], 64 * k, words, invariant=True) for k in range(4)]
        index = load(b, args[0], 0, words)

        def constant(value: int) -> Any:
            return ir.Constant(words, [value] * 32)

        def bit(mask: int) -> Any:
            return b.icmp_unsigned("!=", b.and_(index, constant(mask)), constant(0))

        def picked(shift: int, high: int) -> Any:
            at = b.lshr(index, constant(shift))
            halves = [b.call(pick, [parts[k], at, parts[k + 1]]) for k in (0, 2)]
            return b.select(bit(high), halves[1], halves[0])

        first, second = picked(1, 0x80), picked(9, 0x8000)
        lower = b.select(bit(1), b.lshr(first, constant(8)), first)
        upper = b.select(bit(0x100), second, b.shl(second, constant(8)))
        order = [i + 64 * (i % 2) for i in range(64)]
        y = b.shuffle_vector(
            b.bitcast(lower, vector),
            b.bitcast(upper, vector),
            ir.Constant(ir.VectorType(ir.IntType(32), 64), order),
        )
        b.store(y, b.inttoptr(args[2], vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def _emit_picks(builder: Any, table: Any, index: Any) -> Any:
    """table[index] of u8x64: vpermi2b picks from 128 entries by the low 7 bits of an index, once
    for each half of the table at address `table`; bit 7 chooses the half."""
    from llvmlite import ir

    vector = index.type
    pick = declared(builder.module, "llvm.x86.avx512.vpermi2var.qi.512", vector, [vector] * 3)
    parts = [load(builder, table, 64 * k, vector, invariant=True) for k in range(4)]
    lower = builder.call(pick, [parts[0], index, parts[1]])
    upper = builder.call(pick, [parts[2], index, parts[3]])
    high = builder.icmp_signed("<", index, ir.Constant(vector, [0] * 64))
    return builder.select(high, upper, lower)


@intrinsic
def lookup_u8x64_vbmi(typingctx: Any, x: Any, table: Any, y: Any) -> Any:
    """y[i] = table[x[i]] for 64 bytes at addresses x and y."""
    from llvmlite import ir
    from numba import types

    vector = ir.VectorType(ir.IntType(8), 64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        index = load(builder, args[0], 0, vector)
        found = _emit_picks(builder, args[1], index)
        builder.store(found, builder.inttoptr(args[2], vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def lookup_some_u8x64_vbmi(typingctx: Any, x: Any, table: Any, y: Any, count: Any) -> Any:
    """y[i] = table[x[i]] for the first `count` of 64 bytes at x, all of which are read."""
    from llvmlite import ir
    from numba import types

    byte, index_type, bit = ir.IntType(8), ir.IntType(32), ir.IntType(1)
    vector, bits = ir.VectorType(byte, 64), ir.VectorType(bit, 64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        found = _emit_picks(b, args[1], load(b, args[0], 0, vector))
        limit = splat(b, b.trunc(args[3], byte), vector)
        mask = b.icmp_unsigned("<", ir.Constant(vector, list(range(64))), limit)
        pointer = vector.as_pointer()
        store = declared(
            b.module, "llvm.masked.store.v64i8.p0", ir.VoidType(),
            [vector, pointer, index_type, bits],
        )  # fmt: skip
        b.call(store, [found, b.inttoptr(args[2], pointer), ir.Constant(index_type, 1), mask])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def lookup_f32x64_vbmi(typingctx: Any, x: Any, planes: Any, y: Any) -> Any:
    """64 float32 at y, the entries for 64 bytes at x. `planes` is the address of four tables of
    256: the lowest bytes of all entries, the next ones, and so on.

    Bytes are interleaved within 128-bit lanes, so that lane j of result k holds what stood at dword
    4 * j + k: the dwords of x change places before.
    """
    from llvmlite import ir
    from numba import types

    vector = ir.VectorType(ir.IntType(8), 64)
    index_type = ir.IntType(32)
    dwords = ir.VectorType(index_type, 16)
    word = ir.IntType(64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = builder
        x, planes, y = args
        order = ir.Constant(dwords, [4 * (i % 4) + i // 4 for i in range(16)])
        loaded = load(b, x, 0, dwords)
        index = b.bitcast(
            b.shuffle_vector(loaded, ir.Constant(dwords, ir.Undefined), order), vector
        )
        found = [_emit_picks(b, b.add(planes, ir.Constant(word, 256 * k)), index) for k in range(4)]
        words = ir.VectorType(ir.IntType(16), 32)
        for half in (False, True):
            low = b.bitcast(unpack(b, found[0], found[1], half), words)
            high = b.bitcast(unpack(b, found[2], found[3], half), words)
            for part in (False, True):
                at = b.add(y, ir.Constant(word, 64 * (2 * half + part)))
                entries = unpack(b, low, high, part)
                b.store(entries, b.inttoptr(at, words.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
