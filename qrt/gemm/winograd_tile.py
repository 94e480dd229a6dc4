"""The transforms around the products of a Winograd convolution, as LLVM functions over vectors.

Written with plain vector arithmetic: LLVM has an instruction for each step on every target. The
matrices are those of `winograd.py`; sums that several rows share are formed once.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from qrt.gemm.dots import splat_const
from qrt.gemm.emit import I8, I16, I32, I64, const, load, store
from qrt.gemm.winograd import EXPONENTS, IN, INVERSE_9, OUT

# addresses and bytes, int64; `pixels` is int64[36]: where the tile's pixels lie, line by line
INPUT_ARGUMENTS = ("pixels", "to", "step", "vectors")
# sums of one vector of columns at every position, `step` bytes apart; y's pixels, `ldc` bytes
# apart, and lines, `line` bytes apart; `lines`, `m` and `n` are valid lines, pixels and columns
OUTPUT_ARGUMENTS = (
    "sums", "step", "columns", "out", "ldc", "line", "lines", "m", "n", "limits"
)  # fmt: skip


def build_input(module: Any, name: str, lanes: int) -> Any:
    """LLVM function over INPUT_ARGUMENTS: the tile's 36 transformed vectors, int16.

    Each of `vectors` times, 2 * lanes channels of 36 pixels become 2 * lanes int16 at each of 36
    positions, `step` bytes apart.
    """
    fn, arg = _function(module, name, INPUT_ARGUMENTS)
    channels = 2 * lanes
    entry, loop, end = (fn.append_basic_block(n) for n in ("entry", "loop", "end"))
    b = ir.IRBuilder(entry)
    pixels = [load(b, b.add(arg["pixels"], const(8 * i)), I64, 8) for i in range(IN * IN)]
    b.branch(loop)

    b = ir.IRBuilder(loop)
    v = b.phi(I64)
    at = b.mul(v, const(channels))
    words = ir.VectorType(I16, channels)
    half: list[list[Any]] = []  # [column][row]
    for j in range(IN):
        column = [
            b.zext(load(b, b.add(pixels[IN * i + j], at), ir.VectorType(I8, channels), 1), words)
            for i in range(IN)
        ]
        half.append(_input_rows(b, column))
    to = b.add(arg["to"], b.mul(at, const(2)))
    for i in range(IN):
        for j, value in enumerate(_input_rows(b, [half[j][i] for j in range(IN)])):
            store(b, value, b.add(to, b.mul(arg["step"], const(IN * i + j))), 2)
    following = b.add(v, const(1))
    b.cbranch(b.icmp_signed("<", following, arg["vectors"]), loop, end)
    v.add_incoming(const(0), entry)
    v.add_incoming(following, loop)
    ir.IRBuilder(end).ret_void()
    return fn


def build_output(module: Any, name: str, lanes: int, epilogue: Any) -> Any:
    """LLVM function over OUTPUT_ARGUMENTS: a tile's outputs from its sums, through `epilogue`."""
    fn, arg = _function(module, name, OUTPUT_ARGUMENTS)
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    vector = ir.VectorType(I32, lanes)
    half: list[list[Any]] = []  # [column][row]
    for j in range(IN):
        sums = [
            load(b, b.add(arg["sums"], b.mul(arg["step"], const(IN * i + j))), vector)
            for i in range(IN)
        ]
        half.append(_output_rows(b, sums))
    for i in range(OUT):
        line, after = fn.append_basic_block(f"line{i}"), fn.append_basic_block(f"after_line{i}")
        b.cbranch(b.icmp_signed("<", const(i), arg["lines"]), line, after)
        b.position_at_end(line)
        ninefold = _output_rows(b, [half[j][i] for j in range(IN)])
        acc = [[_divide(b, t, EXPONENTS[i] + EXPONENTS[j])] for j, t in enumerate(ninefold)]
        out = b.add(arg["out"], b.mul(arg["line"], const(i)))
        epilogue(b, fn, arg | {"out": out}, acc, lanes)
        b.branch(after)
        b.position_at_end(after)
    b.ret_void()
    return fn


def _function(module: Any, name: str, arguments: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * len(arguments)), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    return fn, dict(zip(arguments, fn.args, strict=True))


def _input_rows(b: Any, d: list[Any]) -> list[Any]:
    """INPUT d: six values."""
    two = splat_const(1, I16, d[0].type.count)
    four = splat_const(2, I16, d[0].type.count)
    even = b.sub(d[4], b.shl(d[2], four))
    odd = b.sub(d[3], b.shl(d[1], four))
    near = b.sub(d[4], d[2])
    twice = b.shl(b.sub(d[3], d[1]), two)
    return [
        b.add(near, b.shl(b.sub(d[0], d[2]), four)),
        b.add(even, odd),
        b.sub(even, odd),
        b.add(near, twice),
        b.sub(near, twice),
        b.sub(b.sub(d[5], d[3]), b.shl(twice, two)),
    ]


def _output_rows(b: Any, m: list[Any]) -> list[Any]:
    """OUTPUT m: four values."""
    two = splat_const(1, I32, m[0].type.count)
    four = splat_const(2, I32, m[0].type.count)
    p, q = b.add(m[1], m[2]), b.sub(m[1], m[2])
    r, s = b.add(m[3], m[4]), b.sub(m[3], m[4])
    return [
        b.add(b.add(m[0], r), b.shl(p, four)),
        b.add(b.shl(q, two), s),
        b.add(p, r),
        b.add(b.add(q, m[5]), b.shl(s, two)),
    ]


def _divide(b: Any, value: Any, exponent: int) -> Any:
    """value / (9 * 2**exponent), exact for what is that multiple of a y within LIMIT."""
    count = value.type.count
    product = b.mul(value, splat_const(INVERSE_9, I32, count))
    return b.ashr(product, splat_const(exponent, I32, count))
