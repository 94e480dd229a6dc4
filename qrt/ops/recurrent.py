"""RNN, GRU and LSTM of float32 (ONNX, opset 7 to 22): one product with the whole input, then steps.

Per direction: xw = x @ W.T over all steps and batch rows at once; per step hr = h @ R.T and one row
of gates (`recurrent_steps`). Both products are chains of fused multiply-adds (docs/machine.md), so
bits depend on nothing but the operands. Sequences shorter than the longest end early: their state
stays, their outputs are zeros. Cells are clipped where ONNX Runtime does, at the sums that f and g
take, not at the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Kernel
from qrt.ops.movement import emit_move
from qrt.ops.recurrent_activations import ACTIVATIONS, CODES, apply, choose
from qrt.ops.recurrent_products import FloatProducts, Products
from qrt.ops.recurrent_steps import gru_gates_kernel, gru_state_kernel, lstm_kernel, rnn_kernel
from qrt.ops.spec import Array, Lowering, Operand, OpSpec

F32 = np.dtype(np.float32)
ITEMSIZE = 4
ZERO_OPERAND = 0  # of fields that a flag switches off

Act = tuple[str, float, float]


@dataclass(frozen=True)
class Cell:
    """A kind of layer: gates in W and R, activations of one direction, number of outputs."""

    gates: int
    activations: tuple[str, ...]
    outputs: int
    attrs: tuple[str, ...] = ()


CELLS = {
    "RNN": Cell(1, ("Tanh",), 2),
    "GRU": Cell(3, ("Sigmoid", "Tanh"), 2, ("linear_before_reset",)),
    "LSTM": Cell(4, ("Sigmoid", "Tanh", "Tanh"), 3, ("input_forget",)),
}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@dataclass(frozen=True)
class Layer:
    """A recurrent node's sizes and attributes; `reversed_` and `activations` per direction."""

    cell: Cell
    hidden: int
    steps: int
    batch: int
    inputs: int
    reversed_: tuple[bool, ...]
    activations: tuple[tuple[Act, ...], ...]
    clip: float
    batch_first: bool
    flag: bool  # linear_before_reset or input_forget

    @property
    def directions(self) -> int:
        return len(self.reversed_)

    @property
    def y_shape(self) -> tuple[int, ...]:
        if self.batch_first:
            return (self.batch, self.steps, self.directions, self.hidden)
        return (self.steps, self.directions, self.batch, self.hidden)

    @property
    def state_shape(self) -> tuple[int, ...]:
        if self.batch_first:
            return (self.batch, self.directions, self.hidden)
        return (self.directions, self.batch, self.hidden)


def parse(node: Node) -> Layer:
    """Sizes and attributes. Raises ModelError where operands do not fit each other."""
    cell = CELLS[node.op.removeprefix("DynamicQuantize")]
    x = node.required(0).static_shape
    attrs = AttrReader(node, ("output_sequence",) if node.version < 7 else ())
    direction = attrs.string("direction", "forward", tuple(DIRECTIONS))
    reversed_ = DIRECTIONS[direction]
    names = attrs.strings("activations", cell.activations * len(reversed_))
    alphas = attrs.floats("activation_alpha", ())
    betas = attrs.floats("activation_beta", ())
    clip = attrs.float("clip", math.inf)
    batch_first = attrs.bool("layout", False)
    flag = [attrs.bool(name, False) for name in cell.attrs]
    hidden = attrs.int("hidden_size", 0)
    attrs.done()
    if len(x) != 3:
        raise ModelError(f"X must have 3 axes, got {list(x)}")
    if not hidden:
        initial = node.required(2).static_shape
        hidden = initial[-1] if initial else 0
    if hidden <= 0:
        raise ModelError(f"hidden_size must be positive, got {hidden}")
    if not clip >= 0:
        raise ModelError(f"clip must not be negative, got {clip}")
    if len(names) != len(cell.activations) * len(reversed_):
        raise ModelError(
            f"activations must be {len(cell.activations)} per direction, got {len(names)} for"
            f" {len(reversed_)}"
        )
    try:
        chosen = choose(names, alphas, betas)
    except KeyError as error:
        raise UnsupportedError(
            f"activation {error} is not supported, only {', '.join(ACTIVATIONS)}"
        ) from None
    each = len(cell.activations)
    batch, steps = (x[0], x[1]) if batch_first else (x[1], x[0])
    return Layer(
        cell=cell,
        hidden=hidden,
        steps=steps,
        batch=batch,
        inputs=x[2],
        reversed_=reversed_,
        activations=tuple(tuple(chosen[d * each : (d + 1) * each]) for d in range(len(reversed_))),
        clip=clip,
        batch_first=batch_first,
        flag=bool(flag and flag[0]),
    )


def check_shapes(node: Node, layer: Layer) -> None:
    """Raise ModelError for a bias, length, state or peephole of another shape or type."""
    wide, d = layer.cell.gates * layer.hidden, layer.directions
    wanted: list[tuple[int, str, tuple[int, ...], Any]] = [
        (3, "B", (d, 2 * wide), np.float32),
        (4, "sequence_lens", (layer.batch,), np.int32),
        (5, "initial_h", layer.state_shape, np.float32),
        (6, "initial_c", layer.state_shape, np.float32),
        (7, "P", (d, 3 * layer.hidden), np.float32),
    ]
    for i, name, shape, dtype in wanted:
        value = node.input(i)
        if value is None:
            continue
        if value.static_shape != shape:
            raise ModelError(f"{name} must be {list(shape)}, got {list(value.static_shape)}")
        if value.dtype != dtype:
            raise UnsupportedError(f"{name} must be {np.dtype(dtype)}, got {value.dtype}")


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], Any]]:
    layer = parse(node)
    wide, d = layer.cell.gates * layer.hidden, layer.directions
    for i, name, shape in (
        (1, "W", (d, wide, layer.inputs)),
        (2, "R", (d, wide, layer.hidden)),
    ):
        if node.required(i).static_shape != shape:
            raise ModelError(
                f"{name} must be {list(shape)}, got {list(node.required(i).static_shape)}"
            )
    for value in node.inputs[:3]:
        if value is not None and value.dtype != np.float32:
            raise UnsupportedError(f"{node.op} of {value.dtype} is not supported, only float32")
    check_shapes(node, layer)
    return output_shapes(layer, len(node.outputs))


def output_shapes(layer: Layer, outputs: int) -> Sequence[tuple[tuple[int, ...], Any]]:
    """Y, Y_h, Y_c: as many as the node lists."""
    shapes = [layer.y_shape, layer.state_shape, layer.state_shape]
    return [(shape, F32) for shape in shapes[:outputs]]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    layer = parse(node)
    x, w, r, b, lens, h0, c0, p = [*inputs, *[None] * 8][:8]
    assert x is not None and w is not None and r is not None
    products = [
        (lambda v, m=w[d]: v @ m.T.astype(np.float64), lambda v, m=r[d]: v @ m.T.astype(np.float64))
        for d in range(layer.directions)
    ]
    return evaluate(layer, x, products, b, lens, h0, c0, p)[: len(node.outputs)]


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


def lower(node: Node, program: Lowering) -> None:
    layer = parse(node)
    products = [
        FloatProducts(program, node.required(1), node.required(2), d)
        for d in range(layer.directions)
    ]
    lower_layer(node, program, layer, products, node.input(7))


def lower_layer(
    node: Node,
    program: Lowering,
    layer: Layer,
    products: Sequence[Products],
    peephole: Value | None,
) -> None:
    """Rows of all directions; `products` emit those with W and R."""
    if not all((layer.batch, layer.directions)):
        return
    outputs = [*node.outputs, *[None] * 3][:3]
    y, y_h, y_c = (None if v is None or not v.name else v for v in outputs)
    initial = [node.input(5), node.input(6)]
    states = [
        _state(program, layer, node, name, value, start)
        for name, value, start in zip("hc", (y_h, y_c), initial, strict=True)
    ][: layer.cell.outputs - 1]
    if not layer.steps:
        return
    wide = layer.cell.gates * layer.hidden
    bias = node.input(3)
    all_bias = (
        program.constant(np.zeros(layer.directions * 2 * wide, np.float32))
        if bias is None
        else program.operand(bias)
    )
    lens = node.input(4)
    for d in range(layer.directions):
        xw = program.scratch(layer.steps * layer.batch * wide * ITEMSIZE)
        products[d].project(program.operand(node.required(0)), layer.steps * layer.batch, xw)
        rows = _Direction(layer, d, program, products[d], xw)
        common = {
            "bias": all_bias.at(d * 2 * wide * ITEMSIZE),
            "lens": ZERO_OPERAND if lens is None else program.operand(lens),
            "has_lens": int(lens is not None),
            "has_y": int(y is not None),
        }
        at = [state.at(d * layer.hidden * ITEMSIZE * (1 if layer.batch_first else layer.batch))
              for state in states]  # fmt: skip
        weights = (
            None if peephole is None else program.operand(peephole).at(d * 3 * layer.hidden * 4)
        )
        order = range(layer.steps)
        for t in reversed(order) if layer.reversed_[d] else order:
            out = ZERO_OPERAND if y is None else program.operand(y).at(rows.y_at(t))
            rows.step(t, common | {"y": out}, at, weights)


def _state(
    program: Lowering, layer: Layer, node: Node, name: str, value: Value | None, start: Value | None
) -> Operand:
    """Where the state lives: the output, or memory of its own; filled with the initial one."""
    if value is None:
        value = Value(f"{node.outputs[0].name}/{name}", F32, layer.state_shape)
    place = program.operand(value)
    size = math.prod(layer.state_shape)
    if start is None:
        emit_move(program, program.constant(np.zeros(1, np.float32)), place, 4, (size,), (0,), (1,))
    else:
        emit_move(program, program.operand(start), place, 4, (size,), (1,), (1,))
    return place


@dataclass(frozen=True)
class _Direction:
    """Emits the rows of one direction's steps."""

    layer: Layer
    d: int
    program: Lowering
    products: Products
    xw: Operand

    @property
    def h_step(self) -> int:
        """Bytes from batch row to batch row of the states."""
        directions = self.layer.directions if self.layer.batch_first else 1
        return directions * self.layer.hidden * ITEMSIZE

    def y_at(self, t: int) -> int:
        """Bytes from the start of Y to step t, batch row 0."""
        layer = self.layer
        if layer.batch_first:
            return (t * layer.directions + self.d) * layer.hidden * ITEMSIZE
        return (t * layer.directions + self.d) * layer.batch * layer.hidden * ITEMSIZE

    def step(
        self, t: int, fields: dict[str, Any], states: Sequence[Operand], peephole: Operand | None
    ) -> None:
        layer, program = self.layer, self.program
        n, gates = layer.hidden, layer.cell.gates
        line = n * ITEMSIZE
        wide = gates * line
        hr = program.scratch(layer.batch * wide)
        first = layer.batch_first
        fields |= {
            "xw": self.xw.at(t * wide * (1 if first else layer.batch)),
            "hr": hr,
            "h": states[0],
            "step": t,
            "batch": layer.batch,
            "hidden": n,
            "xw_step": wide * (layer.steps if first else 1),
            "h_step": self.h_step,
            "y_step": line * (layer.steps * layer.directions if first else 1),
            "clip": np.float32(layer.clip),
        }
        for name, (kind, alpha, beta) in zip("fgo", layer.activations[self.d], strict=False):
            fields |= {
                name: CODES[kind],
                f"{name}_alpha": np.float32(alpha),
                f"{name}_beta": np.float32(beta),
            }
        if gates == 3:
            self._gru(fields, states[0], hr)
            return
        self.products.recur(states[0], self.h_step, layer.batch, (0, gates * n), hr, wide)
        kernel: Kernel = rnn_kernel
        if gates == 4:
            kernel = lstm_kernel
            fields |= {
                "c": states[1],
                "peephole": ZERO_OPERAND if peephole is None else peephole,
                "has_peephole": int(peephole is not None),
                "input_forget": int(layer.flag),
            }
        program.emit(kernel, **fields)

    def _gru(self, fields: dict[str, Any], h: Operand, hr: Operand) -> None:
        layer, program = self.layer, self.program
        n, wide = layer.hidden, 3 * layer.hidden * ITEMSIZE
        gated = program.scratch(layer.batch * n * ITEMSIZE)
        columns = (0, 3 * n if layer.flag else 2 * n)
        self.products.recur(h, self.h_step, layer.batch, columns, hr, wide)
        flag = int(layer.flag)
        silent = {"y": ZERO_OPERAND, "has_y": 0, "lens": ZERO_OPERAND, "has_lens": 0}
        program.emit(
            gru_gates_kernel, **(fields | silent), candidate=gated, linear_before_reset=flag
        )
        candidate = gated
        if not layer.flag:
            candidate = program.scratch(layer.batch * n * ITEMSIZE)
            line = n * ITEMSIZE
            self.products.recur(gated, line, layer.batch, (2 * n, 3 * n), candidate, line)
        program.emit(gru_state_kernel, **fields, candidate=candidate, linear_before_reset=flag)


SPECS = tuple(OpSpec(op, "", infer, reference, lower) for op in CELLS)
