"""ONNX's equations of RNN, GRU and LSTM, one batch row and one step at a time, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Function = Callable[[Array], Array]


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def run(
    op: str,
    x: Array,
    w: Array,
    r: Array,
    *,
    functions: tuple[Function, ...],
    b: Array | None = None,
    lens: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    p: Array | None = None,
    backward: tuple[bool, ...] = (False,),
    clip: float = np.inf,
    linear_before_reset: bool = False,
    input_forget: bool = False,
) -> tuple[Array, Array, Array]:
    """Y (steps, directions, batch, hidden), Y_h and Y_c (directions, batch, hidden)."""
    steps, batch, _ = x.shape
    directions, _, n = r.shape
    each = len(functions) // directions
    y = np.zeros((steps, directions, batch, n))
    y_h, y_c = np.zeros((2, directions, batch, n))
    for d in range(directions):
        mine = functions[d * each : (d + 1) * each]
        gates = r.shape[1] // n
        wd, rd = (v[d].reshape(gates, n, -1).astype(np.float64) for v in (w, r))
        wb, rb = np.zeros((2, gates, n)) if b is None else b[d].reshape(2, gates, n)
        pd = np.zeros((3, n)) if p is None else p[d].reshape(3, n)
        for row in range(batch):
            h = np.zeros(n) if h0 is None else h0[d, row].astype(np.float64)
            c = np.zeros(n) if c0 is None else c0[d, row].astype(np.float64)
            length = steps if lens is None else int(lens[row])
            for t in range(length)[:: -1 if backward[d] else 1]:
                xt = x[t, row].astype(np.float64)
                # the sum that gate g takes, without the state's own part where a reset gates it
                xs = [wd[g] @ xt + wb[g] for g in range(gates)]
                hs = [rd[g] @ h + rb[g] for g in range(gates)]

                def bound(v: Array) -> Array:
                    return np.minimum(np.maximum(v, -clip), clip)

                if op == "RNN":
                    h = mine[0](bound(xs[0] + hs[0]))
                elif op == "GRU":
                    f, g = mine
                    z, reset = f(bound(xs[0] + hs[0])), f(bound(xs[1] + hs[1]))
                    new = reset * hs[2] if linear_before_reset else rd[2] @ (reset * h) + rb[2]
                    h = (1 - z) * g(bound(xs[2] + new)) + z * h
                else:
                    f, g, out = mine
                    i = f(bound(xs[0] + hs[0] + pd[0] * c))
                    forget = 1 - i if input_forget else f(bound(xs[2] + hs[2] + pd[2] * c))
                    c = forget * c + i * g(bound(xs[3] + hs[3]))
                    o = f(bound(xs[1] + hs[1] + pd[1] * c))
                    h = o * out(c)
                y[t, d, row] = h
            y_h[d, row], y_c[d, row] = h, c
    return y, y_h, y_c
