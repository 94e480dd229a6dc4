"""x * w + acc in float32, rounded once: one instruction where there is one, else the same bits.

The emulation is exact for all operands. A product of two float32 is exact in float64; adding acc
to it rounds once, to 53 bits, and rounding that to float32 would round twice. So the sum is first
made *odd*: when it is not exact, the one of its two neighbours in float64 whose last bit is 1.
Whatever has at least 26 bits and was rounded to odd may be rounded again (Boldo and Melquiond,
"Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008); of a
float64 that leaves a float32 right down to its subnormals. Nothing can overflow or be
subnormal in float64: products of two float32 lie between 2**-298 and 2**256.
"""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import intrinsic

# LLVM features that promise an instruction, by architecture; every AArch64 CPU has fmla
_INSTRUCTION = {"x86_64": "+fma", "aarch64": ""}


def has_fma(target: Any) -> bool:
    """True when code for `target` (jit.Target) has the instruction."""
    flag = _INSTRUCTION.get(target.arch)
    return flag is not None and (not flag or flag in target.features.split(","))


def hardware_fma(b: Any, x: Any, w: Any, acc: Any) -> Any:
    """The instruction, of float32 vectors or scalars; a call of libm where the target has none."""
    from llvmlite import ir

    vector = isinstance(acc.type, ir.VectorType)
    name = f"llvm.fma.v{acc.type.count}f32" if vector else "llvm.fma.f32"
    fn = b.module.globals.get(name)
    if fn is None:
        fn = ir.Function(b.module, ir.FunctionType(acc.type, [acc.type] * 3), name)
    return b.call(fn, [x, w, acc])


def emulated_fma(b: Any, x: Any, w: Any, acc: Any) -> Any:
    """The same from float64 products and sums; float32 vectors or scalars."""
    from llvmlite import ir

    def alike(element: Any, value: Any) -> tuple[Any, Any]:
        """A type of `element` as wide as acc's, and a constant of it."""
        if not isinstance(acc.type, ir.VectorType):
            return element, ir.Constant(element, value)
        ty = ir.VectorType(element, acc.type.count)
        return ty, ir.Constant(ty, [value] * acc.type.count)

    wide, zero = alike(ir.DoubleType(), 0.0)
    bits, top = alike(ir.IntType(64), 63)
    _, magnitude = alike(ir.IntType(64), 2**63 - 1)
    product = b.fmul(b.fpext(x, wide), b.fpext(w, wide))
    addend = b.fpext(acc, wide)
    total = b.fadd(product, addend)
    # what the sum lost, exactly (Knuth's TwoSum); NaN when an operand is infinite
    part = b.fsub(total, product)
    lost = b.fadd(b.fsub(product, b.fsub(total, part)), b.fsub(addend, part))
    lost_bits = b.bitcast(lost, bits)
    size = b.bitcast(b.and_(lost_bits, magnitude), wide)
    inexact = b.zext(b.fcmp_ordered(">", size, zero), bits)
    total_bits = b.bitcast(total, bits)
    # towards zero, when rounding went away from it; then a last bit of 1
    away = b.and_(b.lshr(b.xor(total_bits, lost_bits), top), inexact)
    odd = b.or_(b.sub(total_bits, away), inexact)
    return b.fptrunc(b.bitcast(odd, wide), acc.type)


def _fma(name: str, lanes: int) -> Any:
    def fma(typingctx: Any, x: Any, w: Any, acc: Any) -> Any:
        from numba import types

        from qrt.simd.vector_types import Vector

        kind = Vector("f32", lanes) if lanes > 1 else types.float32

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            build = hardware_fma if has_fma(context.codegen().target) else emulated_fma
            return build(builder, *args)

        return kind(kind, kind, kind), codegen

    fma.__name__ = name
    fma.__doc__ = "x * w + acc in each lane, rounded once."
    return intrinsic(fma)


fma_f32, fma_f32x8, fma_f32x16 = (
    _fma(name, lanes) for name, lanes in (("fma_f32", 1), ("fma_f32x8", 8), ("fma_f32x16", 16))
)
