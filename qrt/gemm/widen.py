"""Rows of activations as int16, for tiles that multiply pairs of words.

A tile would widen every dword once per panel and step, in competition with its multiplications. So
the driver does it once per tile of rows, into a scratch in L1, one tap after the other: then a
product has one tap, and a dword is a pair of activations that a load broadcasts for nothing.
"""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import helper, intrinsic
from qrt.simd.memory import as_i64

_BLOCK = 16  # bytes widened at once


def words_nbytes(taps: int, groups: int, mr: int) -> int:
    """Bytes of mr widened rows: two for each of the four of a dot group."""
    return mr * taps * groups * 8


def _build_widen(module: Any, name: str) -> Any:
    """LLVM function (table, step, taps, nbytes, out): `taps` pieces of `nbytes`, one by one.

    `table` holds the address of each piece, `step` bytes apart; nbytes is a positive multiple of 4.
    """
    from llvmlite import ir

    from qrt.gemm.tile import I8, I16, I64, const, load, store

    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 5), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    table, step, taps, nbytes, out = fn.args
    entry, head, blocks, middle, dwords, tail, end = (
        fn.append_basic_block(n)
        for n in ("entry", "tap", "blocks", "middle", "dwords", "tail", "end")
    )

    def copy(b: Any, source: Any, at: Any, to: Any, count: int) -> Any:
        """Widen `count` bytes; returns the address behind what was stored."""
        narrow = load(b, b.add(source, at), ir.VectorType(I8, count), 1)
        store(b, b.zext(narrow, ir.VectorType(I16, count)), to, 2)
        return b.add(to, const(2 * count))

    b = ir.IRBuilder(entry)
    whole = b.and_(nbytes, const(-_BLOCK))
    b.branch(head)

    b = ir.IRBuilder(head)
    tap, slot, to0 = b.phi(I64), b.phi(I64), b.phi(I64)
    source = load(b, slot, I64, 8)
    b.cbranch(b.icmp_signed(">", whole, const(0)), blocks, middle)

    b = ir.IRBuilder(blocks)
    i, to = b.phi(I64), b.phi(I64)
    to_next = copy(b, source, i, to, _BLOCK)
    i_next = b.add(i, const(_BLOCK))
    b.cbranch(b.icmp_signed("<", i_next, whole), blocks, middle)
    for phi, first, following in ((i, const(0), i_next), (to, to0, to_next)):
        phi.add_incoming(first, head)
        phi.add_incoming(following, blocks)

    b = ir.IRBuilder(middle)
    to1 = b.phi(I64)
    to1.add_incoming(to0, head)
    to1.add_incoming(to_next, blocks)
    b.cbranch(b.icmp_signed("<", whole, nbytes), dwords, tail)

    b = ir.IRBuilder(dwords)
    i, to = b.phi(I64), b.phi(I64)
    to_next = copy(b, source, i, to, 4)
    i_next = b.add(i, const(4))
    b.cbranch(b.icmp_signed("<", i_next, nbytes), dwords, tail)
    for phi, first, following in ((i, whole, i_next), (to, to1, to_next)):
        phi.add_incoming(first, middle)
        phi.add_incoming(following, dwords)

    b = ir.IRBuilder(tail)
    to2 = b.phi(I64)
    to2.add_incoming(to1, middle)
    to2.add_incoming(to_next, dwords)
    tap_next, slot_next = b.add(tap, const(1)), b.add(slot, step)
    b.cbranch(b.icmp_signed("<", tap_next, taps), head, end)
    for phi, first, following in (
        (tap, const(0), tap_next),
        (slot, table, slot_next),
        (to0, out, to2),
    ):
        phi.add_incoming(first, entry)
        phi.add_incoming(following, tail)
    ir.IRBuilder(end).ret_void()
    return fn


@intrinsic
def widen_pieces(typingctx, table, step, taps, nbytes, out):  # type: ignore[no-untyped-def]
    """`_build_widen`'s function -> 0, all int64."""
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        from llvmlite import ir

        name = "qrt_widen_pieces"
        fn = builder.module.globals.get(name) or _build_widen(builder.module, name)
        builder.call(fn, args)
        return ir.Constant(ir.IntType(64), 0)

    return types.int64(*[types.int64] * 5), codegen


@helper
def widen_rows(rows, mr, taps, m, groups, table, out):  # type: ignore[no-untyped-def]
    """Widen m rows to `out`, the pointers of which are int64[taps][mr] at `rows`.

    Returns `table`, int64[mr]: where each widened row starts; those from m on repeat the last.
    """
    starts = as_i64(table)
    row_nbytes = taps * groups * 8
    if row_nbytes > 0:
        for r in range(m):
            widen_pieces(rows + r * 8, mr * 8, taps, groups * 4, out + r * row_nbytes)
    for r in range(mr):
        starts[r] = out + (r if r < m else m - 1) * row_nbytes
    return table
