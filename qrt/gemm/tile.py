"""One generator of micro-kernels: MR x NR tiles of sums of products with a fused epilogue.

Sums of u8 x s8 are exact in int32; those of float32 are one chain of fused multiply-adds for each
output, in the order of tap and k, where the four bytes of a dot group are one value.

A tile is an LLVM function built here for a family of dot instructions (`Dot`) and an epilogue. It
reads MR rows of activations through pointers (one set per tap of a convolution, so no im2col), one
packed panel of weights, and writes MR x NR outputs. Arguments, all int64 unless said:

    rows      address of int64[taps][MR]: where each row starts for each tap
    taps, groups    number of taps; dot groups of KR bytes per tap
    panel     address of the packed weights of these NR columns
    columns   address of the panel's column parameters (see `pack.py`): bias i32, multiplier f32,
              -w_zero_point i32, float bias f32: four arrays of NR, in the panel's column order
    sums      address of int32 row sums (a per output row), or 0 when all w_zero_point are 0
    out, ldc  address of the first output, bytes from row to row
    m, n      valid rows and columns (m <= MR, n <= NR)
    limits    address of int32[4]: y_zero_point, qmin, qmax, unused
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
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
ARGUMENTS = (
    "rows",
    "taps",
    "groups",
    "panel",
    "columns",
    "sums",
    "out",
    "ldc",
    "m",
    "n",
    "limits",
)


@dataclass(frozen=True)
class Dot:
    """How a family multiplies: lanes of sums per vector, KR bytes per group, its instructions.

    `expand(b, dword)` turns four activation bytes (i32) into operands, `weights(b, pointer)` loads
    one vector's worth of a group of weights, `step(b, acc, operands, weights)` adds the products.
    `weight_nbytes` is what one lane's group of four weights takes in a panel. A family whose
    instructions pick a dword out of a register says in `block(b, address)` how to load the operands
    of `block_groups` groups at once; what is left of a row goes through `expand`. One lane sums in
    `sum_type`; `chains` sums in flight keep the units of the instruction busy: a tile with fewer
    outputs adds its groups to as many copies of them in turn. `tune` is the CPU whose pipes LLVM
    orders the instructions for, by its name; "" leaves that to the target.

    An instruction of `matrices` multiplies two rows by two columns, two groups deep: `block` gets
    the addresses of two rows, `expand` 8 bytes of them, or 4 of the last group, and both give
    operands of two groups. `octets` and `weights` load the weights of a vector's columns, two by
    two, of two groups or of the last one. Lines 2i and 2i + 1 of the sums then hold rows 2i and
    2i + 1 of the first two columns of a vector, and of the other two.
    """

    lanes: int
    weight_nbytes: int
    features: tuple[str, ...]
    expand: Callable[[Any, Any], Any]
    weights: Callable[[Any, Any], Any]
    step: Callable[[Any, Any, Any, Any], Any]
    block: Callable[[Any, Any], list[Any]] | None = None
    block_groups: int = 1
    sum_type: Any = I32
    chains: int = 8  # a latency of 4, two a cycle
    matrices: bool = False
    octets: Callable[[Any, Any], Any] | None = None
    tune: str = ""


KR = 4  # bytes of an activation dword; every family's group


def build_tile(module: Any, name: str, dot: Dot, mr: int, nv: int, epilogue: Any) -> Any:
    """LLVM function `name` in `module`: an mr x (nv * lanes) tile of `dot` ending in `epilogue`.

    Sums begin with the first array of `columns`, the bias; floats have no weight zero points.
    Groups go by in steps of several where the family's blocks or few outputs want it (`_steps`),
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

    entry = fn.append_basic_block("entry")
    tap_head = fn.append_basic_block("tap")
    done = fn.append_basic_block("done")

    b = ir.IRBuilder(entry)
    bias = [
        load(b, b.add(arg["columns"], const(4 * dot.lanes * v)), vec) for v in range(nv)
    ]
    lines = mr + mr % 2 if dot.matrices else mr
    steps = _steps(dot, lines * nv)
    first = [_first_line(b, dot, line, bias) for line in range(lines)]
    span = b.mul(arg["groups"], const(KR))
    spans = [b.and_(span, const(-KR * step)) for step, _ in steps[:-1]] + [span]
    no_work = b.icmp_signed("==", b.mul(arg["taps"], arg["groups"]), const(0))
    b.cbranch(no_work, done, tap_head)

    tb = ir.IRBuilder(tap_head)
    tap = tb.phi(I64)
    panel0 = tb.phi(I64)
    acc0 = [[tb.phi(vec) for _ in range(nv)] for _ in range(lines)]
    tap_rows = tb.add(arg["rows"], tb.mul(tap, const(8 * mr)))
    rows = [load(tb, tb.add(tap_rows, const(8 * r)), I64, 8) for r in range(mr)]
    state = (const(0), panel0, acc0)
    skips = len(steps) > 1
    for (step, copies), stop in zip(steps, spans, strict=True):
        state = _walk_groups(tb, fn, dot, step, copies, rows, state, stop, skips=skips)
    panel_next, out = state[1:]
    tap_next = tb.add(tap, const(1))
    tap_tail = tb.block
    tb.cbranch(tb.icmp_signed("<", tap_next, arg["taps"]), tap_head, done)
    tap.add_incoming(const(0), entry)
    tap.add_incoming(tap_next, tap_tail)
    panel0.add_incoming(arg["panel"], entry)
    panel0.add_incoming(panel_next, tap_tail)

    db = ir.IRBuilder(done)
    sums = [[db.phi(vec) for _ in range(nv)] for _ in range(lines)]
    for r, v in product(range(lines), range(nv)):
        for phi in (acc0[r][v], sums[r][v]):
            phi.add_incoming(first[r][v], entry)
            phi.add_incoming(out[r][v], tap_tail)
    sums = _rows_of_lines(db, dot, sums)[:mr]
    if dot.sum_type is I32:
        sums = _subtract_weight_zero_points(db, fn, arg, sums, dot.lanes, nr)
    epilogue(db, fn, arg, sums, dot.lanes)
    db.ret_void()
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


def _steps(dot: Dot, outputs: int) -> list[tuple[int, int]]:
    """How a tile of `outputs` vectors walks groups: (groups at once, copies of its sums), the last
    takes what is left one by one.

    No more than a block of four groups at once, for short rows. Sums of floats have one order, so
    they have no copies.
    """
    copies = 1
    depth = 2 if dot.matrices else 1
    most = dot.chains if dot.sum_type is I32 else 1
    while copies * depth < 4 and 2 * copies * outputs <= most:
        copies *= 2
    counts = (max(dot.block_groups, copies * depth), depth, 1)
    return [(n, copies if n == counts[0] else 1) for n in sorted(set(counts), reverse=True)]


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


def _walk_groups(
    b: Any,
    fn: Any,
    dot: Dot,
    count: int,
    copies: int,
    rows: list[Any],
    state: tuple[Any, Any, Any],
    stop: Any,
    *,
    skips: bool,
) -> tuple[Any, Any, list[list[Any]]]:
    """Dot groups, `count` a step, until k is `stop`; `state` and the result are (k, panel, acc).

    Leaves `b` behind the loop. Group g of a step adds to copy g % copies of the sums. The loop
    `skips` when there is nothing to walk.
    """
    k0, panel0, acc0 = state
    mr, nv = len(acc0), len(acc0[0])
    vec = acc0[0][0].type
    group_nbytes = nv * dot.lanes * dot.weight_nbytes
    zeros = [[ir.Constant(vec, [0] * dot.lanes)] * nv for _ in range(mr)]
    starts = [acc0] + [zeros] * (copies - 1)
    before = b.block
    loop, after = fn.append_basic_block("k"), fn.append_basic_block("k_end")
    if skips:
        b.cbranch(b.icmp_signed("<", k0, stop), loop, after)
    else:
        b.branch(loop)

    b.position_at_end(loop)
    k = b.phi(I64)
    panel = b.phi(I64)
    acc = [[[b.phi(vec) for _ in range(nv)] for _ in range(mr)] for _ in range(copies)]
    out: list[list[list[Any]]] = [[list(row) for row in copy] for copy in acc]
    multiply = _multiply_matrices if dot.matrices else _multiply_rows
    multiply(b, dot, count, [b.add(row, k) for row in rows], panel, out)
    k_next = b.add(k, const(KR * count))
    panel_next = b.add(panel, const(count * group_nbytes))
    b.cbranch(b.icmp_signed("<", k_next, stop), loop, after)

    b.position_at_end(after)

    def merge(phi: Any, first: Any, following: Any) -> Any:
        phi.add_incoming(first, before)
        phi.add_incoming(following, loop)
        if not skips:
            return following
        end = b.phi(phi.type)
        end.add_incoming(first, before)
        end.add_incoming(following, loop)
        return end

    ends = [merge(k, k0, k_next), merge(panel, panel0, panel_next)]
    merged = [
        [[merge(acc[c][r][v], starts[c][r][v], out[c][r][v]) for v in range(nv)] for r in range(mr)]
        for c in range(copies)
    ]
    while len(merged) > 1:
        half = len(merged) // 2
        merged = [
            [[b.add(x, y) for x, y in zip(*pair, strict=True)] for pair in zip(p, q, strict=True)]
            for p, q in zip(merged[:half], merged[half:], strict=True)
        ]
    return ends[0], ends[1], merged[0]


def _multiply_rows(
    b: Any, dot: Dot, count: int, rows: list[Any], panel: Any, out: list[list[list[Any]]]
) -> None:
    """`count` groups at the addresses `rows`: out[copy][row][vector] gains its products."""
    nv = len(out[0][0])
    vector_nbytes = dot.lanes * dot.weight_nbytes
    blocks = []
    if dot.block and count == dot.block_groups:
        blocks = [dot.block(b, row) for row in rows]
    for g in range(count):
        at = b.add(panel, const(g * nv * vector_nbytes))
        weights = [dot.weights(b, b.add(at, const(v * vector_nbytes))) for v in range(nv)]
        sums = out[g % len(out)]
        for r, row in enumerate(rows):
            if blocks:
                operands = blocks[r][g]
            else:
                operands = dot.expand(b, load(b, b.add(row, const(KR * g)), I32, 1))
            sums[r] = [dot.step(b, sums[r][v], operands, weights[v]) for v in range(nv)]


def _multiply_matrices(
    b: Any, dot: Dot, count: int, rows: list[Any], panel: Any, out: list[list[list[Any]]]
) -> None:
    """`_multiply_rows` two by two: pairs of groups, or the last one."""
    assert dot.block and dot.octets
    nv = len(out[0][0])
    depth = min(count, 2)
    vector_nbytes = depth * dot.lanes * dot.weight_nbytes
    pairs = [[rows[r], rows[min(r + 1, len(rows) - 1)]] for r in range(0, len(rows), 2)]
    load_weights = dot.octets if depth == 2 else dot.weights
    if count == dot.block_groups:
        blocks = [dot.block(b, pair) for pair in pairs]
    else:
        head = I64 if depth == 2 else I32
        blocks = [[dot.expand(b, [load(b, row, head, 1) for row in pair])] for pair in pairs]
    for g in range(count // depth):
        at = b.add(panel, const(g * nv * vector_nbytes))
        sums = out[g % len(out)]
        for v in range(nv):
            low, high = load_weights(b, b.add(at, const(v * vector_nbytes)))
            for i, operands in enumerate(blocks):
                sums[2 * i][v] = dot.step(b, sums[2 * i][v], operands[g], low)
                sums[2 * i + 1][v] = dot.step(b, sums[2 * i + 1][v], operands[g], high)


def need_features(context: Any, fn: Any, features: tuple[str, ...]) -> None:
    """Give `fn` the features (qrt names) that the compiled target lacks, so that LLVM can select.

    `context` is numba's; the attribute is a free string, which llvmlite's set does not list.
    """
    attribute = context.codegen().target.attribute_for(features)
    if attribute:
        set.add(fn.attributes, f'"target-features"="{attribute}"')


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
    last = cb.sub(arg["m"], const(1))
    for r, row in enumerate(acc):
        r_safe = cb.select(cb.icmp_signed("<", const(r), arg["m"]), const(r), last)
        s = splat(cb, load(cb, cb.add(arg["sums"], cb.mul(r_safe, const(4))), I32), lanes)
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


def const(value: int, ty: Any = I64) -> Any:
    """An integer constant."""
    return ir.Constant(ty, value)


def load(b: Any, address: Any, ty: Any, align: int = 4) -> Any:
    """Load `ty` from an int64 address."""
    return b.load(b.inttoptr(address, ty.as_pointer()), align=align)


def store(b: Any, value: Any, address: Any, align: int = 1) -> None:
    """Store `value` at an int64 address."""
    b.store(value, b.inttoptr(address, value.type.as_pointer()), align=align)


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
