"""Generator of tiles over few-bit weights in blocks: they stay packed until they are in registers.

Integers (`build_s8`): for each block, in order, the exact int32 sum of q_x * (q_w - zero_point);
then acc = fma(float32(sum), x_scale * w_scale, acc), from +0 on. Floats (`build_f32`): for each k,
in order, acc = fma(x, (float32(q_w) - zero_point) * w_scale, acc), from +0 on. At the end of both,
y = acc + bias. Every step is rounded once, so no bit depends on tiles, CPU or threads.

Arguments of a tile, all int64 (addresses, bytes or counts):

    x, x_step     first row of activations, bytes from row to row
    x_scales      float32 [row][blocks], integers only
    x_sums        int32 [row][blocks]: -(sum of a block's q_x), integers only
    panel         [block][group][vector] dwords of 32 / bits weights, each block followed by a
                  float32 scale for every column
    zero_points   [block][column] of the panel: uint8 for integers, float32 for floats; 0: all are
                  2 ** (bits - 1)
    bias          float32 [column]
    out, ldc      first output, bytes from row to row
    m, n          valid rows and columns
    blocks, block their number, and weights of one (a multiple of 16)
    k             inputs; only floats need to know where the last block ends
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from llvmlite import ir

from qrt.gemm.dots import splat_const
from qrt.gemm.emit import F32, I8, I32, I64, const, load, splat
from qrt.gemm.epilogue import store_f32
from qrt.gemm.nbits_dots import NBITS_FAMILIES
from qrt.gemm.nbits_table import GROUP_BITS
from qrt.simd.fma import hardware_fma

ARGUMENTS = (
    "x",
    "x_step",
    "x_scales",
    "x_sums",
    "panel",
    "zero_points",
    "bias",
    "out",
    "ldc",
    "m",
    "n",
    "blocks",
    "block",
    "k",
)
CHUNK = 32  # weights of a block that a step of the integer loop takes, as long as it has so many
Vectors = list[list[Any]]


def build(module: Any, name: str, family: str, types: str, bits: int, lanes: int, mr: int,
          nv: int) -> Any:  # fmt: skip
    """LLVM function `name` in `module`: the tile of mr rows and nv vectors."""
    fnty = ir.FunctionType(ir.VoidType(), [I64] * len(ARGUMENTS))
    fn = ir.Function(module, fnty, name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    arg = dict(zip(ARGUMENTS, fn.args, strict=True))
    for key, value in arg.items():
        value.name = key
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    last = b.sub(arg["m"], const(1))
    # rows from m on repeat the last
    valid = [
        const(0) if r == 0 else b.select(b.icmp_signed("<", const(r), arg["m"]), const(r), last)
        for r in range(mr)
    ]
    walk = _walk_s8(family, bits) if types == "s8" else _walk_f32(bits)
    acc = walk(b, fn, arg, valid, lanes, nv)
    floats = ir.VectorType(F32, lanes)
    biases = [load(b, b.add(arg["bias"], const(4 * lanes * v)), floats) for v in range(nv)]
    sums = [[b.fadd(a, c) for a, c in zip(row, biases, strict=True)] for row in acc]
    store_f32(b, fn, arg, sums, lanes)
    b.ret_void()
    return fn


def build_dispatch(module: Any, name: str, tiles: dict[int, Any]) -> Any:
    """LLVM function `name` (height, *ARGUMENTS) that calls one of `tiles`, by height."""
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * (1 + len(ARGUMENTS))), name)
    fn.linkage = "internal"
    fn.attributes.add("alwaysinline")
    height, *arguments = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    nothing = fn.append_basic_block("nothing")
    switch = b.switch(height, nothing)
    b.position_at_end(nothing)
    b.ret_void()
    for mr, tile in tiles.items():
        case = fn.append_basic_block(f"tile{mr}")
        switch.add_case(const(mr), case)
        b.position_at_end(case)
        b.call(tile, arguments)
        b.ret_void()
    return fn


class _Loop:
    """A loop `while at < stop` around what a caller emits; state goes round in phis.

    `skips` when there may be nothing to do.
    """

    def __init__(self, b: Any, fn: Any, at: Any, stop: Any, state: Sequence[Any], *, skips: bool
                 ) -> None:  # fmt: skip
        self.b, self.stop, self.skips = b, stop, skips
        self.first = [at, *state]
        self.before = b.block
        self.body, self.after = fn.append_basic_block("loop"), fn.append_basic_block("after")
        if skips:
            b.cbranch(b.icmp_signed("<", at, stop), self.body, self.after)
        else:
            b.branch(self.body)
        b.position_at_end(self.body)
        self.phis = [b.phi(v.type) for v in self.first]
        self.at, *self.state = self.phis

    def close(self, at: Any, state: Sequence[Any]) -> list[Any]:
        """End a turn with the next `at` and state; gives both as they are behind the loop."""
        b = self.b
        following = [at, *state]
        tail = b.block
        b.cbranch(b.icmp_signed("<", at, self.stop), self.body, self.after)
        b.position_at_end(self.after)
        for phi, first, value in zip(self.phis, self.first, following, strict=True):
            phi.add_incoming(first, self.before)
            phi.add_incoming(value, tail)
        if not self.skips:
            return following
        ends = []
        for first, value in zip(self.first, following, strict=True):
            end = b.phi(value.type)
            end.add_incoming(first, self.before)
            end.add_incoming(value, tail)
            ends.append(end)
        return ends


def _flat(rows: Vectors) -> list[Any]:
    return [v for row in rows for v in row]


def _rows(flat: Sequence[Any], nv: int) -> Vectors:
    return [list(flat[i : i + nv]) for i in range(0, len(flat), nv)]


def _choose(b: Any, fn: Any, condition: Any, yes: Callable[[], list[Any]], no: list[Any]
            ) -> list[Any]:  # fmt: skip
    """What `yes` emits and gives where `condition` holds, else `no`."""
    before = b.block
    some, after = fn.append_basic_block("given"), fn.append_basic_block("chosen")
    b.cbranch(condition, some, after)
    b.position_at_end(some)
    given = yes()
    end = b.block
    b.branch(after)
    b.position_at_end(after)
    chosen = []
    for one, other in zip(given, no, strict=True):
        phi = b.phi(one.type)
        phi.add_incoming(one, end)
        phi.add_incoming(other, before)
        chosen.append(phi)
    return chosen


def _walk_s8(family: str, bits: int) -> Callable[..., Vectors]:
    dot = NBITS_FAMILIES[family]
    offset = dot.offset(bits)
    center = (1 << bits - 1) - offset
    planes = 8 // bits
    per_group = GROUP_BITS // bits

    def walk(b: Any, fn: Any, arg: dict[str, Any], valid: list[Any], lanes: int, nv: int
             ) -> Vectors:  # fmt: skip
        ints, floats = ir.VectorType(I32, lanes), ir.VectorType(F32, lanes)
        octets = ir.VectorType(I8, lanes)
        nr = nv * lanes
        x = [b.add(arg["x"], b.mul(arg["x_step"], r)) for r in valid]
        rows = [b.mul(b.mul(arg["blocks"], r), const(4)) for r in valid]
        zero = [[ir.Constant(floats, [0.0] * lanes)] * nv for _ in valid]
        asymmetric = b.icmp_signed("!=", arg["zero_points"], const(0))

        def step(at: Any, panel: Any, acc: Vectors, weights: int) -> Vectors:
            """acc with `weights` more products per column, of the activations at `at`."""
            acc = [list(row) for row in acc]
            for g, v in product(range(weights // per_group), range(nv)):
                dwords = load(b, b.add(panel, const((g * nv + v) * 4 * lanes)), ints, 4 * lanes)
                for p in range(planes):
                    w = _plane(b, dwords, bits, p)
                    for r in range(len(x)):
                        address = b.add(b.add(x[r], at), const(g * per_group + 4 * p))
                        operand = splat(b, load(b, address, I32), lanes)
                        acc[r][v] = dot.step(b, acc[r][v], operand, w, bits)
            return acc

        outer = _Loop(b, fn, const(0), arg["blocks"],
                      [const(0), arg["panel"], arg["zero_points"], *_flat(zero)],
                      skips=True)  # fmt: skip
        number = outer.at
        at, panel, zero_points, *total = outer.state
        in_row = b.mul(number, const(4))
        negated = [load(b, b.add(arg["x_sums"], b.add(row, in_row)), I32) for row in rows]
        usual = [splat(b, b.mul(s, const(center, I32)), lanes) for s in negated]

        def given() -> list[Any]:
            own = []
            for v in range(nv):
                narrow = load(b, b.add(zero_points, const(lanes * v)), octets, 1)
                own.append(b.sub(b.zext(narrow, ints), splat_const(offset, I32, lanes)))
            return [b.mul(splat(b, s, lanes), z) for s in negated for z in own]

        starts = _choose(b, fn, asymmetric, given, [s for s in usual for _ in range(nv)])
        stop = b.add(at, arg["block"])
        whole = b.add(at, b.and_(arg["block"], const(-CHUNK)))
        acc = starts
        for weights, end in ((CHUNK, whole), (CHUNK // 2, stop)):
            loop = _Loop(b, fn, at, end, [panel, *acc], skips=True)
            more = step(loop.at, loop.state[0], _rows(loop.state[1:], nv), weights)
            further = b.add(loop.state[0], const(weights * nr * bits // 8))
            at, panel, *acc = loop.close(b.add(loop.at, const(weights)), [further, *_flat(more)])
        scales = [load(b, b.add(panel, const(4 * lanes * v)), floats) for v in range(nv)]
        summed = []
        for r, (row, before) in enumerate(zip(_rows(acc, nv), _rows(total, nv), strict=True)):
            own = load(b, b.add(arg["x_scales"], b.add(rows[r], in_row)), F32)
            factors = [b.fmul(splat(b, own, lanes), s) for s in scales]
            summed += [
                hardware_fma(b, b.sitofp(a, floats), f, t)
                for a, f, t in zip(row, factors, before, strict=True)
            ]
        state = [at, b.add(panel, const(4 * nr)), b.add(zero_points, const(nr)), *summed]
        ends = outer.close(b.add(number, const(1)), state)
        return _rows(ends[4:], nv)

    return walk


def _plane(b: Any, dwords: Any, bits: int, p: int) -> Any:
    """Plane p of a vector of groups: four weights in the bytes of each lane."""
    if bits == 8:
        return dwords
    lanes = dwords.type.count
    shifted = dwords if p == 0 else b.lshr(dwords, splat_const(bits * p, I32, lanes))
    mask = int.from_bytes(bytes([(1 << bits) - 1] * 4), "little")
    return b.and_(shifted, splat_const(mask, I32, lanes))


def _walk_f32(bits: int) -> Callable[..., Vectors]:
    per_group = GROUP_BITS // bits
    center = float(1 << bits - 1)

    def walk(b: Any, fn: Any, arg: dict[str, Any], valid: list[Any], lanes: int, nv: int
             ) -> Vectors:  # fmt: skip
        ints, floats = ir.VectorType(I32, lanes), ir.VectorType(F32, lanes)
        nr = nv * lanes
        group_nbytes = 4 * nr
        x = [b.add(arg["x"], b.mul(arg["x_step"], r)) for r in valid]
        zero = [[ir.Constant(floats, [0.0] * lanes)] * nv for _ in valid]
        usual = [ir.Constant(floats, [center] * lanes)] * nv
        given = b.icmp_signed("!=", arg["zero_points"], const(0))
        weights_nbytes = b.mul(b.udiv(arg["block"], const(per_group)), const(group_nbytes))

        def fuse(dwords: Sequence[Any], shift: Any, at: Any, offsets: Sequence[Any],
                 scales: Sequence[Any], acc: Vectors) -> Vectors:  # fmt: skip
            """acc with one more product per column: x at bytes `at`, weights `shift` bits up."""
            real = []
            for v in range(nv):
                q = b.and_(b.lshr(dwords[v], shift), splat_const((1 << bits) - 1, I32, lanes))
                real.append(b.fmul(b.fsub(b.sitofp(q, floats), offsets[v]), scales[v]))
            return [
                [
                    hardware_fma(b, splat(b, load(b, b.add(start, at), F32), lanes), w, a)
                    for w, a in zip(real, row, strict=True)
                ]
                for start, row in zip(x, acc, strict=True)
            ]

        def load_groups(panel: Any) -> list[Any]:
            return [load(b, b.add(panel, const(4 * lanes * v)), ints, 4 * lanes) for v in range(nv)]

        outer = _Loop(b, fn, const(0), arg["k"],
                      [arg["panel"], arg["zero_points"], *_flat(zero)], skips=True)  # fmt: skip
        start = outer.at
        first, zero_points, *total = outer.state
        offsets = _choose(
            b, fn, given,
            lambda: [load(b, b.add(zero_points, const(4 * lanes * v)), floats) for v in range(nv)],
            usual,
        )  # fmt: skip
        behind = b.add(first, weights_nbytes)
        scales = [load(b, b.add(behind, const(4 * lanes * v)), floats) for v in range(nv)]
        after = b.add(start, arg["block"])
        stop = b.select(b.icmp_signed("<", after, arg["k"]), after, arg["k"])
        whole = b.add(start, b.and_(b.sub(stop, start), const(-per_group)))
        loop = _Loop(b, fn, start, whole, [first, *total], skips=True)
        groups = load_groups(loop.state[0])
        acc = _rows(loop.state[1:], nv)
        for j in range(per_group):
            shift = splat_const(_shift_of(j, bits), I32, lanes)
            at = b.add(b.mul(loop.at, const(4)), const(4 * j))
            acc = fuse(groups, shift, at, offsets, scales, acc)
        further = b.add(loop.state[0], const(group_nbytes))
        k, panel, *flat = loop.close(b.add(loop.at, const(per_group)), [further, *_flat(acc)])
        # what is left of the last block, one by one
        loop = _Loop(b, fn, k, stop, flat, skips=True)
        j = b.trunc(b.sub(loop.at, k), I32)
        low, high = b.and_(j, const(3, I32)), b.lshr(j, const(2, I32))
        shift = b.add(b.mul(low, const(8, I32)), b.mul(high, const(bits, I32)))
        acc = fuse(load_groups(panel), splat(b, shift, lanes), b.mul(loop.at, const(4)), offsets,
                   scales, _rows(loop.state, nv))  # fmt: skip
        _, *flat = loop.close(b.add(loop.at, const(1)), _flat(acc))
        state = [
            b.add(behind, const(4 * nr)),
            b.add(zero_points, const(4 * nr)),
            *flat,
        ]
        ends = outer.close(after, state)
        return _rows(ends[3:], nv)

    return walk


def _shift_of(j: int, bits: int) -> int:
    """Where weight j of a group lies in its dword: byte j % 4, plane j // 4."""
    return 8 * (j % 4) + bits * (j // 4)
