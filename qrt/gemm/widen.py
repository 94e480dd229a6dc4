"""Rows of activations as int16, for tiles that multiply pairs of words.

A tile would widen every dword once per panel and step, in competition with its multiplications. So
the driver does it once per tile of rows, into a scratch in L1, one tap after the other: then a
product has one tap, and a dword is a pair of activations that a load broadcasts for nothing.
"""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import helper, intrinsic
from qrt.simd.memory import as_i64

BLOCK = 16  # bytes widened at once; the last block of a piece reads and writes past its end


@helper
def words_nbytes(taps, groups, mr):  # type: ignore[no-untyped-def]
    """Bytes of mr widened rows, two for each of the two of a dot group, and the last overrun."""
    return mr * taps * groups * 4 + 2 * BLOCK


def _build_widen(module: Any, name: str) -> Any:
    """LLVM function (table, step, offsets, base, taps, nbytes, out): pieces of `nbytes` in order.

    Piece t of `taps` starts at base + offsets[t] + the int64 at table + t * step; nbytes is
    positive. The next piece overwrites what a last block wrote too much.
    """
    from llvmlite import ir

    from qrt.gemm.emit import I8, I16, I64, const, load, store

    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 7), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    table, step, offsets, base, taps, nbytes, out = fn.args
    entry, head, blocks, tail, end = (
        fn.append_basic_block(n) for n in ("entry", "tap", "blocks", "tail", "end")
    )
    ir.IRBuilder(entry).branch(head)

    b = ir.IRBuilder(head)
    tap, slot, to = b.phi(I64), b.phi(I64), b.phi(I64)
    offset = load(b, b.add(offsets, b.mul(tap, const(8))), I64, 8)
    source = b.add(b.add(base, offset), load(b, slot, I64, 8))
    b.branch(blocks)

    b = ir.IRBuilder(blocks)
    i = b.phi(I64)
    narrow = load(b, b.add(source, i), ir.VectorType(I8, BLOCK), 1)
    words = b.zext(narrow, ir.VectorType(I16, BLOCK))
    store(b, words, b.add(to, b.mul(i, const(2))), 2)
    i_next = b.add(i, const(BLOCK))
    b.cbranch(b.icmp_signed("<", i_next, nbytes), blocks, tail)
    i.add_incoming(const(0), head)
    i.add_incoming(i_next, blocks)

    b = ir.IRBuilder(tail)
    tap_next = b.add(tap, const(1))
    for phi, first, following in (
        (tap, const(0), tap_next),
        (slot, table, b.add(slot, step)),
        (to, out, b.add(to, b.mul(nbytes, const(2)))),
    ):
        phi.add_incoming(first, entry)
        phi.add_incoming(following, tail)
    b.cbranch(b.icmp_signed("<", tap_next, taps), head, end)
    ir.IRBuilder(end).ret_void()
    return fn


@intrinsic
def widen_pieces(  # type: ignore[no-untyped-def]
    typingctx, table, step, offsets, base, taps, nbytes, out
):
    """`_build_widen`'s function -> 0, all int64."""
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        from llvmlite import ir

        name = "qrt_widen_pieces"
        fn = builder.module.globals.get(name) or _build_widen(builder.module, name)
        builder.call(fn, args)
        return ir.Constant(ir.IntType(64), 0)

    return types.int64(*[types.int64] * 7), codegen


@helper
def widen_rows(  # type: ignore[no-untyped-def]
    rows, row_step, offsets, base, mr, taps, m, groups, table, out
):
    """Widen m rows, which `tile.py` says where to find, to `out`.

    Returns `table`, int64[mr]: where each widened row starts; those from m on repeat the last. It
    may be `rows`.
    """
    row_nbytes = taps * groups * 4
    if row_nbytes > 0:
        for r in range(m):
            widen_pieces(
                rows + r * 8, row_step, offsets, base, taps, groups * 2, out + r * row_nbytes
            )
    starts = as_i64(table)
    for r in range(mr):
        starts[r] = out + (r if r < m else m - 1) * row_nbytes
    return table
