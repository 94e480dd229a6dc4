"""Four columns of four bytes: loaded as rows or as columns, stored column by column, and summed.

    r0: a0 b0 c0 d0    r1: a1 b1 c1 d1    r2: a2 b2 c2 d2    r3: a3 b3 c3 d3
    out: a0 a1 a2 a3 b0 b1 b2 b3 c0 c1 c2 c3 d0 d1 d2 d3
    sums + (a0 + a1 + a2 + a3, b0 + .., c0 + .., d0 + ..)
"""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import intrinsic

TRANSPOSED = tuple(4 * (i % 4) + i // 4 for i in range(16))


def _quad(transposed: bool) -> Any:
    """(signature, codegen); `transposed`: rows come in, columns go out."""
    from llvmlite import ir
    from numba import types

    from qrt.simd.vector_types import Vector

    byte, index, word = ir.IntType(8), ir.IntType(32), ir.IntType(64)
    sums = Vector("i32", 4)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, step, target, total = args

        def lanes(picks: Any) -> Any:
            return ir.Constant(ir.VectorType(index, len(picks)), list(picks))

        four = ir.VectorType(byte, 4)
        parts = []
        for i in range(4):
            at = builder.add(source, builder.mul(step, ir.Constant(word, i)))
            parts.append(builder.load(builder.inttoptr(at, four.as_pointer()), align=1))
        halves = [builder.shuffle_vector(parts[i], parts[i + 1], lanes(range(8))) for i in (0, 2)]
        block = builder.shuffle_vector(*halves, lanes(range(16)))
        turned = builder.shuffle_vector(block, block, lanes(TRANSPOSED))
        rows, columns = (block, turned) if transposed else (turned, block)
        pointer = builder.inttoptr(target, columns.type.as_pointer())
        builder.store(columns, pointer, align=1)
        wide = builder.sext(rows, ir.VectorType(index, 16))
        for i in range(4):
            row = builder.shuffle_vector(wide, wide, lanes(range(4 * i, 4 * i + 4)))
            total = builder.add(total, row)
        return total

    return sums(types.int64, types.int64, types.int64, sums), codegen


@intrinsic
def pack_quad_rows(typingctx: Any, source: Any, step: Any, target: Any, sums: Any) -> Any:
    """Store rows r0 .. r3 (int8), `step` bytes apart at `source`, as columns; sums i32x4."""
    return _quad(transposed=True)


@intrinsic
def pack_quad_columns(typingctx: Any, source: Any, step: Any, target: Any, sums: Any) -> Any:
    """Store columns (int8), `step` bytes apart at `source`, one after the other; sums i32x4."""
    return _quad(transposed=False)
