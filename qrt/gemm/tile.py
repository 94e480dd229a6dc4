"""One generator of micro-kernels: MR x NR tiles of sums of products with a fused epilogue.

Sums of u8 x s8 are exact in int32; those of float32 are one chain of fused multiply-adds for each
output, in the order of tap and k, where the four bytes of a dot group are one value.

A tile is an LLVM function built here for a family of dot instructions (`Dot`) and an epilogue. It
reads MR rows of activations through pointers and an offset per tap of a convolution, so no im2col,
one packed panel of weights, and writes MR x NR outputs; `tiles` times, for rows that follow each
other. Row r of tap t of tile i starts at

    base + i * tile_step + offsets[t] + int64 at (rows + t * row_step + 8 * r)

so that tiles inside of an image share one ramp of pointers, and those at its edges have pointers
per tap (`row_step` 8 * MR). Arguments, all int64 unless said:

    rows, row_step, offsets, base, tile_step    as above; offsets is the address of int64[taps]
    tiles     how many tiles; their outputs lie MR * ldc bytes apart, their row sums 4 * MR
    taps, groups    number of taps; dot groups of KR bytes per tap
    panel     address of the packed weights of these NR columns
    ahead     weights so many bytes further are fetched into L2, by families that do (`Dot`); 0
              where there is nothing to fetch
    columns   address of the panel's column parameters (see `pack.py`): bias i32, multiplier f32,
              -w_zero_point i32, float bias f32: four arrays of NR, in the panel's column order
    sums      address of int32 row sums (MR are read), or 0 when all w_zero_point are 0
    out, ldc  address of the first output, bytes from row to row
    m, n      valid rows and columns (m <= MR, n <= NR); of several tiles all rows are valid
    limits    address of int32[4]: y_zero_point, qmin, qmax, unused
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from llvmlite import ir

from qrt.gemm.emit import I32, I64, const, load, splat
from qrt.gemm.tile_groups import KR, Dot, dot_steps, walk_groups

ARGUMENTS = (
    "rows",
    "row_step",
    "offsets",
    "base",
    "tile_step",
    "tiles",
    "taps",
    "groups",
    "panel",
    "ahead",
    "columns",
    "sums",
    "out",
    "ldc",
    "m",
    "n",
    "limits",
)


def build_tile(module: Any, name: str, dot: Dot, mr: int, nv: int, epilogue: Any) -> Any:
    """LLVM function `name` in `module`: an mr x (nv * lanes) tile of `dot` ending in `epilogue`.

    Sums begin with the first array of `columns`, the bias; floats have no weight zero points.
    Groups go by in steps of several where the family's blocks or few outputs want it (`dot_steps`),
    what is left one by one.
    """
    fnty = ir.FunctionType(ir.VoidType(), [I64] * len(ARGUMENTS))
    fn = ir.Function(module, fnty, name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    if dot.tune:  # a free string, which llvmlite's set does not list
        set.add(fn.attributes, f'"tune-cpu"="{dot.tune}"')
    arg = dict(zip(ARGUMENTS, fn.args, strict=True))
    for key, value in arg.items():
        value.name = key
    vec = ir.VectorType(dot.sum_type, dot.lanes)
    nr = nv * dot.lanes

    entry, head, tap_head, done, end = (
        fn.append_basic_block(block) for block in ("entry", "tile", "tap", "done", "end")
    )
    lines = mr + mr % 2 if dot.matrices else mr
    steps = dot_steps(dot, lines * nv)
    b = ir.IRBuilder(entry)
    span = b.mul(arg["groups"], const(KR))
    spans = [b.and_(span, const(-KR * step)) for step, _ in steps[:-1]] + [span]
    no_work = b.icmp_signed("==", b.mul(arg["taps"], arg["groups"]), const(0))
    b.branch(head)

    b = ir.IRBuilder(head)
    left, base, out, row_sums = (b.phi(I64) for _ in range(4))
    bias = [
        load(b, b.add(arg["columns"], const(4 * dot.lanes * v)), vec) for v in range(nv)
    ]
    first = [_first_line(b, dot, line, bias) for line in range(lines)]
    b.cbranch(no_work, done, tap_head)

    tb = ir.IRBuilder(tap_head)
    tap, table, panel0 = (tb.phi(I64) for _ in range(3))
    acc0 = [[tb.phi(vec) for _ in range(nv)] for _ in range(lines)]
    rows = [load(tb, tb.add(table, const(8 * r)), I64, 8) for r in range(mr)]
    k0 = tb.add(base, load(tb, tb.add(arg["offsets"], tb.mul(tap, const(8))), I64, 8))
    state = (k0, panel0, acc0)
    skips = len(steps) > 1
    for (step, copies), stop in zip(steps, spans, strict=True):
        k_stop = tb.add(k0, stop)
        state = walk_groups(
            tb, fn, dot, step, copies, rows, state, k_stop, arg["ahead"], skips=skips
        )
    panel_next, acc = state[1:]
    tap_next = tb.add(tap, const(1))
    tap_tail = tb.block
    for phi, start, following in (
        (tap, const(0), tap_next),
        (table, arg["rows"], tb.add(table, arg["row_step"])),
        (panel0, arg["panel"], panel_next),
    ):
        phi.add_incoming(start, head)
        phi.add_incoming(following, tap_tail)
    tb.cbranch(tb.icmp_signed("<", tap_next, arg["taps"]), tap_head, done)

    db = ir.IRBuilder(done)
    sums = [[db.phi(vec) for _ in range(nv)] for _ in range(lines)]
    for r, v in product(range(lines), range(nv)):
        for phi in (acc0[r][v], sums[r][v]):
            phi.add_incoming(first[r][v], head)
            phi.add_incoming(acc[r][v], tap_tail)
    sums = _rows_of_lines(db, dot, sums)[:mr]
    tile_arg = arg | {"out": out, "row_sums": row_sums}
    if dot.sum_type is I32:
        sums = _subtract_weight_zero_points(db, fn, tile_arg, sums, dot.lanes, nr)
    epilogue(db, fn, tile_arg, sums, dot.lanes)
    left_next = db.sub(left, const(1))
    for phi, start, following in (
        (left, arg["tiles"], left_next),
        (base, arg["base"], db.add(base, arg["tile_step"])),
        (out, arg["out"], db.add(out, db.mul(arg["ldc"], const(mr)))),
        (row_sums, arg["sums"], db.add(row_sums, const(4 * mr))),
    ):
        phi.add_incoming(start, entry)
        phi.add_incoming(following, db.block)
    db.cbranch(db.icmp_signed(">", left_next, const(0)), head, end)
    ir.IRBuilder(end).ret_void()
    return fn


def build_dispatch(module: Any, name: str, tiles: Mapping[tuple[int, int], Any]) -> Any:
    """LLVM function `name` (height, nv, *ARGUMENTS) that calls one of `tiles`, by (height, nv)."""
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * (2 + len(ARGUMENTS))), name)
    fn.linkage = "internal"
    fn.attributes.add("alwaysinline")
    height, nv, *arguments = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    nothing = fn.append_basic_block("nothing")
    widest = 1 + max(w for _, w in tiles)
    switch = b.switch(b.add(b.mul(height, const(widest)), nv), nothing)
    b.position_at_end(nothing)
    b.ret_void()
    for (mr, w), tile in tiles.items():
        case = fn.append_basic_block(f"tile{mr}x{w}")
        switch.add_case(const(mr * widest + w), case)
        b.position_at_end(case)
        b.call(tile, arguments)
        b.ret_void()
    return fn


def _first_line(b: Any, dot: Dot, line: int, bias: list[Any]) -> list[Any]:
    """What line `line` of the sums starts with."""
    if not dot.matrices:
        return bias
    return [_pick(b, v, v, [0, 1, 0, 1] if line % 2 == 0 else [2, 3, 2, 3]) for v in bias]


def _rows_of_lines(b: Any, dot: Dot, lines: list[list[Any]]) -> list[list[Any]]:
    """Rows of sums from lines of sums."""
    if not dot.matrices:
        return lines
    rows = []
    for low, high in zip(lines[::2], lines[1::2], strict=True):
        for mask in ([0, 1, 4, 5], [2, 3, 6, 7]):
            rows.append([_pick(b, x, y, mask) for x, y in zip(low, high, strict=True)])
    return rows


def _pick(b: Any, x: Any, y: Any, lanes: list[int]) -> Any:
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def _subtract_weight_zero_points(
    b: Any, fn: Any, arg: dict[str, Any], acc: list[list[Any]], lanes: int, nr: int
) -> list[list[Any]]:
    """acc - w_zero_point * row_sum, when the tile has row sums."""
    vec = ir.VectorType(I32, lanes)
    before = b.block
    correct = fn.append_basic_block("zero_points")
    after = fn.append_basic_block("epilogue")
    b.cbranch(b.icmp_signed("!=", arg["sums"], const(0)), correct, after)
    cb = ir.IRBuilder(correct)
    negated = [
        load(cb, cb.add(arg["columns"], const(4 * (2 * nr + lanes * v))), vec)
        for v in range(len(acc[0]))
    ]
    changed = []
    for r, row in enumerate(acc):
        s = splat(cb, load(cb, cb.add(arg["row_sums"], const(4 * r)), I32), lanes)
        changed.append([cb.add(a, cb.mul(s, w)) for a, w in zip(row, negated, strict=True)])
    cb.branch(after)
    correct = cb.block
    b.position_at_end(after)
    result = []
    for old_row, new_row in zip(acc, changed, strict=True):
        row = []
        for old, new in zip(old_row, new_row, strict=True):
            phi = b.phi(vec)
            phi.add_incoming(old, before)
            phi.add_incoming(new, correct)
            row.append(phi)
        result.append(row)
    return result
