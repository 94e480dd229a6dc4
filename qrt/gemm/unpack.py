"""Weights in codes to the float32 panels of a product, while the program runs.

Codes lie in dwords, one column in a lane: [panel][group][column], a group being 32 / bits values
along k; the panels are those of `nbits_pack` or the 16 columns of `code_pack`. A product that has
rows enough unpacks its panels once, into scratch, and is then a product of floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qrt.gemm.extents import LIMIT
from qrt.jit.declare import Extent, helper, kernel, slots
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import (
    add_i32x16,
    and_i32x16,
    bits_f32x16,
    f32x16_bits,
    i32x16_to_f32x16,
    load_f32x16,
    load_i32x16,
    lshr_i32x16,
    mul_f32x16,
    or_i32x16,
    shl_i32x16,
    splat_f32x16,
    splat_i32x16,
    store_f32x16,
    sub_f32x16,
    where_less_i32x16,
)

SLAB = 16  # columns that are unpacked together
FIELDS = (
    "codes",
    "scales",
    "zeros",
    "panels",  # float32 [group][panel][k][column], as `float_pack` makes them
    "work",  # scratch: `WORK_NBYTES` per thread
    "groups",
    "taps",
    "span",  # values along k of a tap
    "n",  # columns of a group; zeros behind them
    "padded",  # columns of a group's float panels
    "nr",  # columns of a full one
    "bits",
    "mantissa",  # bits of a small float's fraction; 0: integers
    "bias",  # of its exponent
    "block",  # values along k, from a tap's first, that share a row of scales
    "tap_rows",  # rows of scales from tap to tap
    "splat",  # slabs that share one scale; 0: a scale per column
    "per_panel",  # slabs of a panel of codes
    "code_group",  # bytes from group to group, panel to panel, dwords to dwords of the next values
    "code_panel",
    "code_step",
    "code_gap",  # and between two blocks
    "scale_group",  # bytes from group to group, panel to panel (of codes), row to row
    "scale_panel",
    "scale_row",
    "has_zeros",
    "usual",  # the zero point where there are none
    "zero_group",
    "zero_panel",
    "zero_row",
    "max_threads",
)
(
    CODES, SCALES, ZEROS, PANELS, WORK, GROUPS, TAPS, SPAN, N, PADDED, NR, BITS, MANTISSA, BIAS,
    BLOCK, TAP_ROWS, SPLAT, PER_PANEL, CODE_GROUP, CODE_PANEL, CODE_STEP, CODE_GAP, SCALE_GROUP,
    SCALE_PANEL, SCALE_ROW, HAS_ZEROS, USUAL, ZERO_GROUP, ZERO_PANEL, ZERO_ROW, MAX_THREADS,
) = slots(FIELDS)  # fmt: skip
POSITIVE = ("groups", "taps", "span", "n", "padded", "nr", "block", "per_panel", "max_threads")
NOT_NEGATIVE = (
    "mantissa", "bias", "tap_rows", "splat", "code_group", "code_panel", "code_step", "code_gap",
    "scale_group", "scale_panel", "scale_row", "usual", "zero_group", "zero_panel", "zero_row",
)  # fmt: skip
LINE = 4 * SLAB  # bytes of a slab's values of one k
WORK_NBYTES = 2 * LINE  # of scratch of a thread


def extents(row: Mapping[str, int]) -> list[Extent]:
    """Codes, scales and zero points as far as the steps reach; the panels in full."""
    for name in POSITIVE:
        if not 0 < row[name] < LIMIT:
            raise ValueError(f"{name} must be positive, got {row[name]}")
    for name in NOT_NEGATIVE:
        if not 0 <= row[name] < LIMIT:
            raise ValueError(f"{name} must not be negative, got {row[name]}")
    bits = row["bits"]
    if bits not in (2, 4, 8, 16):
        raise ValueError(f"bits must be 2, 4, 8 or 16, got {bits}")
    if not row["mantissa"] < bits or row["bias"] >= 127 or (row["mantissa"] and bits == 16):
        raise ValueError(f"mantissa {row['mantissa']} and bias {row['bias']} fit no {bits} bits")
    blocks = -(-row["span"] // row["block"])
    if row["code_gap"] and (row["taps"] > 1 or row["block"] % (32 // bits)):
        raise ValueError("blocks with gaps between them must be whole groups of one tap")
    k = row["taps"] * row["span"]
    if row["n"] > row["padded"]:
        raise ValueError(f"{row['n']} columns do not fit into {row['padded']}")
    slabs = -(-row["n"] // SLAB)
    panels, inside = -(-slabs // row["per_panel"]), min(slabs, row["per_panel"])
    groups, last_row = row["groups"] - 1, (row["taps"] - 1) * row["tap_rows"] + blocks - 1
    reach = (inside - 1) * LINE + LINE

    def parameter(name: str) -> int:
        first = groups * row[f"{name}_group"] + last_row * row[f"{name}_row"]
        if row["splat"]:
            return first + (slabs - 1) // row["splat"] * 4 + 4
        return first + (panels - 1) * row[f"{name}_panel"] + reach

    last_step = -(-k * bits // 32) - 1
    found = [
        Extent(
            "codes",
            groups * row["code_group"] + (panels - 1) * row["code_panel"]
            + last_step * row["code_step"] + (blocks - 1) * row["code_gap"] + reach,
        ),
        Extent("scales", parameter("scale")),
        Extent("panels", row["groups"] * k * row["padded"] * 4, writes=True),
        Extent("work", row["max_threads"] * WORK_NBYTES, writes=True),
    ]  # fmt: skip
    if row["has_zeros"]:
        found.append(Extent("zeros", parameter("zero")))
    return found


def _declare_run(*, small: bool, splat: bool) -> Any:
    """A loop over values of a slab, of small floats or integers, with a scale for each k that all
    columns share (`splat`) or one per column. Few values live, so that all stay in registers."""

    def run(  # type: ignore[no-untyped-def]
        count, codes, code_step, shift, bits, mantissa, bias, scales, scale_step, zeros, zero_step,
        out, out_step,
    ):  # fmt: skip
        wide = 16 if bits == 16 else 8  # bits from value to value of a plane
        mask = splat_i32x16(np.int32((1 << bits) - 1))
        # small floats: the code's exponent and fraction as those of a float32, and what makes its
        # exponent that of the value; a subnormal is the difference of two normal numbers
        magnitude = splat_i32x16(np.int32((1 << (bits - 1)) - 1))
        sign = splat_i32x16(np.int32(1 << (bits - 1)))
        to_sign = splat_i32x16(np.int32(32 - bits))
        to_fraction = splat_i32x16(np.int32(23 - mantissa))
        usual_exponent = splat_i32x16(np.int32((127 - bias) << 23))
        least = splat_i32x16(np.int32((128 - bias) << 23))
        least_exponent = splat_i32x16(np.int32(1 << 23))
        for _ in range(count):
            code = lshr_i32x16(load_i32x16(codes), splat_i32x16(np.int32(shift)))
            code = and_i32x16(code, mask)
            real = i32x16_to_f32x16(code)
            if small:
                value = shl_i32x16(and_i32x16(code, magnitude), to_fraction)
                normal = bits_f32x16(add_i32x16(value, usual_exponent))
                tiny = sub_f32x16(bits_f32x16(add_i32x16(value, least)), bits_f32x16(least))
                real = where_less_i32x16(value, least_exponent, tiny, normal)
                signs = shl_i32x16(and_i32x16(code, sign), to_sign)
                real = bits_f32x16(or_i32x16(f32x16_bits(real), signs))
            if splat:
                scale = splat_f32x16(as_f32(scales)[0])
                zero = splat_f32x16(as_f32(zeros)[0])
            else:
                scale = load_f32x16(scales)
                zero = load_f32x16(zeros)
            store_f32x16(out, mul_f32x16(sub_f32x16(real, zero), scale))
            out += out_step
            scales += scale_step
            zeros += zero_step
            shift += wide
            if shift >= 32:
                shift += bits - 32
                if shift >= wide:
                    shift = 0
                    codes += code_step
        return 0

    return helper(run)


integers, integers_splat, small_floats, small_floats_splat = (
    _declare_run(small=small, splat=splat) for small in (False, True) for splat in (False, True)
)


@kernel("gemm_unpack_f32", FIELDS, extents, family="gemm_unpack")
def unpack_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """(float32(code) - zero_point) * scale, each rounded."""
    threads = min(threads, row[MAX_THREADS])
    if thread >= threads:
        return 0
    panels0 = operand(row, PANELS, arena, constants)
    # a line of a narrow panel, and one of the usual zero point
    line = operand(row, WORK, arena, constants) + thread * WORK_NBYTES
    usual = line + LINE
    store_f32x16(usual, splat_f32x16(np.float32(row[USUAL])))
    taps, span, padded, nr = row[TAPS], row[SPAN], row[PADDED], row[NR]
    bits, mantissa, bias = row[BITS], row[MANTISSA], row[BIAS]
    block, splat, code_step = row[BLOCK], row[SPLAT], row[CODE_STEP]
    k_total = taps * span
    slabs = (padded + SLAB - 1) // SLAB
    per_group = 32 // bits
    plane = 2 if bits == 16 else 4
    # a scale per k is one run over all of them, else a run is a block
    longest = span if block == 1 else block
    scale_step = row[SCALE_ROW] if block == 1 else 0
    start, stop = share(row[GROUPS] * slabs * taps, thread, threads, 1)
    for i in range(start, stop):
        tap = i % taps
        slab = i // taps % slabs
        group = i // (taps * slabs)
        column = slab * SLAB
        first = column // nr * nr
        width = min(nr, padded - first)
        whole = column - first + SLAB <= width
        out = panels0 + (group * padded * k_total + first * k_total + (column - first)) * 4
        panel = slab // row[PER_PANEL]
        inside = (slab - panel * row[PER_PANEL]) * LINE
        codes = operand(row, CODES, arena, constants) + inside
        codes += group * row[CODE_GROUP] + panel * row[CODE_PANEL]
        scales = operand(row, SCALES, arena, constants)
        scales += group * row[SCALE_GROUP] + tap * row[TAP_ROWS] * row[SCALE_ROW]
        scales += slab // splat * 4 if splat > 0 else panel * row[SCALE_PANEL] + inside
        zeros, zero_row, zero_step = usual, 0, 0
        if row[HAS_ZEROS] != 0:
            zeros = operand(row, ZEROS, arena, constants)
            zeros += group * row[ZERO_GROUP] + tap * row[TAP_ROWS] * row[ZERO_ROW]
            zeros += slab // splat * 4 if splat > 0 else panel * row[ZERO_PANEL] + inside
            zero_row = row[ZERO_ROW]
            zero_step = zero_row if block == 1 else 0
        k = 0
        while k < span:
            b = k // block
            # columns of a narrow panel, or of two, go where they belong one by one
            count = min(longest, span - k) if whole else 1
            at = tap * span + k
            group_k = at // per_group
            j = at - group_k * per_group
            shift = j % plane * (32 // plane) + j // plane * bits
            code = codes + group_k * code_step + b * row[CODE_GAP]
            scale, zero = scales + b * row[SCALE_ROW], zeros + b * zero_row
            to = out + at * width * 4 if whole else line
            if column >= row[N]:
                for c in range(count):
                    store_f32x16(to + c * width * 4, splat_f32x16(np.float32(0)))
            elif mantissa > 0 and splat > 0:
                small_floats_splat(count, code, code_step, shift, bits, mantissa, bias, scale,
                                   scale_step, zero, zero_step, to, width * 4)  # fmt: skip
            elif mantissa > 0:
                small_floats(count, code, code_step, shift, bits, mantissa, bias, scale,
                             scale_step, zero, zero_step, to, width * 4)  # fmt: skip
            elif splat > 0:
                integers_splat(count, code, code_step, shift, bits, mantissa, bias, scale,
                               scale_step, zero, zero_step, to, width * 4)  # fmt: skip
            else:
                integers(count, code, code_step, shift, bits, mantissa, bias, scale,
                         scale_step, zero, zero_step, to, width * 4)  # fmt: skip
            if not whole:
                for c in range(column, min(column + SLAB, padded)):
                    here = c // nr * nr
                    to = (group * padded + here) * k_total + at * min(nr, padded - here) + c - here
                    as_f32(panels0 + to * 4)[0] = as_f32(line)[c - column]
            k += count
    return 0
