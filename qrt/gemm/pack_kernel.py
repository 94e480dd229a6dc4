"""Pack computed weights while the program runs: what `pack_weights` does before it.

Weights are read where they lie: (k, n), or (n, k) as the keys of attention are. The bias of the
product's columns is corrected by the sums of the weights, which are known only now, as scale and
zero points may be.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.gemm.table import WEIGHT_NBYTES
from qrt.jit.declare import Extent, helper, kernel, slots
from qrt.simd.memory import as_f32, as_i8, as_i16, as_i32, as_u8, operand
from qrt.simd.quads import pack_quad_columns, pack_quad_rows
from qrt.simd.vectors import splat_i32x4, store_i32x4

FIELDS = (
    "w",  # int8, k_step elements from k to k, n_step from column to column
    "panels",
    "columns",
    "template",  # the columns with the bias not yet corrected
    "order",  # int32 (padded,): column at every position of the panels, -1 for padding
    "x_scale",  # float32: a factor of the template's multipliers
    "x_zero_point",  # uint8
    "w_zero_point",  # uint8, raised by 128 as the weights' codes are: added to the template's
    "k",
    "n",
    "k_step",
    "n_step",
    "padded",  # columns of all panels
    "nr",  # columns of a full panel
    "lanes",
    "kr",  # of a lane: 4 bytes k0 k1 k2 k3, or 2 int16 k0 k1
    "x_offset",  # what the tile subtracts from x before it multiplies
    "pairs",  # bytes (k0, k1) of all lanes, then (k2, k3), whose x_offset is one less
    "octets",  # a column's bytes of two groups side by side; the last group may stand alone
)
(
    W, PANELS, COLUMNS, TEMPLATE, ORDER, X_SCALE, X_ZERO_POINT, W_ZERO_POINT, K, N, K_STEP, N_STEP,
    PADDED, NR, LANES, KR, X_OFFSET, PAIRS, OCTETS,
) = slots(FIELDS)  # fmt: skip
LIMIT = 2**31


def extents(row: Mapping[str, int]) -> list[Extent]:
    """w in full, every panel and every column in full."""
    for name in ("k", "n", "k_step", "n_step", "padded", "nr", "lanes"):
        if not 0 <= row[name] < LIMIT:
            raise ValueError(f"{name} must be between 0 and {LIMIT}, got {row[name]}")
    if row["kr"] not in (2, 4):
        raise ValueError(f"kr must be 2 or 4, got {row['kr']}")
    lanes, nr, padded = row["lanes"], row["nr"], row["padded"]
    if not lanes or not nr or nr % lanes or padded % lanes:
        raise ValueError(f"panels of {nr} columns and {padded} columns are not whole vectors")
    if row["n"] > padded:
        raise ValueError(f"{row['n']} columns do not fit into {padded}")
    k, n = row["k"], row["n"]
    groups = -(-k // row["kr"])
    furthest = (k - 1) * row["k_step"] + (n - 1) * row["n_step"] + 1
    return [
        Extent("w", furthest if k and n else 0),
        Extent("panels", padded * groups * WEIGHT_NBYTES, writes=True),
        Extent("columns", 16 * padded, writes=True),
        Extent("template", 16 * padded),
        Extent("order", 4 * padded),
        Extent("x_scale", 4),
        Extent("x_zero_point", 1),
        Extent("w_zero_point", 1),
    ]


@helper
def _is_quad(order, position, n):  # type: ignore[no-untyped-def]
    """True where the next four positions hold columns that follow each other."""
    column = order[position]
    if column < 0 or column + 4 > n:
        return False
    return (
        (order[position + 1] == column + 1)
        & (order[position + 2] == column + 2)
        & (order[position + 3] == column + 3)
    )


@kernel("gemm_pack_s8", FIELDS, extents, family="gemm_pack")
def pack_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    w = operand(row, W, arena, constants)
    panels = operand(row, PANELS, arena, constants)
    columns = operand(row, COLUMNS, arena, constants)
    template = operand(row, TEMPLATE, arena, constants)
    order = as_i32(operand(row, ORDER, arena, constants))
    k, n, padded, nr, lanes = row[K], row[N], row[PADDED], row[NR], row[LANES]
    k_step, n_step = row[K_STEP], row[N_STEP]
    kr = row[KR]
    scale = as_f32(operand(row, X_SCALE, arena, constants))[0]
    x_zero_point = np.int64(as_u8(operand(row, X_ZERO_POINT, arena, constants))[0])
    w_zero_point = np.int64(as_u8(operand(row, W_ZERO_POINT, arena, constants))[0]) - 128
    groups = (k + kr - 1) // kr
    # four columns at once where a group of theirs is 16 bytes in a row and one step is 1
    quads = kr == 4 and lanes % 4 == 0 and row[OCTETS] == 0 and row[PAIRS] == 0
    quads = quads and (k_step == 1 or n_step == 1)
    whole = k // 4
    start = padded // 4 * thread // threads * 4
    stop = padded if thread == threads - 1 else padded // 4 * (thread + 1) // threads * 4
    packed = np.int64(0)  # positions whose whole groups are there already
    # counted on from position to position: a division costs as much as a column of one group
    panel = start // nr
    inside = start - panel * nr - 1
    vector = (inside + 1) // lanes
    lane = inside - vector * lanes
    for position in range(start, stop):
        column = order[position]
        is_padding = column < 0 or column >= n
        inside += 1
        lane += 1
        if lane == lanes:
            vector += 1
            lane = 0
        if inside == nr:
            panel += 1
            inside, vector, lane = 0, 0, 0
        width = min(nr, padded - panel * nr)  # columns of this panel
        base = panels + panel * nr * groups * WEIGHT_NBYTES
        target = as_i32(columns + panel * nr * 16)
        starts_quad = packed == 0 and lane % 4 == 0 and position + 4 <= stop
        if quads and starts_quad and _is_quad(order, position, n):
            sums = splat_i32x4(np.int32(0))
            source = w + column * n_step
            to = base + inside * 4
            for _ in range(whole):
                if k_step == 1:
                    sums = pack_quad_columns(source, n_step, to, sums)
                else:
                    sums = pack_quad_rows(source, k_step, to, sums)
                source += 4 * k_step
                to += width * 4
            # they wait where the biases will be
            store_i32x4(columns + panel * nr * 16 + inside * 4, sums)
            packed = np.int64(4)
        total = 0
        last_pairs = 0
        first = np.int64(0)
        if packed > 0:
            total += target[inside]
            first = whole
            packed -= 1
        for g in range(first, groups):
            at = base + (g * width + vector * lanes) * WEIGHT_NBYTES
            for i in range(kr):
                value = 0
                if not is_padding and g * kr + i < k:
                    value = as_i8(w)[(g * kr + i) * k_step + column * n_step]
                total += value
                last_pairs += value if i >= 2 else 0
                if kr == 2:
                    as_i16(at + lane * 4 + i * 2)[0] = np.int16(value)
                elif row[OCTETS] != 0 and g < groups // 2 * 2:
                    octet = base + ((g // 2 * width + inside) * 2 + g % 2) * 4
                    as_i8(octet)[i] = np.int8(value)
                elif row[PAIRS] != 0:
                    as_i8(at + ((i // 2) * lanes + lane) * 2 + i % 2)[0] = np.int8(value)
                else:
                    as_i8(at + lane * 4 + i)[0] = np.int8(value)
        # four arrays of the panel's width: bias, multiplier, -w_zero_point, float bias
        given = as_i32(template + panel * nr * 16)
        for i in range(4):
            target[i * width + inside] = given[i * width + inside]
        negated = given[2 * width + inside] - w_zero_point
        correction = x_zero_point * (total + k * negated)
        correction -= row[X_OFFSET] * total - (last_pairs if row[PAIRS] != 0 else 0)
        if not is_padding:
            target[inside] = np.int32(given[inside] - correction)
            target[2 * width + inside] = np.int32(negated)
            at = columns + (panel * nr * 4 + width + inside) * 4
            as_f32(at)[0] = as_f32(at)[0] * scale
    return 0
