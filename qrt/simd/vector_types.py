"""Numba types of LLVM vectors, so that a kernel's local variable can be a vector register.

Imported by compile workers only (it needs numba).
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

LANES = {
    "u8": ir.IntType(8),
    "u16": ir.IntType(16),
    "i32": ir.IntType(32),
    "i64": ir.IntType(64),
    "f32": ir.FloatType(),
}


class Vector(types.Type):  # type: ignore[misc]
    """`count` lanes of `lane`; wider than a register is fine, LLVM splits it."""

    def __init__(self, lane: str, count: int) -> None:
        self.lane = lane
        self.count = count
        super().__init__(name=f"Vector({lane} x {count})")

    @property
    def llvm(self) -> ir.VectorType:
        """The LLVM type."""
        return ir.VectorType(LANES[self.lane], self.count)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    """A vector is one LLVM value."""

    def __init__(self, manager: object, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)
