"""The dot instructions of each family, as operands of the tile generator."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from qrt.gemm.emit import I8, I16, I32, I64, const, declare, load, splat
from qrt.gemm.float_dots import FLOAT_FAMILIES
from qrt.gemm.tile_groups import Dot

_BYTES = ir.VectorType(I8, 16)  # a NEON register
_SUMS = ir.VectorType(I32, 4)


def _vpdpbusd(lanes: int, features: tuple[str, ...]) -> Dot:
    """vpdpbusd: each int32 lane gains four u8 * s8 products, no saturation in between.

    LLVM writes it as AVX512 does or as AVX-VNNI does ({vex}), by what `features` allow.
    """
    vec = ir.VectorType(I32, lanes)
    return Dot(
        lanes=lanes,
        weight_nbytes=4,
        features=features,
        expand=lambda b, dword: splat(b, dword, lanes),
        weights=lambda b, address: load(b, address, vec, 4 * lanes),
        step=vpdpbusd,
        fetches=True,
    )


def vpdpbusd(b: Any, acc: Any, x: Any, w: Any) -> Any:
    """Each int32 lane gains four u8 * s8 products, wrapping."""
    vec = acc.type
    name = f"llvm.x86.avx512.vpdpbusd.{32 * vec.count}"
    dot = declare(b.module, name, vec, [vec, vec, vec])
    return b.call(dot, [acc, b.bitcast(x, vec), b.bitcast(w, vec)])


_PMADDWD = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}


def pmaddwd(b: Any, acc: Any, x: Any, w: Any) -> Any:
    """Each int32 lane gains two s16 * s16 products, wrapping: none of u8 * s8 pairs saturates."""
    words = ir.VectorType(I16, 2 * acc.type.count)
    name = f"llvm.x86.{_PMADDWD[acc.type.count]}"
    madd = declare(b.module, name, acc.type, [words, words])
    return b.add(acc, b.call(madd, [b.bitcast(x, words), b.bitcast(w, words)]))


def vpdpwssd(b: Any, acc: Any, x: Any, w: Any) -> Any:
    """Each int32 lane gains two s16 * s16 products, wrapping."""
    vec = acc.type
    name = f"llvm.x86.avx512.vpdpwssd.{32 * vec.count}"
    dot = declare(b.module, name, vec, [vec, vec, vec])
    return b.call(dot, [acc, b.bitcast(x, vec), b.bitcast(w, vec)])


def _words(lanes: int, features: tuple[str, ...], step: Any = pmaddwd) -> Dot:
    """Activations and weights that are int16 already: a dword is a pair of them."""
    vec = ir.VectorType(I32, lanes)
    return Dot(
        lanes=lanes,
        weight_nbytes=4,
        features=features,
        expand=lambda b, dword: splat(b, dword, lanes),
        weights=lambda b, address: load(b, address, vec, 4 * lanes),
        step=step,
        fetches=True,
    )


def _load_bytes(b: Any, address: Any) -> Any:
    return load(b, address, _BYTES, 16)


def flip_signs(b: Any, x: Any) -> Any:
    """x - 128 as s8, for u8 x: what is missing, 128 * weight, the bias holds (`x_offset`)."""
    return b.xor(x, splat_const(0x80, x.type.element, x.type.count))


def _dwords(b: Any, x: Any) -> list[Any]:
    """Each dword of 16 bytes in every lane: the by-element operand of dot instructions."""
    words = b.bitcast(x, _SUMS)
    nothing = ir.Constant(_SUMS, ir.Undefined)
    masks = [ir.Constant(_SUMS, [g] * 4) for g in range(4)]
    return [b.bitcast(b.shuffle_vector(words, nothing, mask), _BYTES) for mask in masks]


def _first_dword(b: Any, dword: Any) -> Any:
    """16 bytes that begin with `dword`; the rest is never looked at."""
    words = b.insert_element(ir.Constant(_SUMS, ir.Undefined), dword, const(0, I32))
    return b.bitcast(words, _BYTES)


def sdot(b: Any, acc: Any, x: Any, w: Any) -> Any:
    """Each int32 lane gains four s8 * s8 products, wrapping."""
    dot = declare(b.module, "llvm.aarch64.neon.sdot.v4i32.v16i8", _SUMS, [_SUMS, _BYTES, _BYTES])
    return b.call(dot, [acc, w, x])


def usdot(b: Any, acc: Any, x: Any, w: Any) -> Any:
    """Each int32 lane gains four u8 * s8 products, wrapping."""
    dot = declare(b.module, "llvm.aarch64.neon.usdot.v4i32.v16i8", _SUMS, [_SUMS, _BYTES, _BYTES])
    return b.call(dot, [acc, x, w])


DOTPROD = Dot(
    lanes=4,
    weight_nbytes=4,
    features=("neon", "dotprod"),
    expand=lambda b, dword: _dwords(b, flip_signs(b, _first_dword(b, dword)))[0],
    weights=_load_bytes,
    step=sdot,
    block=lambda b, address: _dwords(b, flip_signs(b, load(b, address, _BYTES, 1))),
    block_groups=4,
    tune="cortex-a55",  # in order; to the others order is all the same
)

def usmmla(b: Any, acc: Any, x: Any, w: Any) -> Any:
    """Two rows of 8 u8 by two columns of 8 s8: the 2 x 2 int32 in acc gain eight products each."""
    name = "llvm.aarch64.neon.usmmla.v4i32.v16i8"
    return b.call(declare(b.module, name, _SUMS, [_SUMS, _BYTES, _BYTES]), [acc, x, w])


def _two_rows(b: Any, addresses: list[Any]) -> list[Any]:
    """Twice 8 bytes of one row, then 8 of the other, from 16 bytes of both."""
    first, second = (load(b, address, ir.VectorType(I64, 2), 1) for address in addresses)
    masks = [ir.Constant(ir.VectorType(I32, 2), [half, 2 + half]) for half in (0, 1)]
    return [b.bitcast(b.shuffle_vector(first, second, mask), _BYTES) for mask in masks]


def _two_heads(b: Any, heads: list[Any]) -> Any:
    """8 bytes of one row, then 8 of the other; behind 4 bytes, zeros."""
    pair = ir.Constant(ir.VectorType(I64, 2), ir.Undefined)
    for i, head in enumerate(heads):
        pair = b.insert_element(pair, b.zext(head, I64), const(i, I32))
    return b.bitcast(pair, _BYTES)


def _load_octets(b: Any, address: Any) -> tuple[Any, Any]:
    """Columns 0 and 1 of a vector, and columns 2 and 3: 8 weights of each."""
    return _load_bytes(b, address), _load_bytes(b, b.add(address, const(16)))


def _load_quads(b: Any, address: Any) -> tuple[Any, Any]:
    """The same of 4 weights, zeros behind them."""
    words = load(b, address, _SUMS, 16)
    masks = [ir.Constant(_SUMS, mask) for mask in ([0, 4, 1, 4], [2, 4, 3, 4])]
    low, high = (b.shuffle_vector(words, splat_const(0, I32, 4), mask) for mask in masks)
    return b.bitcast(low, _BYTES), b.bitcast(high, _BYTES)


# twice the products of usdot in the same time
I8MM = Dot(
    lanes=4,
    weight_nbytes=4,
    features=("neon", "i8mm"),
    expand=_two_heads,
    weights=_load_quads,
    step=usmmla,
    block=_two_rows,
    block_groups=4,
    matrices=True,
    octets=_load_octets,
    chains=16,  # a latency of 3, four a cycle, in powers of two
)


def _pair_quads(b: Any, x: Any) -> list[Any]:
    """Bytes k0 k1 of each dword four times, then k2 k3 four times: one table lookup."""
    tbl = declare(b.module, "llvm.aarch64.neon.tbl1.v16i8", _BYTES, [_BYTES, _BYTES])
    picks = [[4 * g, 4 * g + 1] * 4 + [4 * g + 2, 4 * g + 3] * 4 for g in range(4)]
    return [b.call(tbl, [x, ir.Constant(_BYTES, pick)]) for pick in picks]


def _flip_quads(b: Any, x: Any) -> Any:
    """x - 128 of k0 k1 and 127 - x of k2 k3, as s8."""
    masks = ir.Constant(_BYTES, [0x80, 0x80, 0x7F, 0x7F] * 4)
    return b.xor(x, masks)


def multiply_pairs(b: Any, acc: Any, x: Any, w: Any) -> Any:
    """acc plus, in each lane, the two s8 * s8 products of its pair in 8 bytes (smull, sadalp)."""
    return _add_pairs(b, acc, _multiply_bytes(b, x, w))


def subtract_pairs(b: Any, acc: Any, x: Any, w: Any) -> Any:
    """acc plus, in each lane, the two s8 * s8 products of its pair in the lower half of x and w,
    minus those in the upper half (smull, smlsl2, sadalp).

    Exact: a product lies in [-127 * 128, 2**14], so a difference of two fits int16. A sum would
    not, by -128 * -128 twice.
    """
    nothing = ir.Constant(_BYTES, ir.Undefined)
    low, high = (ir.Constant(ir.VectorType(I32, 8), list(range(k, k + 8))) for k in (0, 8))
    products = [
        _multiply_bytes(b, *(b.shuffle_vector(v, nothing, half) for v in (x, w)))
        for half in (low, high)
    ]
    return _add_pairs(b, acc, b.sub(*products))


def _multiply_bytes(b: Any, x: Any, w: Any) -> Any:
    half, words = ir.VectorType(I8, 8), ir.VectorType(I16, 8)
    smull = declare(b.module, "llvm.aarch64.neon.smull.v8i16", words, [half, half])
    return b.call(smull, [x, w])


def _add_pairs(b: Any, acc: Any, words: Any) -> Any:
    fold = declare(b.module, "llvm.aarch64.neon.saddlp.v4i32.v8i16", _SUMS, [words.type])
    return b.add(acc, b.call(fold, [words]))


NEON = Dot(
    lanes=4,
    weight_nbytes=4,
    features=("neon",),
    expand=lambda b, dword: _pair_quads(b, _flip_quads(b, _first_dword(b, dword)))[0],
    weights=_load_bytes,
    step=subtract_pairs,
    block=lambda b, address: _pair_quads(b, _flip_quads(b, load(b, address, _BYTES, 1))),
    block_groups=4,
    tune="cortex-a53",  # in order; to the others order is all the same
)


def splat_const(value: int, ty: Any, lanes: int) -> Any:
    """A constant vector of equal elements."""
    return ir.Constant(ir.VectorType(ty, lanes), [value] * lanes)


FAMILIES = {
    "vnni512": _vpdpbusd(16, ("avx512", "avx512vnni")),
    "vnni256": _vpdpbusd(8, ("avx2", "avxvnni")),
    "vnni256vl": _vpdpbusd(8, ("avx512", "avx512vnni")),
    "madd512": _words(16, ("avx512",)),
    "madd256": _words(8, ("avx2",)),
    "madd128": _words(4, ("sse41",)),
    "i8mm": I8MM,
    "dotprod": DOTPROD,
    "neon": NEON,
    "vnni512_words": _words(16, ("avx512", "avx512vnni"), vpdpwssd),
    "vnni256_words": _words(8, ("avx2", "avxvnni"), vpdpwssd),
    "vnni256vl_words": _words(8, ("avx512", "avx512vnni"), vpdpwssd),
    **FLOAT_FAMILIES,
}
