"""Square tiles transposed in registers by interleaving: log2(n) rounds of shuffles."""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import intrinsic


def _tile(size: int, nbits: int) -> Any:
    """y[i][j] = x[j][i] for size x size elements; strides in bytes from row to row.

    Each round interleaves row k with row k + size/2, lane by lane: after log2(size) rounds every
    element has moved from (j, i) to (i, j), since a round rotates the bits of (row, lane) by one.
    """
    from llvmlite import ir
    from numba import types

    element, index, word = ir.IntType(nbits), ir.IntType(32), ir.IntType(64)
    vector = ir.VectorType(element, size)
    half = size // 2
    picks = [
        ir.Constant(
            ir.VectorType(index, size),
            [start + lane // 2 + (size if lane % 2 else 0) for lane in range(size)],
        )
        for start in (0, half)
    ]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, x_stride, y, y_stride = args

        def row(base: Any, stride: Any, i: int) -> Any:
            address = builder.add(base, builder.mul(stride, ir.Constant(word, i)))
            return builder.inttoptr(address, vector.as_pointer())

        rows = [builder.load(row(x, x_stride, i), align=1) for i in range(size)]
        for _ in range(size.bit_length() - 1):
            rows = [
                builder.shuffle_vector(rows[k // 2], rows[k // 2 + half], picks[k % 2])
                for k in range(size)
            ]
        for i in range(size):
            builder.store(rows[i], row(y, y_stride, i), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def transpose_u8_16x16(typingctx: Any, x: Any, x_stride: Any, y: Any, y_stride: Any) -> Any:
    """y[i][j] = x[j][i], 16 x 16 bytes at addresses x and y."""
    return _tile(16, 8)


@intrinsic
def transpose_u32_8x8(typingctx: Any, x: Any, x_stride: Any, y: Any, y_stride: Any) -> Any:
    """y[i][j] = x[j][i], 8 x 8 words at addresses x and y."""
    return _tile(8, 32)
