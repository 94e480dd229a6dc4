"""Pieces of LLVM IR that generators of intrinsics share."""

from __future__ import annotations

from typing import Any


def declared(module: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """The function `name` of `module`, declared if it was not."""
    from llvmlite import ir

    found = module.globals.get(name)
    return found or ir.Function(module, ir.FunctionType(result, arguments), name)


def splat(builder: Any, scalar: Any, vector: Any) -> Any:
    """`scalar` in all lanes of the type `vector`."""
    from llvmlite import ir

    index = ir.IntType(32)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(index, 0))
    zeros = ir.Constant(ir.VectorType(index, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, undefined, zeros)


def extreme(builder: Any, which: str, a: Any, b: Any) -> Any:
    """a where a `which` b (">" or "<"), else b: unsigned, lane by lane."""
    return builder.select(builder.icmp_unsigned(which, a, b), a, b)


def unpack(builder: Any, one: Any, other: Any, upper: bool) -> Any:
    """Elements of the lower or upper half of each 128-bit lane of two vectors, in turn."""
    from llvmlite import ir

    count = one.type.count
    per_lane = 128 // one.type.element.width
    picks = []
    for lane in range(0, count, per_lane):
        first = lane + (per_lane // 2 if upper else 0)
        for i in range(first, first + per_lane // 2):
            picks += [i, count + i]
    mask = ir.Constant(ir.VectorType(ir.IntType(32), count), picks)
    return builder.shuffle_vector(one, other, mask)


def load(builder: Any, address: Any, at: int, kind: Any, *, invariant: bool = False) -> Any:
    """A scalar or vector of type `kind`, `at` bytes after `address`, unaligned. What is `invariant`
    never changes, so that LLVM may keep it in registers across loops."""
    from llvmlite import ir

    place = builder.add(address, ir.Constant(ir.IntType(64), at))
    loaded = builder.load(builder.inttoptr(place, kind.as_pointer()), align=1)
    if invariant:
        loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
    return loaded
