"""What follows the sums of a tile: requantize to u8, scale to float32, or nothing, and store.

u8: y = clamp(round_half_even(f32(acc) * multiplier) + y_zero_point, qmin, qmax). The bias is in acc
already. Narrowing goes through the saturating packs of x86 or NEON (int32 -> int16 -> u8):
saturation only ever happens to values that the clamp would cut too. cvtps2dq needs
|acc * multiplier| < 2**31: a declared precondition of these tiles (`max_scaled`), proved from the
weights at lowering; fcvtns does the same below it. Whose instructions: the module's triple says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from llvmlite import ir

from qrt.gemm.dots import splat_const
from qrt.gemm.emit import F32, I1, I8, I16, I32, const, declare, load, splat, store
from qrt.gemm.range_tile import header_word, widen_ranges
from qrt.gemm.ranges import FACTOR, MULTIPLIES, REST, RUN, SCALE

AVX512_LANES = 16
_TO_INT = {4: "sse2.cvtps2dq", 8: "avx.cvt.ps2dq.256", 16: "avx512.mask.cvtps2dq.512"}
_PACKS = {128: "sse2.{}.128", 256: "avx2.{}", 512: "avx512.{}.512"}


def is_neon(module: Any) -> bool:
    """True where the module that is being built is for AArch64."""
    return str(module.triple).startswith("aarch64")


def requantize_u8(b: Any, fn: Any, arg: dict[str, Any], acc: list[list[Any]], lanes: int) -> None:
    """Store acc as uint8 rows."""
    nv = len(acc[0])
    nr = nv * lanes
    columns = arg["columns"]
    floats = ir.VectorType(F32, lanes)
    multipliers = [
        load(b, b.add(columns, const(4 * (nr + lanes * v))), floats) for v in range(nv)
    ]
    ints = [
        [
            _to_int(b, b.fmul(b.sitofp(a, floats), m), lanes)
            for a, m in zip(row, multipliers, strict=True)
        ]
        for row in acc
    ]
    limits = [_constant_i32(b, b.add(arg["limits"], const(4 * i))) for i in range(3)]
    zero_point = splat(b, b.trunc(limits[0], I16), 2 * lanes)
    qmin, qmax = (splat(b, b.trunc(x, I8), 4 * lanes) for x in limits[1:3])
    # the packs clamp to 0 and 255, and most layers to nothing else; most Relus have zero point 0
    centred = b.icmp_signed("==", limits[0], const(0, I32))
    lowest = b.icmp_signed("==", limits[1], const(0, I32))
    open_ended = b.and_(lowest, b.icmp_signed("==", limits[2], const(255, I32)))
    names = ("clamped", "unclamped", "shifted", "bare", "packed")
    clamped, unclamped, shifted, bare, packed = (fn.append_basic_block(name) for name in names)
    b.cbranch(open_ended, unclamped, clamped)
    b.position_at_end(unclamped)
    b.cbranch(centred, bare, shifted)
    found = []
    for block, shift, ends in (
        (clamped, zero_point, (qmin, qmax)),
        (shifted, zero_point, None),
        (bare, None, None),
    ):
        b.position_at_end(block)
        found.append((_pack_rows(b, ints, lanes, shift, ends), b.block))
        b.branch(packed)
    b.position_at_end(packed)
    rows = []
    for choices in zip(*(made for made, _ in found), strict=True):
        row = b.phi(choices[0].type)
        for value, (_, block) in zip(choices, found, strict=True):
            row.add_incoming(value, block)
        rows.append(row)
    _store_rows(b, fn, arg, rows, 1, lanes)


def _pack_rows(
    b: Any, ints: list[list[Any]], lanes: int, shift: Any | None, ends: tuple[Any, Any] | None
) -> list[Any]:
    """Rows of bytes of rounded sums: plus `shift` (int16), clamped to `ends` (bytes), if given."""
    nv = len(ints[0])
    at_once = 4 // nv  # rows whose bytes fill one vector
    rows = []
    for first in range(0, len(ints), at_once):
        group = [value for row in ints[first : first + at_once] for value in row]
        count = len(group) // nv
        group += [group[-1]] * (4 - len(group))
        halves = [_pack(b, group[i], group[i + 1], "packssdw") for i in (0, 2)]
        if shift is not None:
            halves = [_add_i16(b, half, shift) for half in halves]
        packed = _pack(b, halves[0], halves[1], "packuswb")
        if ends is not None:
            packed = _minmax(b, _minmax(b, packed, ends[0], "umax"), ends[1], "umin")
        rows += [_row_of(b, packed, i, nv, lanes) for i in range(count)]
    return rows


def _constant_i32(b: Any, address: Any) -> Any:
    """An int32 that no kernel writes, so that LLVM may read it before a loop that stores."""
    value = load(b, address, I32)
    value.set_metadata("invariant.load", b.module.add_metadata([]))
    return value


def scale_f32(b: Any, fn: Any, arg: dict[str, Any], acc: list[list[Any]], lanes: int) -> None:
    """Store f32(acc) * scale + float_bias; the multipliers of the panel are the scales.

    Two roundings: the product's and the sum's. Sums that are floats already stay as they are.
    Where `limits` is a record of a range (`ranges.py`), the outputs are taken into it.
    """
    rows = _scaled(b, arg, acc, lanes)
    flag = header_word(b, arg, RUN, I32)
    ranged, after = fn.append_basic_block("ranged"), fn.append_basic_block("scaled")
    b.cbranch(b.icmp_signed("!=", flag, const(0, I32)), ranged, after)
    b.position_at_end(ranged)
    widen_ranges(b, fn, arg, rows, ("low", "high"))
    b.branch(after)
    b.position_at_end(after)
    store_f32(b, fn, arg, rows, lanes)


def quantize_codes(
    b: Any, fn: Any, arg: dict[str, Any], acc: list[list[Any]], lanes: int, *, fused: bool = False
) -> None:
    """Store clamp(round_half_even(y / scale), 0, 255) of y = f32(acc) * scale + float_bias.

    scale is that of the record at `limits`, and y is taken into its `high`. `fused`: the CPU adds
    products in one instruction.
    """
    rows = _scaled(b, arg, acc, lanes)
    widen_ranges(b, fn, arg, rows, ("high",))
    # NaN has an int32 of 0 or less
    ints = [[_to_int(b, q, lanes) for q in row] for row in _divided(b, fn, arg, rows, fused)]
    _store_rows(b, fn, arg, _pack_rows(b, ints, lanes, None, None), 1, lanes)


def _scaled(b: Any, arg: dict[str, Any], acc: list[list[Any]], lanes: int) -> list[list[Any]]:
    """f32(acc) * scale + float_bias."""
    nv = len(acc[0])
    nr = nv * lanes
    floats = ir.VectorType(F32, lanes)
    at = arg["columns"]
    scales = [load(b, b.add(at, const(4 * (nr + lanes * v))), floats) for v in range(nv)]
    biases = [load(b, b.add(at, const(4 * (3 * nr + lanes * v))), floats) for v in range(nv)]
    return [
        [
            b.fadd(b.fmul(a if a.type == floats else b.sitofp(a, floats), s), f)
            for a, s, f in zip(line, scales, biases, strict=True)
        ]
        for line in acc
    ]


def _divided(
    b: Any, fn: Any, arg: dict[str, Any], rows: list[list[Any]], fused: bool
) -> list[list[Any]]:
    """rows / scale, at most 255: or two products that are proved to round alike, where they are
    cheap; those end below 2**31 (`settle_range` looks)."""
    lanes = rows[0][0].type.count
    scale, factor, rest = (
        splat(b, header_word(b, arg, word, F32), lanes) for word in (SCALE, FACTOR, REST)
    )
    most = splat(b, ir.Constant(F32, 255.0), lanes)

    def quotient(y: Any) -> Any:
        q = b.fdiv(y, scale)
        return b.select(b.fcmp_ordered("<", most, q), most, q)

    if not fused:
        return [[quotient(y) for y in row] for row in rows]
    fma = declare(b.module, f"llvm.fma.v{lanes}f32", factor.type, [factor.type] * 3)
    names = ("quotients", "products", "divided")
    quotients, products, after = (fn.append_basic_block(name) for name in names)
    proved = b.icmp_signed("!=", header_word(b, arg, MULTIPLIES, I32), const(0, I32))
    b.cbranch(proved, products, quotients)
    b.position_at_end(quotients)
    divided = [[quotient(y) for y in row] for row in rows]
    b.branch(after)
    b.position_at_end(products)
    multiplied = [[b.call(fma, [y, factor, b.fmul(y, rest)]) for y in row] for row in rows]
    b.branch(after)
    b.position_at_end(after)
    result = []
    for one, other in zip(divided, multiplied, strict=True):
        phis = [b.phi(factor.type) for _ in one]
        for phi, q, p in zip(phis, one, other, strict=True):
            phi.add_incoming(q, quotients)
            phi.add_incoming(p, products)
        result.append(phis)
    return result


def store_f32(b: Any, fn: Any, arg: dict[str, Any], rows: list[list[Any]], lanes: int) -> None:
    """Store the valid rows and columns of float32 vectors."""
    _store_rows(b, fn, arg, [_join(b, row) for row in rows], 4, lanes)


def store_sums(b: Any, fn: Any, arg: dict[str, Any], acc: list[list[Any]], lanes: int) -> None:
    """Store acc as int32 rows."""
    _store_rows(b, fn, arg, [_join(b, row) for row in acc], 4, lanes)


def store_i32(b: Any, fn: Any, arg: dict[str, Any], acc: list[list[Any]], lanes: int) -> None:
    """Store the sums themselves, every column of the valid rows."""
    for r, row in enumerate(acc):
        some, after = fn.append_basic_block(f"row{r}"), fn.append_basic_block(f"after{r}")
        b.cbranch(b.icmp_signed("<", const(r), arg["m"]), some, after)
        b.position_at_end(some)
        address = b.add(arg["out"], b.mul(arg["ldc"], const(r)))
        for v, value in enumerate(row):
            store(b, value, b.add(address, const(4 * lanes * v)), 4)
        b.branch(after)
        b.position_at_end(after)


def _to_int(b: Any, value: Any, lanes: int) -> Any:
    """Round half to even, float32 to int32 (x86: in the CPU's default rounding mode)."""
    ints, floats = ir.VectorType(I32, lanes), ir.VectorType(F32, lanes)
    if is_neon(b.module):
        return b.call(
            declare(b.module, "llvm.aarch64.neon.fcvtns.v4i32.v4f32", ints, [floats]), [value]
        )
    name = f"llvm.x86.{_TO_INT[lanes]}"
    if lanes == 16:
        f = declare(b.module, name, ints, [floats, ints, I16, I32])
        return b.call(f, [value, splat_const(0, I32, 16), const(-1, I16), const(4, I32)])
    return b.call(declare(b.module, name, ints, [floats]), [value])


def _pack(b: Any, a: Any, c: Any, which: str) -> Any:
    """Saturating packs of a and c, by x86's name: each 128-bit lane holds a's half, then c's."""
    if is_neon(b.module):
        return _join(b, [_narrow(b, part, which) for part in (a, c)])
    half = ir.VectorType(ir.IntType(a.type.element.width // 2), 2 * a.type.count)
    name = f"llvm.x86.{_PACKS[a.type.count * a.type.element.width].format(which)}"
    return b.call(declare(b.module, name, half, [a.type, a.type]), [a, c])


def _narrow(b: Any, a: Any, which: str) -> Any:
    """NEON's sqxtn or sqxtun of one register."""
    half = ir.VectorType(ir.IntType(a.type.element.width // 2), a.type.count)
    name = {"packssdw": "sqxtn.v4i16", "packuswb": "sqxtun.v8i8"}[which]
    return b.call(declare(b.module, f"llvm.aarch64.neon.{name}", half, [a.type]), [a])


def _add_i16(b: Any, a: Any, c: Any) -> Any:
    add = declare(b.module, f"llvm.sadd.sat.v{a.type.count}i16", a.type, [a.type, a.type])
    return b.call(add, [a, c])


def _row_of(b: Any, packed: Any, i: int, nv: int, lanes: int) -> Any:
    """Row i of the 4 / nv rows whose bytes alternate within every 128-bit lane of `packed`."""
    if nv == 4:
        return packed
    per_lane = 4 * nv
    index = [16 * lane + per_lane * i + j for lane in range(lanes // 4) for j in range(per_lane)]
    mask = ir.Constant(ir.VectorType(I32, len(index)), index)
    return b.shuffle_vector(packed, ir.Constant(packed.type, ir.Undefined), mask)


def _minmax(b: Any, a: Any, c: Any, which: str) -> Any:
    f = declare(b.module, f"llvm.{which}.v{a.type.count}i8", a.type, [a.type, a.type])
    return b.call(f, [a, c])


def _join(b: Any, parts: list[Any]) -> Any:
    while len(parts) > 1:
        joined = []
        for a, c in zip(parts[::2], parts[1::2], strict=True):
            n = a.type.count
            mask = ir.Constant(ir.VectorType(I32, 2 * n), list(range(2 * n)))
            joined.append(b.shuffle_vector(a, c, mask))
        parts = joined
    return parts[0]


def _store_rows(
    b: Any, fn: Any, arg: dict[str, Any], rows: list[Any], itemsize: int, lanes: int
) -> None:
    """Store the valid rows of the tile, and of them the valid columns only."""
    nr = rows[0].type.count
    whole, part, after = (fn.append_basic_block(name) for name in ("whole", "part", "stored"))
    all_rows = b.icmp_signed(">=", arg["m"], const(len(rows)))
    all_columns = b.icmp_signed(">=", arg["n"], const(nr))
    b.cbranch(b.and_(all_rows, all_columns), whole, part)
    b.position_at_end(whole)
    for r, row in enumerate(rows):
        store(b, row, b.add(arg["out"], b.mul(arg["ldc"], const(r))), itemsize)
    b.branch(after)
    b.position_at_end(part)
    for r, row in enumerate(rows):
        _store_row(b, fn, arg, r, row, itemsize, lanes)
    b.branch(after)
    b.position_at_end(after)


def _store_row(
    b: Any, fn: Any, arg: dict[str, Any], r: int, row: Any, itemsize: int, lanes: int
) -> None:
    """Store row `r` when it is valid; a partial row writes its valid columns only."""
    at_row, after = fn.append_basic_block(f"row{r}"), fn.append_basic_block(f"after{r}")
    b.cbranch(b.icmp_signed("<", const(r), arg["m"]), at_row, after)
    b.position_at_end(at_row)
    address = b.add(arg["out"], b.mul(arg["ldc"], const(r)))
    if lanes == AVX512_LANES:
        _store_masked(b, row, address, arg["n"], itemsize)
    else:
        full, partial = fn.append_basic_block(f"full{r}"), fn.append_basic_block(f"partial{r}")
        b.cbranch(b.icmp_signed(">=", arg["n"], const(row.type.count)), full, partial)
        b.position_at_end(full)
        store(b, row, address, itemsize)
        b.branch(after)
        b.position_at_end(partial)
        _store_by_halves(b, fn, row, address, arg["n"], itemsize)
    b.branch(after)
    b.position_at_end(after)


def _store_masked(b: Any, row: Any, address: Any, n: Any, itemsize: int) -> None:
    """The first n elements of `row`, by a mask."""
    nr = row.type.count
    bits = ir.VectorType(I1, nr)
    lane = ir.Constant(ir.VectorType(I32, nr), list(range(nr)))
    mask = b.icmp_signed("<", lane, splat(b, b.trunc(n, I32), nr))
    kind = f"v{nr}{'f' if row.type.element == F32 else 'i'}{8 * itemsize}"
    pointer = row.type.as_pointer()
    masked = declare(
        b.module, f"llvm.masked.store.{kind}.p0", ir.VoidType(), [row.type, pointer, I32, bits]
    )
    b.call(masked, [row, b.inttoptr(address, pointer), const(itemsize, I32), mask])


def _store_by_halves(b: Any, fn: Any, row: Any, address: Any, n: Any, itemsize: int) -> None:
    """The first n < count elements of `row`: for every bit of n so many, by registers' halves.

    Only AVX512 stores bytes by a mask; LLVM would test every element by itself.
    """
    count = row.type.count
    while count > 1:
        count //= 2
        some = fn.append_basic_block(f"store{count}")
        skip = fn.append_basic_block(f"below{count}")
        before = b.block
        low, high = (_slice(b, row, start, count) for start in (0, count))
        b.cbranch(b.icmp_signed("!=", b.and_(n, const(count)), const(0)), some, skip)
        b.position_at_end(some)
        store(b, low, address, itemsize)
        further = b.add(address, const(count * itemsize))
        b.branch(skip)
        b.position_at_end(skip)
        row, at = b.phi(low.type), b.phi(address.type)
        row.add_incoming(low, before)
        row.add_incoming(high, some)
        at.add_incoming(address, before)
        at.add_incoming(further, some)
        address = at


def _slice(b: Any, row: Any, start: int, count: int) -> Any:
    mask = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
    return b.shuffle_vector(row, ir.Constant(row.type, ir.Undefined), mask)


# one name per epilogue: what `table.EPILOGUES` and CODES list, and the sums that a transform reads
BUILDERS = {
    "u8": requantize_u8,
    "codes": quantize_codes,
    "f32": scale_f32,
    "sums": store_sums,
    "i32": store_i32,
}
FUSED = {"avx512", "neon"}  # instruction sets that have fused multiply-add


def builder_of(epilogue: str, features: Iterable[str]) -> Callable[..., None]:
    """The builder of `epilogue` for tiles that need `features`."""
    if epilogue == "codes":
        return partial(quantize_codes, fused=not FUSED.isdisjoint(features))
    return BUILDERS[epilogue]
