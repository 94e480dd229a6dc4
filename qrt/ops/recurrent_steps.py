"""One step of a recurrent layer after its products: gates, state and output of every batch row.

`xw` holds this step's share of the products with the input, `hr` those with the hidden state, one
after the other per batch row; they and `bias` are added as (xw + hr) + bias. Sequences that have
ended keep their state and give zeros. Gates are computed in place in `hr`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qrt.jit.declare import Extent, helper, kernel, slots
from qrt.ops.recurrent_activations import ACTIVATIONS, activate
from qrt.ops.sizes import within
from qrt.simd.memory import as_f32, as_i32, operand, row_f32
from qrt.simd.scalar import share

F32 = 4
GRAIN = 2048  # gate values; below this a second thread costs more than it saves
ONE, INFINITY = np.float32(1), np.float32(np.inf)

COMMON = (
    "xw",  # of batch row b at b * xw_step bytes
    "hr",  # batch rows of all gates
    "bias",  # Wb, then Rb, all gates each
    "lens",  # int32 per batch row, used when has_lens
    "h",  # of batch row b at b * h_step bytes; the state, read and written
    "y",  # of batch row b at b * y_step bytes, written when has_y
    "step",  # the number of this step in the sequence
    "batch",
    "hidden",
    "xw_step",
    "h_step",
    "y_step",
    "has_lens",
    "has_y",
    "clip",  # of what f and g take; infinity for none
    "f",
    "f_alpha",
    "f_beta",
)
_G = ("g", "g_alpha", "g_beta")
LSTM_FIELDS = (
    *COMMON, *_G, "o", "o_alpha", "o_beta", "c", "peephole", "has_peephole", "input_forget",
)  # fmt: skip
GRU_FIELDS = (*COMMON, *_G, "candidate", "linear_before_reset")
(
    XW, HR, BIAS, LENS, H, Y, STEP, BATCH, HIDDEN, XW_STEP, H_STEP, Y_STEP, HAS_LENS, HAS_Y, CLIP,
    F, F_ALPHA, F_BETA, G, G_ALPHA, G_BETA, OUT, OUT_ALPHA, OUT_BETA, C, PEEPHOLE, HAS_PEEPHOLE,
    INPUT_FORGET,
) = slots(LSTM_FIELDS)  # fmt: skip
CANDIDATE, LINEAR = slots(GRU_FIELDS)[-2:]


def _extents(
    gates: int, written: tuple[str, ...], more: Callable[[Mapping[str, int]], list[Extent]]
) -> Callable[[Mapping[str, int]], list[Extent]]:
    def extents(row: Mapping[str, int]) -> list[Extent]:
        batch = within(row, "batch", 1, 1 << 32)
        line = F32 * within(row, "hidden", 1, 1 << 32)
        steps = {}
        for name, least in (("xw_step", gates * line), ("h_step", line), ("y_step", line)):
            # rows of their own; one row has no step
            steps[name] = (batch - 1) * within(row, name, least if batch > 1 else 0, 1 << 40)
        for name in ("f", "g", "o"):
            if name in row:
                within(row, name, 0, len(ACTIVATIONS) - 1)
        found = [
            Extent("xw", steps["xw_step"] + gates * line),
            Extent("hr", batch * gates * line, writes="hr" in written),
            Extent("bias", 2 * gates * line),
            Extent("h", steps["h_step"] + line, writes="h" in written),
            *more(row),
        ]
        if row["has_lens"]:
            found.append(Extent("lens", 4 * batch))
        if row["has_y"] and "y" in written:
            found.append(Extent("y", steps["y_step"] + line, writes=True))
        return found

    return extents


def _lstm_more(row: Mapping[str, int]) -> list[Extent]:
    line = F32 * row["hidden"]
    # the cell lies as the state does
    cell = Extent("c", (row["batch"] - 1) * row["h_step"] + line, writes=True)
    return [cell, Extent("peephole", 3 * line)] if row["has_peephole"] else [cell]


def _candidate(writes: bool) -> Callable[[Mapping[str, int]], list[Extent]]:
    return lambda row: [Extent("candidate", F32 * row["batch"] * row["hidden"], writes=writes)]


@helper
def _sums(hr, xw, bias, other, n):  # type: ignore[no-untyped-def]
    """hr = (xw + hr) + (bias + other) over n floats."""
    sums, given, a, b = as_f32(hr), as_f32(xw), as_f32(bias), as_f32(other)
    for i in range(n):
        sums[i] = (given[i] + sums[i]) + (a[i] + b[i])
    return 0


@helper
def _clamp(address, n, clip):  # type: ignore[no-untyped-def]
    """n floats within [-clip, clip]; NaN stays NaN."""
    x = as_f32(address)
    if clip < INFINITY:
        for i in range(n):
            v = x[i]
            v = -clip if v < -clip else v
            x[i] = clip if v > clip else v
    return 0


@helper
def _add_product(to, a, b, n):  # type: ignore[no-untyped-def]
    """to += a * b over n floats, rounded twice."""
    sums, left, right = as_f32(to), as_f32(a), as_f32(b)
    for i in range(n):
        sums[i] += left[i] * right[i]
    return 0


@helper
def _put(y, h, n):  # type: ignore[no-untyped-def]
    out, state = as_f32(y), as_f32(h)
    for i in range(n):
        out[i] = state[i]
    return 0


@helper
def _put_zeros(y, n):  # type: ignore[no-untyped-def]
    out = as_f32(y)
    for i in range(n):
        out[i] = np.float32(0)
    return 0


@helper
def _ended(row, b, arena, constants):  # type: ignore[no-untyped-def]
    """True when batch row b has no element at this step."""
    if row[HAS_LENS] == 0:
        return False
    return row[STEP] >= as_i32(operand(row, LENS, arena, constants))[b]


@helper
def _grain(hidden):  # type: ignore[no-untyped-def]
    """Batch rows that are worth a thread."""
    return (GRAIN + hidden - 1) // hidden


@kernel("lstm_step_f32", LSTM_FIELDS, _extents(4, ("hr", "h", "y"), _lstm_more), family="recurrent")
def lstm_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """i, o, f, c lie one after the other in `hr`; ONNX LSTM, with c and h in place."""
    n = row[HIDDEN]
    line = n * F32
    xw0, hr0 = operand(row, XW, arena, constants), operand(row, HR, arena, constants)
    bias = operand(row, BIAS, arena, constants)
    h0, c0 = operand(row, H, arena, constants), operand(row, C, arena, constants)
    y0 = operand(row, Y, arena, constants)
    p = operand(row, PEEPHOLE, arena, constants)
    clip = row_f32(row, CLIP)
    f, f_alpha, f_beta = row[F], row_f32(row, F_ALPHA), row_f32(row, F_BETA)
    start, stop = share(row[BATCH], thread, threads, _grain(4 * n))
    for b in range(start, stop):
        y = y0 + b * row[Y_STEP]
        if _ended(row, b, arena, constants):
            if row[HAS_Y] != 0:
                _put_zeros(y, n)
            continue
        i_gate = hr0 + b * 4 * line
        o_gate, f_gate, new = i_gate + line, i_gate + 2 * line, i_gate + 3 * line
        h, c = h0 + b * row[H_STEP], c0 + b * row[H_STEP]
        _sums(i_gate, xw0 + b * row[XW_STEP], bias, bias + 4 * line, 4 * n)
        if row[HAS_PEEPHOLE] != 0:
            _add_product(i_gate, p, c, n)
            _add_product(f_gate, p + 2 * line, c, n)
        _clamp(i_gate, n, clip)
        _clamp(f_gate, 2 * n, clip)
        activate(f, f_alpha, f_beta, i_gate, n)
        if row[INPUT_FORGET] != 0:
            kept, taken = as_f32(f_gate), as_f32(i_gate)
            for j in range(n):
                kept[j] = ONE - taken[j]
        else:
            activate(f, f_alpha, f_beta, f_gate, n)
        activate(row[G], row_f32(row, G_ALPHA), row_f32(row, G_BETA), new, n)
        cell, keep, take, fresh = as_f32(c), as_f32(f_gate), as_f32(i_gate), as_f32(new)
        for j in range(n):
            v = keep[j] * cell[j] + take[j] * fresh[j]
            cell[j] = v
            fresh[j] = v
        if row[HAS_PEEPHOLE] != 0:
            _add_product(o_gate, p + line, c, n)
        _clamp(o_gate, n, clip)
        activate(f, f_alpha, f_beta, o_gate, n)
        activate(row[OUT], row_f32(row, OUT_ALPHA), row_f32(row, OUT_BETA), new, n)
        state, shown = as_f32(h), as_f32(o_gate)
        for j in range(n):
            state[j] = shown[j] * fresh[j]
        if row[HAS_Y] != 0:
            _put(y, h, n)
    return 0


@kernel("gru_gates_f32", GRU_FIELDS, _extents(3, ("hr",), _candidate(True)), family="recurrent")
def gru_gates_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """z and r, in place in `hr` (z, r, h); and what r gates.

    That is the state, into `candidate`, for the product to come; or with linear_before_reset the
    product itself (with its bias), also into `candidate`.
    """
    n = row[HIDDEN]
    line = n * F32
    xw0, hr0 = operand(row, XW, arena, constants), operand(row, HR, arena, constants)
    bias = operand(row, BIAS, arena, constants)
    h0 = operand(row, H, arena, constants)
    gated0 = operand(row, CANDIDATE, arena, constants)
    clip = row_f32(row, CLIP)
    f, f_alpha, f_beta = row[F], row_f32(row, F_ALPHA), row_f32(row, F_BETA)
    start, stop = share(row[BATCH], thread, threads, _grain(3 * n))
    for b in range(start, stop):
        z = hr0 + b * 3 * line
        _sums(z, xw0 + b * row[XW_STEP], bias, bias + 3 * line, 2 * n)
        _clamp(z, 2 * n, clip)
        activate(f, f_alpha, f_beta, z, 2 * n)
        reset, gated = as_f32(z + line), as_f32(gated0 + b * line)
        if row[LINEAR] != 0:
            product, recurrent = as_f32(z + 2 * line), as_f32(bias + 5 * line)
            for j in range(n):
                gated[j] = reset[j] * (product[j] + recurrent[j])
        else:
            state = as_f32(h0 + b * row[H_STEP])
            for j in range(n):
                gated[j] = reset[j] * state[j]
    return 0


@kernel(
    "gru_state_f32", GRU_FIELDS, _extents(3, ("hr", "h", "y"), _candidate(False)),
    family="recurrent",
)  # fmt: skip
def gru_state_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """h = (1 - z) * g(xw + candidate + bias) + z * h."""
    n = row[HIDDEN]
    line = n * F32
    xw0, hr0 = operand(row, XW, arena, constants), operand(row, HR, arena, constants)
    bias = operand(row, BIAS, arena, constants)
    h0, y0 = operand(row, H, arena, constants), operand(row, Y, arena, constants)
    candidate = operand(row, CANDIDATE, arena, constants)
    clip = row_f32(row, CLIP)
    start, stop = share(row[BATCH], thread, threads, _grain(3 * n))
    for b in range(start, stop):
        y = y0 + b * row[Y_STEP]
        if _ended(row, b, arena, constants):
            if row[HAS_Y] != 0:
                _put_zeros(y, n)
            continue
        z = hr0 + b * 3 * line
        new = z + 2 * line
        fresh, given = as_f32(new), as_f32(candidate + b * line)
        own, other = as_f32(bias + 2 * line), as_f32(bias + 5 * line)
        xw = as_f32(xw0 + b * row[XW_STEP] + 2 * line)
        if row[LINEAR] != 0:
            for j in range(n):
                fresh[j] = (xw[j] + given[j]) + own[j]  # the other bias is in `candidate`
        else:
            for j in range(n):
                fresh[j] = (xw[j] + given[j]) + (own[j] + other[j])
        _clamp(new, n, clip)
        activate(row[G], row_f32(row, G_ALPHA), row_f32(row, G_BETA), new, n)
        h = h0 + b * row[H_STEP]
        state, update = as_f32(h), as_f32(z)
        for j in range(n):
            state[j] = (ONE - update[j]) * fresh[j] + update[j] * state[j]
        if row[HAS_Y] != 0:
            _put(y, h, n)
    return 0


@kernel("rnn_step_f32", COMMON, _extents(1, ("hr", "h", "y"), lambda row: []), family="recurrent")
def rnn_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """h = f(xw + hr + bias)."""
    n = row[HIDDEN]
    line = n * F32
    xw0, hr0 = operand(row, XW, arena, constants), operand(row, HR, arena, constants)
    bias = operand(row, BIAS, arena, constants)
    h0, y0 = operand(row, H, arena, constants), operand(row, Y, arena, constants)
    start, stop = share(row[BATCH], thread, threads, _grain(n))
    for b in range(start, stop):
        y = y0 + b * row[Y_STEP]
        if _ended(row, b, arena, constants):
            if row[HAS_Y] != 0:
                _put_zeros(y, n)
            continue
        sums, h = hr0 + b * line, h0 + b * row[H_STEP]
        _sums(sums, xw0 + b * row[XW_STEP], bias, bias + line, n)
        _clamp(sums, n, row_f32(row, CLIP))
        activate(row[F], row_f32(row, F_ALPHA), row_f32(row, F_BETA), sums, n)
        _put(h, sums, n)
        if row[HAS_Y] != 0:
            _put(y, h, n)
    return 0
