"""Addresses and bits inside kernels: typed pointers, operands of a row, float bits."""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import helper, intrinsic


def _pointer_cast(numba_name: str) -> Any:
    def cast_to(typingctx: Any, address: Any) -> Any:
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(getattr(types, numba_name))(types.int64), codegen

    cast_to.__name__ = f"as_{numba_name}"
    cast_to.__doc__ = f"Pointer to {numba_name} at `address` (int64)."
    return intrinsic(cast_to)


as_u8 = _pointer_cast("uint8")
as_i8 = _pointer_cast("int8")
as_u16 = _pointer_cast("uint16")
as_i16 = _pointer_cast("int16")
as_i32 = _pointer_cast("int32")
as_i64 = _pointer_cast("int64")
as_f32 = _pointer_cast("float32")
as_f64 = _pointer_cast("float64")


@intrinsic
def address_of(typingctx: Any, pointer: Any) -> Any:
    """int64 address of a pointer."""
    from llvmlite import ir
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(pointer), codegen


@intrinsic
def put_ramp(typingctx: Any, address: Any, start: Any, step: Any) -> Any:
    """Store start, start + step, ..., start + 7 * step as int64 at `address`: one vector."""
    from llvmlite import ir
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32, i64 = ir.IntType(32), ir.IntType(64)
        vec = ir.VectorType(i64, 8)
        nothing = ir.Constant(vec, ir.Undefined)

        def spread(value: Any) -> Any:
            one = builder.insert_element(nothing, value, ir.Constant(i32, 0))
            return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(i32, 8), [0] * 8))

        steps = builder.mul(spread(args[2]), ir.Constant(vec, list(range(8))))
        ramp = builder.add(spread(args[1]), steps)
        builder.store(ramp, builder.inttoptr(args[0], vec.as_pointer()), align=8)
        return ir.Constant(i64, 0)

    return types.int64(types.int64, types.int64, types.int64), codegen


def _bitcast(name: str, source: str, result: str) -> Any:
    def cast_bits(typingctx: Any, value: Any) -> Any:
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(signature.return_type))

        return getattr(types, result)(getattr(types, source)), codegen

    cast_bits.__name__ = name
    cast_bits.__doc__ = f"The bits of a {source} as {result}."
    return intrinsic(cast_bits)


bits_f32 = _bitcast("bits_f32", "int32", "float32")
f32_bits = _bitcast("f32_bits", "float32", "int32")


@helper
def operand(row, slot, arena, constants):  # type: ignore[no-untyped-def]
    """Address of the operand in `slot` of a row: an arena offset, or ~offset into the constants."""
    v = row[slot]
    if v >= 0:
        return address_of(arena) + v
    return address_of(constants) + ~v


@helper
def row_f32(row, slot):  # type: ignore[no-untyped-def]
    """The float32 whose bits are in `slot` of a row."""
    return bits_f32(row[slot])
