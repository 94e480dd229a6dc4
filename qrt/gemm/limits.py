"""What this machine reaches at most: dot products from registers alone, bytes from and to memory.

Benches divide by these. A dot loop keeps as many accumulators as a tile, in registers; what it
multiplies passes through an empty piece of assembly in every step, so that LLVM can hoist nothing
out of the loop. Every thread runs all the steps of a dot loop, but its own share of the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qrt.jit.declare import Extent, Kernel, intrinsic, kernel, slots
from qrt.simd.memory import operand
from qrt.simd.scalar import share
from qrt.simd.vectors import add_i32x16, copy_bytes, load_i32x16, splat_i32x16, store_i32x16

DOT_FIELDS = ("x", "y", "steps")
X, Y, STEPS = slots(DOT_FIELDS)
STREAM_FIELDS = ("x", "y", "nbytes", "passes")
_, _, NBYTES, PASSES = slots(STREAM_FIELDS)
FACTOR_NBYTES = 64  # room of each factor and weight that a dot loop loads before it starts
OPERAND_NBYTES = 8 * FACTOR_NBYTES
RESULT_NBYTES = 64  # one vector
THREADS = 64  # results, one each, that y has room for
GRAIN = 256  # bytes: four vectors of 64 a step


@dataclass(frozen=True)
class DotLimit:
    """A family of tiles: its instruction, and how many of each register keep it busy.

    Accumulator i gains factor[i % factors] * weight[i // factors % weights]: no two products are
    the same where the instruction does not add them itself, or LLVM would compute them once. With
    `pairs` a lane gains the products of its pair of bytes in the lower half of both, and loses
    those in the upper half.
    """

    family: str
    features: tuple[str, ...]
    accumulators: int
    factors: int
    weights: int
    lanes: int
    macs_per_lane: int
    types: tuple[str, str]  # NumPy names of what a factor and a weight are read as
    pairs: bool = False

    @property
    def is_float(self) -> bool:
        """True when it sums float32, False for int32."""
        return self.types[0] == "f4"

    @property
    def macs_per_step(self) -> int:
        """Multiply-adds of one step of the loop."""
        return self.accumulators * self.lanes * self.macs_per_lane


# registers: 26 of 32 (AVX512, NEON; 19 and products where the instruction does not add), 14 of 16
# (AVX2, SSE), 9 of 15 (scalar)
DOT_LIMITS: tuple[DotLimit, ...] = (
    DotLimit("vnni512", ("avx512", "avx512vnni"), 24, 1, 1, 16, 4, ("u1", "i1")),
    DotLimit("vnni256", ("avx2", "avxvnni"), 12, 1, 1, 8, 4, ("u1", "i1")),
    DotLimit("madd512", ("avx512",), 12, 4, 3, 16, 2, ("i2", "i2")),
    DotLimit("madd256", ("avx2",), 8, 4, 2, 8, 2, ("i2", "i2")),
    DotLimit("madd128", ("sse41",), 8, 4, 2, 4, 2, ("i2", "i2")),
    DotLimit("vnni256vl", ("avx512", "avx512vnni"), 12, 1, 1, 8, 4, ("u1", "i1")),
    DotLimit("i8mm", ("neon", "i8mm"), 24, 1, 1, 4, 4, ("u1", "i1")),
    DotLimit("dotprod", ("neon", "dotprod"), 24, 1, 1, 4, 4, ("i1", "i1")),
    DotLimit("neon", ("neon",), 16, 4, 4, 4, 4, ("i1", "i1"), pairs=True),
    DotLimit("portable", (), 4, 4, 1, 1, 1, ("i4", "i4")),
)
# the same of float32: fused multiply-adds, two a cycle with a latency of four need eight sums
FLOAT_LIMITS: tuple[DotLimit, ...] = (
    DotLimit("fma512", ("avx512", "fma"), 24, 1, 1, 16, 1, ("f4", "f4")),
    DotLimit("fma256", ("avx2", "fma"), 12, 1, 1, 8, 1, ("f4", "f4")),
    DotLimit("fmla", ("neon",), 24, 1, 1, 4, 1, ("f4", "f4")),
    # bound by its own dozen instructions: few accumulators leave it registers
    DotLimit("emulated", (), 4, 4, 1, 4, 1, ("f4", "f4")),
)


def _opaque(b: Any, value: Any, register: str) -> Any:
    """`value` after an empty piece of assembly, which may have changed it as far as LLVM knows."""
    from llvmlite import ir

    return b.asm(ir.FunctionType(value.type, [value.type]), "", f"={register},0", [value], False)


def _step(b: Any, limit: DotLimit, acc: Any, factor: Any, weight: Any) -> Any:
    """acc plus the products of one instruction (two, where it does not add by itself)."""
    from llvmlite import ir

    from qrt.gemm.dots import FAMILIES, sdot, subtract_pairs, usdot
    from qrt.gemm.emit import I8
    from qrt.gemm.float_dots import FLOAT_FAMILIES

    family = limit.family
    if limit.is_float:
        return FLOAT_FAMILIES[family].step(b, acc, factor, weight)
    on_bytes = {"i8mm": usdot, "dotprod": sdot, "neon": subtract_pairs}
    if family in on_bytes:
        octets = ir.VectorType(I8, 16)
        return on_bytes[family](b, acc, b.bitcast(factor, octets), b.bitcast(weight, octets))
    if family != "portable":
        return FAMILIES[family].step(b, acc, factor, weight)
    return b.add(acc, b.mul(factor, weight))


def build_dot_loop(module: Any, name: str, limit: DotLimit, arch: str) -> Any:
    """LLVM function (x, y, steps): `steps` times every accumulator gains its products."""
    from llvmlite import ir

    from qrt.gemm.emit import F32, I32, I64, const, load, store

    scalar = limit.lanes == 1
    sum_type = F32 if limit.is_float else I32
    element = sum_type if scalar else ir.VectorType(sum_type, limit.lanes)
    # names of the inline assembly's register classes
    register = "r" if scalar else "w" if arch == "aarch64" else "v" if limit.lanes == 16 else "x"
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 3), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    x, y, steps = fn.args
    entry, loop, end = (fn.append_basic_block(n) for n in ("entry", "loop", "end"))
    b = ir.IRBuilder(entry)
    count = limit.factors + limit.weights
    loaded = [load(b, b.add(x, const(FACTOR_NBYTES * i)), element) for i in range(count)]
    b.branch(loop)

    b = ir.IRBuilder(loop)
    step = b.phi(I64)
    acc = [b.phi(element) for _ in range(limit.accumulators)]
    carried = [b.phi(element) for _ in loaded]
    fresh = [_opaque(b, v, register) for v in carried]
    factors, weights = fresh[: limit.factors], fresh[limit.factors :]
    out = [
        _step(
            b,
            limit,
            a,
            factors[i % limit.factors],
            weights[i // limit.factors % limit.weights],
        )
        for i, a in enumerate(acc)
    ]
    following = b.add(step, const(1))
    b.cbranch(b.icmp_signed("<", following, steps), loop, end)
    zero = ir.Constant(element, None if not scalar else 0)
    for phi, initial, after in (
        (step, const(0), following),
        *((p, zero, o) for p, o in zip(acc, out, strict=True)),
        *zip(carried, loaded, fresh, strict=True),
    ):
        phi.add_incoming(initial, entry)
        phi.add_incoming(after, loop)

    b = ir.IRBuilder(end)
    add = b.fadd if limit.is_float else b.add
    total = out[0]
    for o in out[1:]:
        total = add(total, o)
    store(b, total, y, 4)
    b.ret_void()
    return fn


def _dot_loop(limit: DotLimit) -> Any:
    """Intrinsic (x, y, steps) -> 0."""

    def dot_loop(typingctx, x, y, steps):  # type: ignore[no-untyped-def]
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            from llvmlite import ir

            from qrt.gemm.emit import need_features

            arch = context.codegen().target.arch
            fn = build_dot_loop(builder.module, f"qrt_limit_{limit.family}", limit, arch)
            need_features(context, fn, limit.features)
            builder.call(fn, args)
            return ir.Constant(ir.IntType(64), 0)

        return types.int64(types.int64, types.int64, types.int64), codegen

    return intrinsic(dot_loop)


def _dot_extents(row: Mapping[str, int]) -> list[Extent]:
    if not 0 < row["steps"] < 2**40:
        raise ValueError(f"steps must be positive, got {row['steps']}")
    for name in ("x", "y"):
        if (row[name] if row[name] >= 0 else ~row[name]) % 64:
            raise ValueError(f"{name} must lie at a multiple of 64, got {row[name]}")
    return [Extent("x", OPERAND_NBYTES), Extent("y", THREADS * RESULT_NBYTES, writes=True)]


def _make_dot_kernel(limit: DotLimit) -> Kernel:
    dot_loop = _dot_loop(limit)

    def dots(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        if thread >= THREADS:
            return 0
        y = operand(row, Y, arena, constants) + thread * RESULT_NBYTES
        dot_loop(operand(row, X, arena, constants), y, row[STEPS])
        return 0

    return kernel(
        f"limit_dot_{limit.family}",
        DOT_FIELDS,
        _dot_extents,
        family="limit",
        features=limit.features,
    )(dots)


DOT_KERNELS: dict[DotLimit, Kernel] = {
    limit: _make_dot_kernel(limit) for limit in (*DOT_LIMITS, *FLOAT_LIMITS)
}


def _read_extents(row: Mapping[str, int]) -> list[Extent]:
    _check_stream(row)
    return [Extent("x", row["nbytes"]), Extent("y", THREADS * RESULT_NBYTES, writes=True)]


def _copy_extents(row: Mapping[str, int]) -> list[Extent]:
    _check_stream(row)
    return [Extent("x", row["nbytes"]), Extent("y", row["nbytes"], writes=True)]


def _check_stream(row: Mapping[str, int]) -> None:
    if not 0 <= row["nbytes"] < 2**40 or row["nbytes"] % GRAIN:
        raise ValueError(f"nbytes must be a multiple of {GRAIN}, got {row['nbytes']}")
    if not 0 < row["passes"] < 2**40:
        raise ValueError(f"passes must be positive, got {row['passes']}")


@kernel("limit_read", STREAM_FIELDS, _read_extents, family="limit")
def read_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Read x `passes` times, four vectors a step; the sum goes to y so that every load counts."""
    if thread >= THREADS:
        return 0
    start, stop = share(row[NBYTES], thread, threads, GRAIN)
    x = operand(row, X, arena, constants)
    a = splat_i32x16(0)
    b = splat_i32x16(0)
    c = splat_i32x16(0)
    d = splat_i32x16(0)
    for _ in range(row[PASSES]):
        for at in range(x + start, x + stop, GRAIN):
            a = add_i32x16(a, load_i32x16(at))
            b = add_i32x16(b, load_i32x16(at + 64))
            c = add_i32x16(c, load_i32x16(at + 128))
            d = add_i32x16(d, load_i32x16(at + 192))
    y = operand(row, Y, arena, constants) + thread * RESULT_NBYTES
    store_i32x16(y, add_i32x16(add_i32x16(a, b), add_i32x16(c, d)))
    return 0


@kernel("limit_copy", STREAM_FIELDS, _copy_extents, family="limit")
def copy_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Copy x to y `passes` times."""
    start, stop = share(row[NBYTES], thread, threads, GRAIN)
    x = operand(row, X, arena, constants)
    y = operand(row, Y, arena, constants)
    for _ in range(row[PASSES]):
        copy_bytes(x + start, y + start, stop - start)
    return 0
