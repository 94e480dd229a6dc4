"""Bytes through a table that is a line, by arithmetic on 16-bit words (`quant/lines.py`), on x86.

Bytes become the upper halves of words, whose lower halves are the formula's `low`; the packs are
the inverse of the unpacks, lane by lane. The first clamp at 0 is the pack's.
"""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import Any

import numpy as np

from qrt.jit.declare import intrinsic
from qrt.quant.affine import Array
from qrt.quant.lines import Line
from qrt.simd.emit import declared, extreme, load, splat, unpack
from qrt.simd.narrow import AVX2, AVX512, SSE, Narrowing, pack

WIDTH = 64  # bytes at once
LOWS = 4 * len(fields(Line))  # where a vector of `low` begins: LLVM mixes a splat in by shuffles
NBYTES = LOWS + WIDTH


def line_parameters(line: Line) -> Array:
    """uint8 (NBYTES,): the numbers of `line` as int32, and its `low` in every byte."""
    numbers = np.array(astuple(line), np.int32)
    return np.concatenate([numbers.view(np.uint8), np.full(WIDTH, line.low, np.uint8)])


def _line(isa: Narrowing, multiply_high: str, name: str, clamps: bool) -> Any:

    def line(typingctx: Any, x: Any, parameters: Any, y: Any) -> Any:
        from llvmlite import ir
        from numba import types

        dword = ir.IntType(32)
        octets = ir.VectorType(ir.IntType(8), isa.nbytes)
        words = ir.VectorType(ir.IntType(16), isa.nbytes // 2)
        pointer = octets.as_pointer()

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b = builder
            numbers = [load(b, args[1], 4 * i, dword, invariant=True) for i in range(6)]

            def everywhere(number: int, vector: Any) -> Any:
                return splat(b, b.trunc(numbers[number], vector.element), vector)

            factor, bias, shift = (everywhere(i, words) for i in (0, 2, 3))
            span, lowest = (everywhere(i, octets) for i in (4, 5))
            low = load(b, args[1], LOWS, octets, invariant=True)
            product = declared(b.module, multiply_high, words, [words, words])
            for at in range(0, WIDTH, isa.nbytes):
                codes = load(b, args[0], at, octets)
                halves = []
                for upper in (False, True):
                    word = b.bitcast(unpack(b, low, codes, upper), words)
                    halves.append(b.ashr(b.add(b.call(product, [word, factor]), bias), shift))
                found = pack(b, isa, *halves)
                if clamps:
                    found = b.add(extreme(b, "<", found, span), lowest)
                place = b.inttoptr(b.add(args[2], ir.Constant(ir.IntType(64), at)), pointer)
                b.store(found, place, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), codegen

    line.__name__ = name
    line.__doc__ = "64 bytes at y of those at x by `line_parameters`" + (
        "." if clamps else "; span is 255, lowest 0."
    )
    return intrinsic(line)


_ISAS = {
    "avx512": (AVX512, "llvm.x86.avx512.pmulhu.w.512"),
    "avx2": (AVX2, "llvm.x86.avx2.pmulhu.w"),
    "sse41": (SSE, "llvm.x86.sse2.pmulhu.w"),
}
# per instruction set, the widest first: the whole formula, and without its clamps
LINES = {
    isa: (_line(*names, f"line_{isa}", True), _line(*names, f"whole_line_{isa}", False))
    for isa, names in _ISAS.items()
}
