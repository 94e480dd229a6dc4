"""Vectors inside kernels: load, store, arithmetic, the same on every CPU.

LLVM gives each operation its instruction on the target at hand and splits what is wider than a
register (u8x64 is one zmm, two ymm or four NEON registers), so kernels written with these are
portable rows. Names say lane type and count: `load_u8x64`, `add_f32x16`. Addresses are int64.
"""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import helper, intrinsic
from qrt.simd.fma import hardware_fma
from qrt.simd.memory import as_u8
from qrt.simd.scalar import _ROUND as ROUND
from qrt.simd.scalar import _ROUND_BITS as ROUND_BITS


def _named(fn: Any, name: str, doc: str) -> Any:
    fn.__name__ = name
    fn.__doc__ = doc
    return intrinsic(fn)


def _load(lane: str, count: int) -> Any:
    def load(typingctx: Any, address: Any) -> Any:
        from numba import types

        from qrt.simd.vector_types import Vector

        vector = Vector(lane, count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], vector.llvm.as_pointer())
            return builder.load(pointer, align=1)

        return vector(types.int64), codegen

    return _named(load, f"load_{lane}x{count}", f"{count} {lane} from `address`, unaligned.")


def _store(lane: str, count: int) -> Any:
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        from numba import types

        from qrt.simd.vector_types import Vector

        vector = Vector(lane, count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], vector.llvm.as_pointer())
            builder.store(args[1], pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, vector), codegen

    return _named(store, f"store_{lane}x{count}", f"{count} {lane} to `address`, unaligned.")


def _splat(lane: str, count: int, scalar: str) -> Any:
    def splat(typingctx: Any, value: Any) -> Any:
        from llvmlite import ir
        from numba import types

        from qrt.simd.vector_types import Vector

        vector = Vector(lane, count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            index = ir.IntType(32)
            undefined = ir.Constant(vector.llvm, ir.Undefined)
            one = builder.insert_element(undefined, args[0], ir.Constant(index, 0))
            zeros = ir.Constant(ir.VectorType(index, count), [0] * count)
            return builder.shuffle_vector(one, undefined, zeros)

        return vector(getattr(types, scalar)), codegen

    return _named(splat, f"splat_{lane}x{count}", f"`value` in all {count} lanes.")


def _binary(lane: str, count: int, name: str, build: str) -> Any:
    def binary(typingctx: Any, a: Any, b: Any) -> Any:
        from qrt.simd.vector_types import Vector

        vector = Vector(lane, count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, build)(args[0], args[1])

        return vector(vector, vector), codegen

    return _named(binary, f"{name}_{lane}x{count}", f"{name} of each lane.")


def _select(lane: str, count: int, name: str, compare: str, relation: str) -> Any:
    def select(typingctx: Any, a: Any, b: Any) -> Any:
        from qrt.simd.vector_types import Vector

        vector = Vector(lane, count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            chosen = getattr(builder, compare)(relation, args[0], args[1])
            return builder.select(chosen, args[0], args[1])

        return vector(vector, vector), codegen

    doc = f"a if a {relation} b else b in each lane; a NaN in a gives b."
    return _named(select, f"{name}_{lane}x{count}", doc)


def _convert(name: str, source: str, result: str, count: int, build: str) -> Any:
    def convert(typingctx: Any, value: Any) -> Any:
        from qrt.simd.vector_types import Vector

        vector, origin = Vector(result, count), Vector(source, count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, build)(args[0], vector.llvm)

        return vector(origin), codegen

    return _named(convert, name, f"{build} of {count} {source} to {result}.")


load_u8x64, load_u8x16 = _load("u8", 64), _load("u8", 16)
load_i32x16, load_f32x16 = _load("i32", 16), _load("f32", 16)
load_f32x8, store_f32x8 = _load("f32", 8), _store("f32", 8)
splat_f32x8 = _splat("f32", 8, "float32")
add_f32x8 = _binary("f32", 8, "add", "fadd")
store_u8x64, store_u8x16 = _store("u8", 64), _store("u8", 16)
store_i32x16, store_f32x16 = _store("i32", 16), _store("f32", 16)
splat_u8x64, splat_u8x16 = _splat("u8", 64, "uint8"), _splat("u8", 16, "uint8")
splat_i32x4, store_i32x4 = _splat("i32", 4, "int32"), _store("i32", 4)
splat_i32x16, splat_f32x16 = _splat("i32", 16, "int32"), _splat("f32", 16, "float32")

add_i32x16, sub_i32x16 = _binary("i32", 16, "add", "add"), _binary("i32", 16, "sub", "sub")
div_f32x16 = _binary("f32", 16, "div", "fdiv")
mul_i32x16 = _binary("i32", 16, "mul", "mul")
and_i32x16, or_i32x16 = _binary("i32", 16, "and", "and_"), _binary("i32", 16, "or", "or_")
shl_i32x16, lshr_i32x16 = _binary("i32", 16, "shl", "shl"), _binary("i32", 16, "lshr", "lshr")
add_f32x16, sub_f32x16 = _binary("f32", 16, "add", "fadd"), _binary("f32", 16, "sub", "fsub")
mul_f32x16, div_f32x16 = _binary("f32", 16, "mul", "fmul"), _binary("f32", 16, "div", "fdiv")

add_u8x64 = _binary("u8", 64, "add", "add")

max_u8x64 = _select("u8", 64, "max", "icmp_unsigned", ">")
min_u8x64 = _select("u8", 64, "min", "icmp_unsigned", "<")
max_u8x16 = _select("u8", 16, "max", "icmp_unsigned", ">")
max_i32x16 = _select("i32", 16, "max", "icmp_signed", ">")
max_f32x16 = _select("f32", 16, "max", "fcmp_ordered", ">")
min_f32x16 = _select("f32", 16, "min", "fcmp_ordered", "<")

u8x16_to_i32x16 = _convert("u8x16_to_i32x16", "u8", "i32", 16, "zext")
i32x16_to_u8x16 = _convert("i32x16_to_u8x16", "i32", "u8", 16, "trunc")
i32x16_to_f32x16 = _convert("i32x16_to_f32x16", "i32", "f32", 16, "sitofp")
bits_f32x16 = _convert("bits_f32x16", "i32", "f32", 16, "bitcast")
f32x16_bits = _convert("f32x16_bits", "f32", "i32", 16, "bitcast")


def _where_less(lane: str, count: int) -> Any:
    def where_less(typingctx: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
        from qrt.simd.vector_types import Vector

        vector, floats = Vector(lane, count), Vector("f32", count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            first, second, *choices = args
            return builder.select(builder.icmp_signed("<", first, second), *choices)

        return floats(vector, vector, floats, floats), codegen

    doc = f"float32 `yes` where a < b, else `no`, in each of {count} lanes."
    return _named(where_less, f"where_less_{lane}x{count}", doc)


where_less_i32x16 = _where_less("i32", 16)


def _fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    from qrt.simd.vector_types import Vector

    vector = Vector("f32", 16)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return hardware_fma(builder, *args)

    return vector(vector, vector, vector), codegen


fma_f32x16 = _named(
    _fma, "fma_f32x16", "a * b + c rounded once; only where the CPU has it (features fma, neon)."
)


@helper
def copy_bytes(source, target, nbytes):  # type: ignore[no-untyped-def]
    """Copy `nbytes` between addresses that do not overlap."""
    if nbytes >= 64:
        last = nbytes - 64
        i = 0
        while i < last:
            store_u8x64(target + i, load_u8x64(source + i))
            i += 64
        store_u8x64(target + last, load_u8x64(source + last))
    elif nbytes >= 16:
        last = nbytes - 16
        i = 0
        while i < last:
            store_u8x16(target + i, load_u8x16(source + i))
            i += 16
        store_u8x16(target + last, load_u8x16(source + last))
    else:
        for i in range(nbytes):
            as_u8(target)[i] = as_u8(source)[i]


@helper
def clamp_f32x16(t, low, high):  # type: ignore[no-untyped-def]
    """min(max(t, low), high) in each lane, as `clamp_f32`: NaN gives low."""
    return min_f32x16(max_f32x16(t, low), high)


@helper
def round_i32x16(t):  # type: ignore[no-untyped-def]
    """`round_i32` in each lane."""
    return sub_i32x16(f32x16_bits(add_f32x16(t, splat_f32x16(ROUND))), splat_i32x16(ROUND_BITS))


@helper
def quantize_u8x16(t, low, high, zero_point):  # type: ignore[no-untyped-def]
    """`quantize_u8` in each lane; all operands are vectors."""
    integer = round_i32x16(clamp_f32x16(t, low, high))
    return i32x16_to_u8x16(add_i32x16(integer, zero_point))


@helper
def load_u8_as_i32x16(address):  # type: ignore[no-untyped-def]
    """16 bytes at `address`, widened."""
    return u8x16_to_i32x16(load_u8x16(address))


def _fold(lane: str, name: str, combine: str, relation: str = "") -> Any:
    """`combine` halves (a builder's method), or keep the one that compares by `relation`."""

    def fold(typingctx: Any, value: Any) -> Any:
        from llvmlite import ir
        from numba import types

        from qrt.simd.vector_types import Vector

        vector = Vector(lane, 16)
        result = types.float32 if lane == "f32" else types.int32

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            index = ir.IntType(32)
            (v,) = args
            lanes = 16
            while lanes > 1:
                lanes //= 2
                halves = []
                for first in (0, lanes):
                    picks = [ir.Constant(index, first + i) for i in range(lanes)]
                    mask = ir.Constant(ir.VectorType(index, lanes), picks)
                    nothing = ir.Constant(v.type, ir.Undefined)
                    halves.append(builder.shuffle_vector(v, nothing, mask))
                if relation:
                    chosen = getattr(builder, combine)(relation, *halves)
                    v = builder.select(chosen, *halves)
                else:
                    v = getattr(builder, combine)(*halves)
            return builder.extract_element(v, ir.Constant(index, 0))

        return result(vector), codegen

    doc = "All 16 lanes in one: halves against halves, a fixed order."
    return _named(fold, f"{name}_lanes_{lane}x16", doc)


sum_lanes_f32x16 = _fold("f32", "sum", "fadd")
sum_lanes_i32x16 = _fold("i32", "sum", "add")
max_lanes_f32x16 = _fold("f32", "max", "fcmp_ordered", ">")
min_lanes_f32x16 = _fold("f32", "min", "fcmp_ordered", "<")
max_lanes_i32x16 = _fold("i32", "max", "icmp_signed", ">")


def _sum_bytes(lane: str, count: int) -> Any:
    def sum_lanes(typingctx: Any, value: Any) -> Any:
        from llvmlite import ir
        from numba import types

        from qrt.simd.emit import declared
        from qrt.simd.vector_types import Vector

        vector = Vector(lane, count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = ir.IntType(32)
            wide = ir.VectorType(word, count)
            name = f"llvm.vector.reduce.add.v{count}i32"
            add = declared(builder.module, name, word, [wide])
            return builder.call(add, [builder.zext(args[0], wide)])

        return types.int32(vector), codegen

    # LLVM makes psadbw of it where there is one
    return _named(sum_lanes, f"sum_{lane}x{count}", f"The sum of {count} {lane}, int32.")


sum_u8x64, sum_u8x16 = _sum_bytes("u8", 64), _sum_bytes("u8", 16)


def _first(lane: str, count: int) -> Any:
    def first(typingctx: Any, value: Any, n: Any) -> Any:
        from llvmlite import ir
        from numba import types

        from qrt.simd.emit import splat
        from qrt.simd.vector_types import Vector

        vector = Vector(lane, count)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = vector.llvm
            places = ir.Constant(kind, list(range(count)))
            limit = splat(builder, builder.trunc(args[1], kind.element), kind)
            kept = builder.icmp_unsigned("<", places, limit)
            return builder.select(kept, args[0], ir.Constant(kind, [0] * count))

        return vector(vector, types.int64), codegen

    doc = f"`value` with 0 in lanes n and behind, 0 <= n <= {count}."
    return _named(first, f"first_{lane}x{count}", doc)


first_u8x16 = _first("u8", 16)


def _last(typingctx: Any, value: Any, n: Any) -> Any:
    from llvmlite import ir
    from numba import types

    from qrt.simd.emit import splat
    from qrt.simd.vector_types import Vector

    vector = Vector("f32", 16)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.VectorType(ir.IntType(32), 16)
        places = ir.Constant(word, list(range(15, -1, -1)))
        limit = splat(builder, builder.trunc(args[1], word.element), word)
        kept = builder.icmp_unsigned("<", places, limit)
        return builder.select(kept, args[0], ir.Constant(vector.llvm, [0.0] * 16))

    return vector(vector, types.int64), codegen


last_f32x16 = _named(_last, "last_f32x16", "`value` with 0 in all but the last n lanes.")


def _zero_below(typingctx: Any, x: Any, limit: Any, y: Any) -> Any:
    from llvmlite import ir

    from qrt.simd.vector_types import Vector

    vector = Vector("f32", 16)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        below = builder.fcmp_ordered("<", args[0], args[1])
        return builder.select(below, ir.Constant(vector.llvm, [0.0] * 16), args[2])

    return vector(vector, vector, vector), codegen


zero_below_f32x16 = _named(_zero_below, "zero_below_f32x16", "0 where x < limit, else y.")
