"""RNN, GRU and LSTM in plain NumPy, in float64: the equations of ONNX, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qrt.ops.recurrent_activations import apply
from qrt.ops.recurrent_layer import Layer
from qrt.ops.spec import Array


def evaluate(
    layer: Layer,
    x: Array,
    products: Sequence[tuple[Callable[[Array], Array], Callable[[Array], Array]]],
    b: Array | None,
    lens: Array | None,
    h0: Array | None,
    c0: Array | None,
    p: Array | None,
) -> list[Array]:
    """Y, Y_h, Y_c in plain NumPy, in float64; `products` multiply by W and R, per direction."""
    first = (lambda a: a.swapaxes(0, 1)) if layer.batch_first else (lambda a: a)
    x = first(x).astype(np.float64)
    n, steps, batch, dirs = layer.hidden, layer.steps, layer.batch, layer.directions
    y = np.zeros((steps, dirs, batch, n))
    states = [np.zeros((dirs, batch, n)) if s is None else first(s).astype(np.float64)
              for s in (h0, c0)]  # fmt: skip
    ends = np.full(batch, steps) if lens is None else lens
    for d in range(dirs):
        by_w, by_r = products[d]
        wide = layer.cell.gates * n
        bias = np.zeros(2 * wide) if b is None else b[d].astype(np.float64)
        peephole = None if p is None else p[d].astype(np.float64).reshape(3, n)
        step = _STEPS[layer.cell.outputs, layer.cell.gates]
        h, c = states[0][d].copy(), states[1][d].copy()
        xw = by_w(x)
        order = range(steps - 1, -1, -1) if layer.reversed_[d] else range(steps)
        for t in order:
            new_h, new_c = step(
                layer, layer.activations[d], xw[t], by_r, bias[:wide], bias[wide:], h, c,
                peephole,
            )  # fmt: skip
            on = (t < ends)[:, None]
            h, c = np.where(on, new_h, h), np.where(on, new_c, c)
            y[t, d] = np.where(on, h, 0)
        states[0][d], states[1][d] = h, c
    shown = y.transpose(2, 0, 1, 3) if layer.batch_first else y
    return [np.asarray(v, np.float32) for v in (shown, first(states[0]), first(states[1]))]


def _rnn_step(layer: Layer, acts: Any, xw: Array, by_r: Any, wb: Array, rb: Array, h: Array,
              c: Array, p: Array | None) -> tuple[Array, Array]:  # fmt: skip
    return apply(acts[0], np.clip(xw + by_r(h) + wb + rb, -layer.clip, layer.clip)), c


def _gru_step(layer: Layer, acts: Any, xw: Array, by_r: Any, wb: Array, rb: Array, h: Array,
              c: Array, p: Array | None) -> tuple[Array, Array]:  # fmt: skip
    n = layer.hidden
    hr = by_r(h)
    both = np.clip((xw + hr + wb + rb)[:, : 2 * n], -layer.clip, layer.clip)
    z, r = apply(acts[0], both[:, :n]), apply(acts[0], both[:, n:])
    if layer.flag:
        new = xw[:, 2 * n :] + r * (hr[:, 2 * n :] + rb[2 * n :]) + wb[2 * n :]
    else:
        new = xw[:, 2 * n :] + by_r(r * h)[:, 2 * n :] + wb[2 * n :] + rb[2 * n :]
    new = apply(acts[1], np.clip(new, -layer.clip, layer.clip))
    return (1 - z) * new + z * h, c


def _lstm_step(layer: Layer, acts: Any, xw: Array, by_r: Any, wb: Array, rb: Array, h: Array,
               c: Array, p: Array | None) -> tuple[Array, Array]:  # fmt: skip
    n, clip = layer.hidden, layer.clip
    i, o, f, new = np.split(xw + by_r(h) + wb + rb, [n, 2 * n, 3 * n], axis=1)
    peephole = np.zeros((3, n)) if p is None else p
    i = apply(acts[0], np.clip(i + peephole[0] * c, -clip, clip))
    f = 1 - i if layer.flag else apply(acts[0], np.clip(f + peephole[2] * c, -clip, clip))
    c = f * c + i * apply(acts[1], np.clip(new, -clip, clip))
    o = apply(acts[0], np.clip(o + peephole[1] * c, -clip, clip))
    return o * apply(acts[2], c), c


_STEPS = {(2, 1): _rnn_step, (2, 3): _gru_step, (3, 4): _lstm_step}
