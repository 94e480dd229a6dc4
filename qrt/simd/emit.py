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
