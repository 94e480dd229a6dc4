"""How large the result of a node is whose inputs say so: looked at before it is made.

A few bytes of input may ask for any number of output bytes (ConstantOfShape, Expand, Tile, Range,
Pad, Resize, ...). In a program the shapes are planned and `max_bytes` applies to the plan; a node
that runs by itself is held to the same limit here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qrt.errors import MemoryLimitError
from qrt.ir import Node

LIMIT = 2**33  # bytes of one result where the caller sets no `max_bytes`; as of a file's tensors

Elements = Callable[[Node, Sequence[Any]], int]


def check_growth(node: Node, inputs: Sequence[Any], max_bytes: int | None) -> None:
    """Raise MemoryLimitError when the result of `node` would take more than `max_bytes`."""
    rule = GROWING.get(node.op) if node.domain == "" else None
    if rule is None:
        return
    try:
        elements = rule(node, inputs)
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError):
        return  # it breaks a rule of its operator, which says so
    limit = LIMIT if max_bytes is None else max_bytes
    itemsize = next((x.dtype.itemsize for x in inputs if isinstance(x, np.ndarray)), 1)
    if node.op in UNTYPED:
        itemsize = UNTYPED[node.op](node, inputs)
    if elements * itemsize > limit:
        name = "max_bytes allows" if max_bytes is not None else "one tensor may have"
        raise MemoryLimitError(
            f"its result of {elements} elements needs {elements * itemsize} bytes, {name} {limit}"
        )


def _integers(value: Any) -> list[int]:
    return [int(v) for v in np.asarray(value).reshape(-1)]


def _product(sizes: Sequence[int]) -> int:
    return math.prod(max(size, 0) for size in sizes)


def _expand(node: Node, inputs: Sequence[Any]) -> int:
    shape, x = _integers(inputs[1]), list(inputs[0].shape)
    rank = max(len(shape), len(x))
    pairs = zip([1] * (rank - len(shape)) + shape, [1] * (rank - len(x)) + x, strict=True)
    return _product([max(a, b) for a, b in pairs])


def _tile(node: Node, inputs: Sequence[Any]) -> int:
    return int(inputs[0].size) * _product(_integers(inputs[1]))


def _range(node: Node, inputs: Sequence[Any]) -> int:
    start, limit, delta = (np.asarray(x).reshape(())[()].item() for x in inputs)
    return int(max(math.ceil((limit - start) / delta), 0))


def _pad(node: Node, inputs: Sequence[Any]) -> int:
    shape, pads = list(inputs[0].shape), _integers(inputs[1])
    axes = inputs[3] if len(inputs) > 3 else None
    half = len(pads) // 2
    for i, axis in enumerate(range(len(shape)) if axes is None else _integers(axes)):
        shape[axis] += pads[i] + pads[i + half]
    return _product(shape)


def _resize(node: Node, inputs: Sequence[Any]) -> int:
    shape = list(inputs[0].shape)
    axes = node.attrs.get("axes", range(len(shape)))
    sizes = inputs[3] if len(inputs) > 3 else None
    scales = inputs[2] if len(inputs) > 2 else inputs[1] if node.op == "Upsample" else None
    for i, axis in enumerate(axes):
        if sizes is not None and np.size(sizes):
            shape[axis] = _integers(sizes)[i]
        elif scales is not None:
            shape[axis] = int(shape[axis] * float(np.asarray(scales)[i]))
    return _product(shape)


def _one_hot(node: Node, inputs: Sequence[Any]) -> int:
    return int(inputs[0].size) * _integers(inputs[1])[0]


def _first_sizes(node: Node, inputs: Sequence[Any]) -> int:
    return _product(_integers(inputs[0]))


def _mel(node: Node, inputs: Sequence[Any]) -> int:
    return _integers(inputs[0])[0] * (_integers(inputs[1])[0] // 2 + 1)


def _last_sizes(node: Node, inputs: Sequence[Any]) -> int:
    return _product(_integers(inputs[-1]))


def _channels(node: Node, inputs: Sequence[Any]) -> int:
    return _product(inputs[0].shape[:2]) * _product(_integers(inputs[1]))


def _concat_sequence(node: Node, inputs: Sequence[Any]) -> int:
    """Bytes: a sequence may hold one array any number of times."""
    return sum(int(array.nbytes) for array in inputs[0])


def _gather(node: Node, inputs: Sequence[Any]) -> int:
    x, indices = inputs[0], inputs[1]
    length = max(int(x.shape[int(node.attrs.get("axis", 0))]), 1)
    return int(x.size) // length * int(indices.size)


def _string_concat(node: Node, inputs: Sequence[Any]) -> int:
    """Bytes, where each character takes one: a loop may double a string again and again."""
    longest = sum(max(map(len, x.reshape(-1)), default=0) for x in inputs)
    return int(_product(np.broadcast_shapes(*(x.shape for x in inputs))) * longest)


GROWING: dict[str, Elements] = {
    "AffineGrid": _last_sizes,
    "BlackmanWindow": _first_sizes,
    "CenterCropPad": _last_sizes,
    "Col2Im": _channels,
    "ConcatFromSequence": _concat_sequence,
    "ConstantOfShape": _first_sizes,
    "Expand": _expand,
    "Gather": _gather,
    "HammingWindow": _first_sizes,
    "HannWindow": _first_sizes,
    "MaxUnpool": _last_sizes,
    "MelWeightMatrix": _mel,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Resize": _resize,
    "StringConcat": _string_concat,
    "Tile": _tile,
    "Upsample": _resize,
}
# bytes of an element of the result, where that has not the first input's type
UNTYPED: dict[str, Elements] = {
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix"),
                    lambda node, inputs: 4),
    "ConstantOfShape": lambda node, inputs: int(
        np.asarray(node.attrs.get("value", np.zeros(1, np.float32))).itemsize
    ),
    "StringConcat": lambda node, inputs: 1,
    "OneHot": lambda node, inputs: int(inputs[2].dtype.itemsize),
}  # fmt: skip
