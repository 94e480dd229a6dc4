"""Sequences and optionals as Python values: a list of arrays, and a value or None.

Sources: ONNX SequenceAt 11, SequenceConstruct 11, SequenceEmpty 11, SequenceErase 11,
SequenceInsert 11, SequenceLength 11, ConcatFromSequence 11, SplitToSequence 24, Optional 15,
OptionalGetElement 18, OptionalHasElement 18.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qrt.ir import Node

Array = np.ndarray[Any, Any]
# values of the inputs (omitted ones None) to those of the outputs
ValueFunction = Callable[[Node, Sequence[Any]], list[Any]]


def _position(index: Any, length: int, last: int) -> int:
    """Of -length .. last, counted from the start."""
    position = int(np.asarray(index).item())
    if not -length <= position <= last:
        raise IndexError(f"position must be {-length} to {last}, got {position}")
    return position + length if position < 0 else position


def _at(node: Node, inputs: Sequence[Any]) -> list[Any]:
    sequence = inputs[0]
    return [sequence[_position(inputs[1], len(sequence), len(sequence) - 1)]]


def _construct(node: Node, inputs: Sequence[Any]) -> list[Any]:
    return [list(inputs)]


def _empty(node: Node, inputs: Sequence[Any]) -> list[Any]:
    return [[]]


def _erase(node: Node, inputs: Sequence[Any]) -> list[Any]:
    kept = list(inputs[0])
    index = inputs[1] if len(inputs) > 1 and inputs[1] is not None else -1
    del kept[_position(index, len(kept), len(kept) - 1)]
    return [kept]


def _insert(node: Node, inputs: Sequence[Any]) -> list[Any]:
    longer = list(inputs[0])
    end = len(longer)
    index = inputs[2] if len(inputs) > 2 and inputs[2] is not None else end
    longer.insert(_position(index, end, end), inputs[1])
    return [longer]


def _length(node: Node, inputs: Sequence[Any]) -> list[Any]:
    return [np.array(len(inputs[0]), np.int64)]


def _concat(node: Node, inputs: Sequence[Any]) -> list[Any]:
    axis = int(node.attrs["axis"])
    if not inputs[0]:
        raise ValueError("the sequence is empty")
    join = np.stack if node.attrs.get("new_axis", 0) else np.concatenate
    return [join(inputs[0], axis=axis)]


def _split(node: Node, inputs: Sequence[Any]) -> list[Any]:
    x = inputs[0]
    axis = int(node.attrs.get("axis", 0))
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be {-x.ndim} to {x.ndim - 1}, got {axis}")
    length = x.shape[axis]
    split = inputs[1] if len(inputs) > 1 else None
    if split is None:
        parts = [np.take(x, [i], axis) for i in range(length)]
        keep = node.attrs.get("keepdims", 1)
        return [parts if keep else [np.squeeze(part, axis) for part in parts]]
    if split.ndim == 0:
        step = int(split)
        if step < 1:
            raise ValueError(f"split must be positive, got {step}")
        ends = [*range(step, length, step), length]
    else:
        sizes = [int(size) for size in split]
        if min(sizes, default=0) < 0 or sum(sizes) != length:
            raise ValueError(f"split must add up to {length}, got {sizes[:8]}")
        ends = [int(end) for end in np.cumsum(sizes)]
    starts = [0, *ends[:-1]]
    index = [slice(None)] * x.ndim
    parts = []
    for start, end in zip(starts, ends, strict=True):
        index[axis] = slice(start, end)
        parts.append(x[tuple(index)].copy())
    return [parts]


def _optional(node: Node, inputs: Sequence[Any]) -> list[Any]:
    return [inputs[0] if inputs else None]


def _get(node: Node, inputs: Sequence[Any]) -> list[Any]:
    if inputs[0] is None:
        raise ValueError("the optional holds nothing")
    return [inputs[0]]


def _has(node: Node, inputs: Sequence[Any]) -> list[Any]:
    return [np.array(bool(inputs) and inputs[0] is not None)]


def _identity(node: Node, inputs: Sequence[Any]) -> list[Any]:
    return [inputs[0]]


FUNCTIONS: dict[str, ValueFunction] = {
    "ConcatFromSequence": _concat,
    "Identity": _identity,
    "Optional": _optional,
    "OptionalGetElement": _get,
    "OptionalHasElement": _has,
    "SequenceAt": _at,
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": _length,
    "SplitToSequence": _split,
}
