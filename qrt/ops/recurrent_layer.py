"""What a recurrent node is: sizes and attributes of RNN, GRU and LSTM, read and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.recurrent_activations import ACTIVATIONS, choose

F32 = np.dtype(np.float32)

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


def output_shapes(layer: Layer, outputs: int) -> Sequence[tuple[tuple[int, ...], Any]]:
    """Y, Y_h, Y_c: as many as the node lists."""
    shapes = [layer.y_shape, layer.state_shape, layer.state_shape]
    return [(shape, F32) for shape in shapes[:outputs]]
