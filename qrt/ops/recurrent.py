"""RNN, GRU and LSTM of float32 (ONNX, opset 7 to 22): one product with the whole input, then steps.

Per direction: xw = x @ W.T over all steps and batch rows at once; per step hr = h @ R.T and one row
of gates (`recurrent_steps`). Both products are chains of fused multiply-adds (docs/machine.md), so
bits depend on nothing but the operands. Sequences shorter than the longest end early: their state
stays, their outputs are zeros. Cells are clipped where ONNX Runtime does, at the sums that f and g
take, not at the state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node, Value
from qrt.jit.declare import Kernel
from qrt.ops.movement import emit_move
from qrt.ops.recurrent_activations import CODES
from qrt.ops.recurrent_layer import CELLS, F32, Layer, check_shapes, output_shapes, parse
from qrt.ops.recurrent_products import FloatProducts, Products
from qrt.ops.recurrent_reference import evaluate
from qrt.ops.recurrent_steps import gru_gates_kernel, gru_state_kernel, lstm_kernel, rnn_kernel
from qrt.ops.spec import Array, Lowering, Operand, OpSpec

ITEMSIZE = 4
ZERO_OPERAND = 0  # of fields that a flag switches off


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


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    layer = parse(node)
    x, w, r, b, lens, h0, c0, p = [*inputs, *[None] * 8][:8]
    assert x is not None and w is not None and r is not None
    products = [
        (lambda v, m=w[d]: v @ m.T.astype(np.float64), lambda v, m=r[d]: v @ m.T.astype(np.float64))
        for d in range(layer.directions)
    ]
    return evaluate(layer, x, products, b, lens, h0, c0, p)[: len(node.outputs)]


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
