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
STREAM_FIELDS = ("x", "y", "nbytes")
NBYTES = slots(STREAM_FIELDS)[2]
OPERAND_NBYTES = 128  # what a dot loop loads before it starts: weights, then activations
RESULT_NBYTES = 64  # one vector
THREADS = 64  # results, one each, that y has room for
GRAIN = 256  # bytes: four vectors of 64 a step


@dataclass(frozen=True)
class DotLimit:
    """A family of `dots.FAMILIES` (or "portable"), and how its registers are filled."""

    family: str
    features: tuple[str, ...]
    accumulators: int
    lanes: int

    @property
    def macs_per_step(self) -> int:
        """Multiply-adds of one step: a dot group of 4 per lane; the scalar row multiplies one."""
        return self.accumulators * self.lanes * (1 if self.family == "portable" else 4)


# as many accumulators as the family's tiles have; the scalar row needs two registers for each
DOT_LIMITS: tuple[DotLimit, ...] = (
    DotLimit("vnni512", ("avx512", "avx512vnni"), 24, 16),
    DotLimit("madd256", ("avx2",), 8, 8),
    DotLimit("portable", (), 4, 1),
)


def _opaque(b: Any, value: Any) -> Any:
    """`value` after an empty piece of assembly, which may have changed it as far as LLVM knows."""
    from llvmlite import ir

    register = "r" if isinstance(value.type, ir.IntType) else "v" if _is_wide(value.type) else "x"
    return b.asm(ir.FunctionType(value.type, [value.type]), "", f"={register},0", [value], False)


def _is_wide(vector: Any) -> bool:
    return int(vector.count) * int(vector.element.width) == 512


def _scalar_dot() -> Any:
    """One multiply-add: what the portable tile is made of."""
    from llvmlite import ir

    from qrt.gemm.tile import I32, Dot, load

    return Dot(
        lanes=1,
        weight_nbytes=4,
        features="",
        expand=lambda b, dword: b.and_(dword, ir.Constant(I32, 255)),
        weights=lambda b, address: load(b, address, I32),
        step=lambda b, acc, operands, weights: b.add(acc, b.mul(operands, weights)),
    )


def _build_dot_loop(module: Any, name: str, limit: DotLimit) -> Any:
    """LLVM function (x, y, steps): `steps` times every accumulator gains a dot product."""
    from llvmlite import ir

    from qrt.gemm.dots import FAMILIES
    from qrt.gemm.tile import I32, I64, const, load, store

    scalar = limit.family == "portable"
    dot = _scalar_dot() if scalar else FAMILIES[limit.family]
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 3), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    x, y, steps = fn.args
    entry, loop, end = (fn.append_basic_block(n) for n in ("entry", "loop", "end"))
    b = ir.IRBuilder(entry)
    # the scalar loop needs a factor of its own per accumulator, or one product would serve all
    counts = range(limit.accumulators if scalar else 1)
    dwords = [load(b, b.add(x, const(64 + 4 * i)), I32) for i in counts]
    operands = [_flat(dot.expand(b, dword)) for dword in dwords]
    weights = _flat(dot.weights(b, x))
    first = [ir.Constant(I32 if scalar else ir.VectorType(I32, dot.lanes), None)]
    b.branch(loop)

    b = ir.IRBuilder(loop)
    step = b.phi(I64)
    acc = [b.phi(first[0].type) for _ in range(limit.accumulators)]
    carried = [b.phi(v.type) for v in (*weights, *(v for group in operands for v in group))]
    fresh = [_opaque(b, v) for v in carried]
    w, factors = fresh[: len(weights)], fresh[len(weights) :]
    size = len(operands[0])
    out = []
    for i, a in enumerate(acc):
        at = i * size if scalar else 0
        out.append(dot.step(b, a, _same(factors[at : at + size]), _same(w)))
    following = b.add(step, const(1))
    b.cbranch(b.icmp_signed("<", following, steps), loop, end)
    starts = [*weights, *(v for group in operands for v in group)]
    for phi, initial, after in (
        (step, const(0), following),
        *((p, first[0], o) for p, o in zip(acc, out, strict=True)),
        *zip(carried, starts, fresh, strict=True),
    ):
        phi.add_incoming(initial, entry)
        phi.add_incoming(after, loop)

    b = ir.IRBuilder(end)
    total = out[0]
    for o in out[1:]:
        total = b.add(total, o)
    store(b, total, y, 4)
    b.ret_void()
    return fn


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


def _same(values: list[Any]) -> Any:
    """Undo `_flat`."""
    return tuple(values) if len(values) > 1 else values[0]


def _dot_loop(limit: DotLimit) -> Any:
    """Intrinsic (x, y, steps) -> 0."""

    def dot_loop(typingctx, x, y, steps):  # type: ignore[no-untyped-def]
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            from llvmlite import ir

            fn = _build_dot_loop(builder.module, f"qrt_limit_{limit.family}", limit)
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


DOT_KERNELS: dict[DotLimit, Kernel] = {limit: _make_dot_kernel(limit) for limit in DOT_LIMITS}


def _read_extents(row: Mapping[str, int]) -> list[Extent]:
    _check_nbytes(row)
    return [Extent("x", row["nbytes"]), Extent("y", THREADS * RESULT_NBYTES, writes=True)]


def _copy_extents(row: Mapping[str, int]) -> list[Extent]:
    _check_nbytes(row)
    return [Extent("x", row["nbytes"]), Extent("y", row["nbytes"], writes=True)]


def _check_nbytes(row: Mapping[str, int]) -> None:
    if not 0 <= row["nbytes"] < 2**40 or row["nbytes"] % GRAIN:
        raise ValueError(f"nbytes must be a multiple of {GRAIN}, got {row['nbytes']}")


@kernel("limit_read", STREAM_FIELDS, _read_extents, family="limit")
def read_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """Read x once, four vectors at a time; their sum goes to y so that every load counts."""
    if thread >= THREADS:
        return 0
    start, stop = share(row[NBYTES], thread, threads, GRAIN)
    x = operand(row, X, arena, constants)
    a = splat_i32x16(0)
    b = splat_i32x16(0)
    c = splat_i32x16(0)
    d = splat_i32x16(0)
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
    """Copy x to y."""
    start, stop = share(row[NBYTES], thread, threads, GRAIN)
    x = operand(row, X, arena, constants)
    y = operand(row, Y, arena, constants)
    copy_bytes(x + start, y + start, stop - start)
    return 0
