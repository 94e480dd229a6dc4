"""Inputs that must be known before the first run: shapes, axes, pads, indices."""

from __future__ import annotations

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ops.spec import Array


def constant_input(node: Node, i: int, name: str) -> Array:
    """Elements of input `i`; UnsupportedError when they are known only at run time."""
    value = node.required(i)
    if value.data is None:
        raise UnsupportedError(f"{name} must be constant, it depends on the input data")
    return value.data


def constant_ints(node: Node, i: int, name: str) -> tuple[int, ...]:
    """Input `i` as a tuple of integers."""
    return tuple(int(v) for v in constant_input(node, i, name).reshape(-1))


def optional_ints(node: Node, i: int, name: str) -> tuple[int, ...] | None:
    """Input `i` as integers; None when it is omitted."""
    return None if node.input(i) is None else constant_ints(node, i, name)
