"""Byte lookups in a table of 256 entries: a block of bytes through the table at once (x86).

Table loads carry `invariant.load` (constants never change), so LLVM keeps the table in registers
across the loop around these.
"""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import intrinsic


def _emit_load(builder: Any, address: Any, at: int, vector: Any, invariant: bool) -> Any:
    from llvmlite import ir

    place = builder.add(address, ir.Constant(ir.IntType(64), at))
    loaded = builder.load(builder.inttoptr(place, vector.as_pointer()), align=1)
    if invariant:
        loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
    return loaded


def _emit_declare(module: Any, name: str, result: Any, arguments: Any) -> Any:
    from llvmlite import ir

    found = module.globals.get(name)
    return found or ir.Function(module, ir.FunctionType(result, arguments), name)


def _emit_segments(builder: Any, table: Any, nbytes: int) -> list[Any]:
    """The 16 segments of the table as differences (see `_by_shuffles`), each in every lane."""
    from llvmlite import ir

    byte, index = ir.IntType(8), ir.IntType(32)
    quarter = ir.VectorType(byte, 16)
    repeat = ir.Constant(ir.VectorType(index, nbytes), [i % 16 for i in range(nbytes)])
    plain = []
    for k in range(16):
        segment = _emit_load(builder, table, 16 * k, quarter, True)
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
        look = _emit_declare(module, shuffle, vector, [vector, vector])
        below = _emit_declare(module, f"llvm.ssub.sat.v{nbytes}i8", vector, [vector, vector])
        step = ir.Constant(vector, [16] * nbytes)
        segments = _emit_segments(builder, args[1], nbytes)
        x = _emit_load(builder, args[0], 0, vector, False)
        y = builder.call(look, [segments[0], x])
        for k in range(1, 16):
            x = builder.sub(x, step) if k < 9 else builder.call(below, [x, step])
            y = builder.xor(y, builder.call(look, [segments[k], x]))
        builder.store(y, builder.inttoptr(args[2], vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def lookup_u8x32_avx2(typingctx: Any, x: Any, table: Any, y: Any) -> Any:
    """y[i] = table[x[i]] for 32 bytes at addresses x and y."""
    return _by_shuffles(32, "llvm.x86.avx2.pshuf.b")


@intrinsic
def lookup_u8x64_avx512(typingctx: Any, x: Any, table: Any, y: Any) -> Any:
    """y[i] = table[x[i]] for 64 bytes at addresses x and y."""
    return _by_shuffles(64, "llvm.x86.avx512.pshuf.b.512")


@intrinsic
def lookup_u8x64_vbmi(typingctx: Any, x: Any, table: Any, y: Any) -> Any:
    """y[i] = table[x[i]] for 64 bytes: vpermi2b picks from 128 entries by the low 7 bits of an
    index, once for each half of the table; bit 7 chooses the half."""
    from llvmlite import ir
    from numba import types

    vector = ir.VectorType(ir.IntType(8), 64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pick = _emit_declare(
            builder.module, "llvm.x86.avx512.vpermi2var.qi.512", vector, [vector] * 3
        )
        parts = [_emit_load(builder, args[1], 64 * k, vector, True) for k in range(4)]
        index = _emit_load(builder, args[0], 0, vector, False)
        lower = builder.call(pick, [parts[0], index, parts[1]])
        upper = builder.call(pick, [parts[2], index, parts[3]])
        high = builder.icmp_signed("<", index, ir.Constant(vector, [0] * 64))
        y = builder.select(high, upper, lower)
        builder.store(y, builder.inttoptr(args[2], vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
