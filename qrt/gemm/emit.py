"""Pieces of LLVM IR that the generators of micro-kernels share; addresses are int64."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

I1, I8, I16, I32, I64, F32 = (
    ir.IntType(1),
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
)


def const(value: int, ty: Any = I64) -> Any:
    """An integer constant."""
    return ir.Constant(ty, value)


def load(b: Any, address: Any, ty: Any, align: int = 4) -> Any:
    """Load `ty` from an int64 address."""
    return b.load(b.inttoptr(address, ty.as_pointer()), align=align)


def store(b: Any, value: Any, address: Any, align: int = 1) -> None:
    """Store `value` at an int64 address."""
    b.store(value, b.inttoptr(address, value.type.as_pointer()), align=align)


def prefetch(b: Any, address: Any) -> Any:
    """Begin to fetch the line at `address`, which may be any, into L2."""
    pointer = ir.IntType(8).as_pointer()
    fetch = declare(b.module, "llvm.prefetch.p0", ir.VoidType(), [pointer, I32, I32, I32])
    read, near, data = const(0, I32), const(2, I32), const(1, I32)
    return b.call(fetch, [b.inttoptr(address, pointer), read, near, data])


def splat(b: Any, scalar: Any, lanes: int) -> Any:
    """A vector of `lanes` equal elements."""
    vec = ir.VectorType(scalar.type, lanes)
    one = b.insert_element(ir.Constant(vec, ir.Undefined), scalar, const(0, I32))
    mask = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return b.shuffle_vector(one, ir.Constant(vec, ir.Undefined), mask)


def declare(module: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """The declaration of an LLVM intrinsic, once per module."""
    existing = module.globals.get(name)
    if existing is not None:
        return existing
    return ir.Function(module, ir.FunctionType(result, arguments), name)


def need_features(context: Any, fn: Any, features: tuple[str, ...]) -> None:
    """Give `fn` the features (qrt names) that the compiled target lacks, so that LLVM can select.

    `context` is numba's; the attribute is a free string, which llvmlite's set does not list.
    """
    attribute = context.codegen().target.attribute_for(features)
    if attribute:
        set.add(fn.attributes, f'"target-features"="{attribute}"')
