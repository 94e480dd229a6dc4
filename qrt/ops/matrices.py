"""Stacks of matrices in memory: which orders a product reads and writes, and its steps.

A left operand needs its rows in one piece; a computed right one its rows or its columns, so that
queries, keys and values of attention are read where the projections wrote them. A result may leave
gaps between its rows, for the heads beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qrt.ir import Node, Value
from qrt.ops.nests import collapse, element_strides, memory_order

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """Products whose operands follow each other: `groups` of them, from these elements on."""

    groups: int
    at: Ints  # of x, w and y
    steps: Ints  # from group to group, of x, w and y


@dataclass(frozen=True)
class Stack:
    """m x k times k x n; steps count elements: from row to row of x and y, k to k and column to
    column of w."""

    m: int
    k: int
    n: int
    x_row: int
    w_k: int
    w_n: int
    y_row: int
    jobs: tuple[Job, ...]


def stack(x: Value, w: Value, y: Value) -> Stack:
    """The products of x (..., m, k) and w (..., k, n), NumPy broadcasting, vectors included."""
    x_shape, w_shape = x.static_shape, w.static_shape
    x_steps, w_steps, y_steps = (list(element_strides(v)) for v in (x, w, y))
    m = x_shape[-2] if len(x_shape) > 1 else 1
    k = x_shape[-1]
    n = w_shape[-1] if len(w_shape) > 1 else 1
    if len(x_shape) == 1:
        x_shape, x_steps = (1, k), [k, 1]
        y_steps.insert(len(y_steps) - (len(w_shape) > 1), n)
    if len(w_shape) == 1:
        w_shape, w_steps = (k, 1), [1, 1]
        y_steps.append(1)
    batch = np.broadcast_shapes(x_shape[:-2], w_shape[:-2])
    nest = collapse(
        batch, _repeated(x_shape, x_steps, batch), _repeated(w_shape, w_steps, batch), y_steps[:-2]
    )
    rows = x_steps[-2], w_steps[-2], w_steps[-1], y_steps[-2]
    *outer, groups = nest.sizes or (1,)
    inner = tuple(s[-1] if s else 0 for s in nest.strides)
    if inner[1] == 0 and (inner[0], inner[2]) == (m * rows[0], m * rows[3]):
        # one right matrix: the rows of all groups are one product
        m, groups, inner = m * groups, 1, (0, 0, 0)
    jobs = []
    for index in np.ndindex(*outer):
        at = tuple(
            sum(i * s for i, s in zip(index, steps, strict=False)) for steps in nest.strides
        )
        jobs.append(Job(groups, at, inner))
    return Stack(m, k, n, *rows, tuple(jobs))


def readable(value: Value, side: int) -> bool:
    """True when a product reads `value` where it lies, as its left (0) or right (1) operand."""
    shape = value.static_shape
    if len(shape) < 2 or value.is_constant:
        return False
    moving = [axis for axis in memory_order(value) if shape[axis] != 1]
    allowed = (len(shape) - 1, len(shape) - 2)[: side + 1]
    return not moving or moving[-1] in allowed


def written(node: Node) -> tuple[int, ...] | None:
    """The order of the result of a product: that of its right operand where its rows are whole, so
    that heads lie beside each other as they did."""
    w, shape = node.required(1), node.outputs[0].static_shape
    if w.is_constant or w.layout is None or len(w.layout) != len(shape):
        return None
    return w.layout if w.layout[-1] == len(shape) - 1 else None


def _repeated(shape: Ints, steps: list[int], batch: Ints) -> list[int]:
    """Steps of the batch axes, 0 where they repeat."""
    lead = len(batch) - (len(shape) - 2)
    return [0] * lead + [
        0 if size == 1 else step for size, step in zip(shape[:-2], steps[:-2], strict=True)
    ]
