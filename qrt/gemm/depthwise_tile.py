"""Micro-kernels of depthwise convolution: interleave columns, then PT pixels x one channel block.

A column is the pixels under each other that one kernel column meets. `interleave` turns it into
dot groups: the bytes of R rows of one channel lie side by side, so that one dot instruction adds R
taps of every channel. In-lane unpacks of a block of 4 * lanes channels give vectors in the order of
`order.column_order(4, lanes)`, which the packs of the epilogue undo:

    row 0: a0 a1 a2 ..   unpack bytes, then words   v0: a0 b0 c0 d0 a1 b1 c1 d1 ..(channels 0..3)
    row 1: b0 b1 b2 ..  ------------------------->  v1: channels 4..7, v2: 8..11, v3: 12..15,
    row 2, row 3                                        then the same of each 128-bit lane
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from qrt.gemm import epilogue as epilogues
from qrt.gemm.dots import flip_signs, pmaddwd, sdot, usdot, vpdpbusd
from qrt.gemm.emit import I8, I16, I32, I64, const, declare, load, store

ARGUMENTS = (
    "scratch",  # interleaved columns, at the first pixel's first column
    "pixel_step",  # bytes of scratch from pixel to pixel
    "tap_step",  # bytes of scratch from kernel column to kernel column
    "kernel_w",
    "row_groups",  # dot groups that hold the kernel's rows
    "weights",
    "columns",
    "out",
    "ldc",
    "m",
    "n",
    "limits",
)


@dataclass(frozen=True)
class DepthwiseDot:
    """Rows per dot group, lanes of int32, and how to interleave and multiply."""

    rows: int
    lanes: int
    features: tuple[str, ...]
    interleave: Callable[[Any, list[Any]], list[Any]]
    multiply: Callable[[Any, Any, Any, Any], Any]
    item: Any  # element type of the interleaved vectors

    @property
    def align(self) -> int:
        """Alignment in bytes of weights and scratch, at most a register's."""
        return min(32, 4 * self.lanes)


def build_interleave(module: Any, name: str, dot: DepthwiseDot) -> Any:
    """Function (pointer per row, step per row, scratch, scratch_step, count): `count` columns."""
    fnty = ir.FunctionType(ir.VoidType(), [I64] * (2 * dot.rows + 3))
    fn = ir.Function(module, fnty, name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    pointers, steps = fn.args[: dot.rows], fn.args[dot.rows : 2 * dot.rows]
    scratch, scratch_step, count = fn.args[2 * dot.rows :]
    entry, loop, end = (fn.append_basic_block(n) for n in ("entry", "loop", "end"))
    b = ir.IRBuilder(entry)
    b.cbranch(b.icmp_signed(">", count, const(0)), loop, end)
    b = ir.IRBuilder(loop)
    i, out = b.phi(I64), b.phi(I64)
    at = [b.phi(I64) for _ in range(dot.rows)]
    rows = [load(b, p, ir.VectorType(I8, 4 * dot.lanes), 1) for p in at]
    nbytes = 4 * dot.lanes
    for v, vector in enumerate(dot.interleave(b, rows)):
        store(b, vector, b.add(out, const(nbytes * v)), dot.align)
    following = b.add(i, const(1))
    for phi, first, after in (
        (i, const(0), following),
        (out, scratch, b.add(out, scratch_step)),
        *((p, p0, b.add(p, s)) for p, p0, s in zip(at, pointers, steps, strict=True)),
    ):
        phi.add_incoming(first, entry)
        phi.add_incoming(after, loop)
    b.cbranch(b.icmp_signed("<", following, count), loop, end)
    ir.IRBuilder(end).ret_void()
    return fn


def build_tile(
    module: Any, name: str, dot: DepthwiseDot, pixels: int, shape: tuple[int, int], epilogue: Any
) -> Any:
    """Function over ARGUMENTS: `pixels` outputs of one channel block.

    `shape` is (kernel_w, stride_w) of the tile, at dilation 1: its columns are unrolled, so that a
    column is loaded once for all the pixels that meet it; (0, 0) walks any kernel at run time.
    """
    fnty = ir.FunctionType(ir.VoidType(), [I64] * len(ARGUMENTS))
    fn = ir.Function(module, fnty, name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    arg = dict(zip(ARGUMENTS, fn.args, strict=True))
    vec = ir.VectorType(I32, dot.lanes)
    nbytes = 4 * dot.lanes
    entry, taps, rows, tail, end = (
        fn.append_basic_block(n) for n in ("entry", "taps", "rows", "tail", "end")
    )
    b = ir.IRBuilder(entry)
    bias = [load(b, b.add(arg["columns"], const(nbytes * v)), vec) for v in range(4)]
    # kernel columns that are unrolled need no loop
    kernel_w = const(1) if shape[0] else arg["kernel_w"]
    # weights lie [kernel column][row group][vector]
    column_nbytes = b.mul(arg["row_groups"], const(4 * nbytes))
    b.branch(taps)

    b = ir.IRBuilder(taps)
    kx, weights0, tap = b.phi(I64), b.phi(I64), b.phi(I64)
    acc0 = [[b.phi(vec) for _ in range(4)] for _ in range(pixels)]
    b.branch(rows)

    rb = ir.IRBuilder(rows)
    g, weights, group = rb.phi(I64), rb.phi(I64), rb.phi(I64)
    acc = [[rb.phi(vec) for _ in range(4)] for _ in range(pixels)]
    step = _step_unrolled if shape[0] else _step
    out = step(rb, dot, acc, weights, group, arg, column_nbytes, shape)
    g_next = rb.add(g, const(1))
    weights_next = rb.add(weights, const(4 * nbytes))
    group_next = rb.add(group, const(4 * nbytes))
    rb.cbranch(rb.icmp_signed("<", g_next, arg["row_groups"]), rows, tail)

    tb = ir.IRBuilder(tail)
    kx_next = tb.add(kx, const(1))
    tap_next = tb.add(tap, arg["tap_step"])
    tb.cbranch(tb.icmp_signed("<", kx_next, kernel_w), taps, end)

    for phi, first, after in (
        (kx, const(0), kx_next),
        (weights0, arg["weights"], weights_next),
        (tap, arg["scratch"], tap_next),
    ):
        phi.add_incoming(first, entry)
        phi.add_incoming(after, tail)
    for phi, first, after in (
        (g, const(0), g_next),
        (weights, weights0, weights_next),
        (group, tap, group_next),
    ):
        phi.add_incoming(first, taps)
        phi.add_incoming(after, rows)
    for p in range(pixels):
        for v in range(4):
            acc0[p][v].add_incoming(bias[v], entry)
            acc0[p][v].add_incoming(out[p][v], tail)
            acc[p][v].add_incoming(acc0[p][v], taps)
            acc[p][v].add_incoming(out[p][v], rows)
    eb = ir.IRBuilder(end)
    epilogue(eb, fn, arg, out, dot.lanes)
    eb.ret_void()
    return fn


def _items(dot: DepthwiseDot) -> Any:
    return ir.VectorType(dot.item, 4 * dot.lanes // (dot.item.width // 8))


def _step(
    b: Any, dot: DepthwiseDot, acc: Any, weights: Any, group: Any, arg: Any, _column: Any, _: Any
) -> list[list[Any]]:
    """One kernel column of one row group, for every pixel."""
    nbytes = 4 * dot.lanes
    w = [load(b, b.add(weights, const(nbytes * v)), _items(dot), dot.align) for v in range(4)]
    out = []
    at = group
    for row in acc:
        x = [load(b, b.add(at, const(nbytes * v)), _items(dot), dot.align) for v in range(4)]
        out.append([dot.multiply(b, row[v], x[v], w[v]) for v in range(4)])
        at = b.add(at, arg["pixel_step"])
    return out


def _step_unrolled(
    b: Any, dot: DepthwiseDot, acc: Any, weights: Any, group: Any, arg: Any, column: Any, shape: Any
) -> list[list[Any]]:
    """Every kernel column of one row group, a vector at a time."""
    kernel_w, stride = shape
    pixels = len(acc)
    nbytes = 4 * dot.lanes
    out = [list(row) for row in acc]
    for v in range(4):
        w = [
            load(b, b.add(at, const(nbytes * v)), _items(dot), dot.align)
            for at in (b.add(weights, b.mul(column, const(kx))) for kx in range(kernel_w))
        ]
        for j in range((pixels - 1) * stride + kernel_w):
            users = [
                ((j - kx) // stride, kx)
                for kx in range(kernel_w)
                if (j - kx) % stride == 0 and 0 <= (j - kx) // stride < pixels
            ]
            if not users:
                continue
            at = b.add(b.add(group, b.mul(arg["tap_step"], const(j))), const(nbytes * v))
            x = load(b, at, _items(dot), dot.align)
            for p, kx in users:
                out[p][v] = dot.multiply(b, out[p][v], x, w[kx])
    return out


def _unpack(b: Any, a: Any, c: Any, high: bool) -> Any:
    """Interleave the low or high halves of every 128-bit lane of a and c."""
    per_lane = 16 // (a.type.element.width // 8)
    count = a.type.count
    index = []
    for lane in range(count // per_lane):
        for i in range(per_lane // 2):
            at = lane * per_lane + i + (per_lane // 2 if high else 0)
            index += [at, count + at]
    return b.shuffle_vector(a, c, ir.Constant(ir.VectorType(I32, count), index))


def _interleave_quads(b: Any, rows: list[Any]) -> list[Any]:
    """Four rows of bytes -> four vectors of dot groups of four."""
    words = ir.VectorType(I16, rows[0].type.count // 2)
    result = []
    for high in (False, True):
        first = b.bitcast(_unpack(b, rows[0], rows[1], high), words)
        second = b.bitcast(_unpack(b, rows[2], rows[3], high), words)
        for high_word in (False, True):
            result.append(b.bitcast(_unpack(b, first, second, high_word), rows[0].type))
    return result


def _interleave_pairs(b: Any, rows: list[Any]) -> list[Any]:
    """Two rows of bytes -> four vectors of int16 pairs."""
    words = ir.VectorType(I16, rows[0].type.count // 2)
    zero = ir.Constant(rows[0].type, [0] * rows[0].type.count)
    result = []
    for high in (False, True):
        first, second = (b.bitcast(_unpack(b, r, zero, high), words) for r in rows)
        result += [_unpack(b, first, second, False), _unpack(b, first, second, True)]
    return result


def _interleave_flipped(b: Any, rows: list[Any]) -> list[Any]:
    """`_interleave_quads` of x - 128, for s8 dot products."""
    return _interleave_quads(b, [flip_signs(b, row) for row in rows])


def _widen_beside(b: Any, rows: list[Any]) -> list[Any]:
    """Two rows of 16 bytes -> four vectors: four int16 of the first row, then of the second."""
    words = [b.zext(row, ir.VectorType(I16, row.type.count)) for row in rows]
    count = rows[0].type.count
    result = []
    for first in range(0, count, 4):
        picks = [start + first + i for start in (0, count) for i in range(4)]
        result.append(b.shuffle_vector(*words, ir.Constant(ir.VectorType(I32, 8), picks)))
    return result


def _smlal(b: Any, acc: Any, x: Any, w: Any) -> Any:
    half = ir.VectorType(I16, 4)
    smull = declare(b.module, "llvm.aarch64.neon.smull.v4i32", acc.type, [half, half])
    nothing = ir.Constant(x.type, ir.Undefined)
    for first in (0, 4):
        mask = ir.Constant(ir.VectorType(I32, 4), list(range(first, first + 4)))
        halves = [b.shuffle_vector(v, nothing, mask) for v in (x, w)]
        acc = b.add(acc, b.call(smull, halves))
    return acc


def _in_order(b: Any, acc: list[Any]) -> list[Any]:
    """Four vectors of sums, in the order of in-lane unpacks, as their channels follow each other.

    What the packs of an epilogue do by themselves: quad q of the channels lies in vector q % 4, at
    its quad q // 4.
    """
    quads = acc[0].type.count // 4

    def pick(x: Any, y: Any, which: list[int]) -> Any:
        index = [4 * q + i for q in which for i in range(4)]
        return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(index)), index))

    if quads == 1:
        return acc
    v0, v1, v2, v3 = acc
    if quads == 2:
        return [pick(x, y, [q, 2 + q]) for q in range(2) for x, y in ((v0, v1), (v2, v3))]
    result = []
    for q in (0, 2):  # quads q, q + 1 of each vector
        low, high = (pick(x, y, [q, 4 + q, q + 1, 5 + q]) for x, y in ((v0, v1), (v2, v3)))
        result += [pick(low, high, [0, 1, 4, 5]), pick(low, high, [2, 3, 6, 7])]
    return result


def _scale_in_order(b: Any, fn: Any, arg: Any, acc: list[list[Any]], lanes: int) -> None:
    epilogues.scale_f32(b, fn, arg, [_in_order(b, row) for row in acc], lanes)


def builder_of(epilogue: str, features: tuple[str, ...]) -> Callable[..., None]:
    """The builder of `epilogue` for a family that needs `features`."""
    return _scale_in_order if epilogue == "f32" else epilogues.builder_of(epilogue, features)


VNNI, VEX_VNNI = ("avx512", "avx512vnni"), ("avx2", "avxvnni")
# family, lanes of a block -> how it interleaves and multiplies
DOTS = {
    ("vnni512", 16): DepthwiseDot(4, 16, VNNI, _interleave_quads, vpdpbusd, I8),
    ("vnni512", 8): DepthwiseDot(4, 8, VNNI, _interleave_quads, vpdpbusd, I8),
    ("vnni256", 8): DepthwiseDot(4, 8, VEX_VNNI, _interleave_quads, vpdpbusd, I8),
    ("madd512", 16): DepthwiseDot(2, 16, ("avx512",), _interleave_pairs, pmaddwd, I16),
    ("madd512", 8): DepthwiseDot(2, 8, ("avx512",), _interleave_pairs, pmaddwd, I16),
    ("madd256", 8): DepthwiseDot(2, 8, ("avx2",), _interleave_pairs, pmaddwd, I16),
    ("madd128", 4): DepthwiseDot(2, 4, ("sse41",), _interleave_pairs, pmaddwd, I16),
    ("i8mm", 4): DepthwiseDot(4, 4, ("neon", "i8mm"), _interleave_quads, usdot, I8),
    ("dotprod", 4): DepthwiseDot(4, 4, ("neon", "dotprod"), _interleave_flipped, sdot, I8),
    ("neon", 4): DepthwiseDot(2, 4, ("neon",), _widen_beside, _smlal, I16),
}
