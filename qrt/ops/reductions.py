"""A reduction as two nests: the outputs, and what is reduced into each, by memory order."""

from __future__ import annotations

from collections.abc import Mapping

from qrt.errors import UnsupportedError
from qrt.ir import Value
from qrt.ops.nests import (
    Nest,
    collapse,
    common_order,
    element_strides,
    memory_order,
    names,
    numbered,
    reach,
)

OUTER = 3  # loops over outputs
INNER = 3  # loops over what is reduced
FIELDS = (*names("n", OUTER), *names("x_stride", OUTER), *names("y_stride", OUTER),
          *names("r", INNER), *names("r_stride", INNER))  # fmt: skip


def reduction_nests(x: Value, y: Value, axes: tuple[int, ...], keepdims: bool) -> tuple[Nest, Nest]:
    """(outputs with strides of x and y, reduced elements with strides of x).

    The loops over outputs follow the memory of y, so that its innermost stride is 1.
    """
    shape, x_strides = x.static_shape, element_strides(x)
    kept = [a for a in range(len(shape)) if a not in axes]
    y_axis = {a: a if keepdims else i for i, a in enumerate(kept)}
    at = {y_axis[a]: a for a in kept}
    order = [at[j] for j in memory_order(y) if j in at]
    y_strides = element_strides(y)
    outputs = collapse(
        [shape[a] for a in order],
        [x_strides[a] for a in order],
        [y_strides[y_axis[a]] for a in order],
    )
    inner = [a for a in memory_order(x) if a in axes]
    reduced = collapse([shape[a] for a in inner], [x_strides[a] for a in inner])
    return outputs, reduced


def nest_fields(outputs: Nest, reduced: Nest) -> dict[str, int]:
    """Row fields `FIELDS`."""
    if len(outputs.sizes) > OUTER or len(reduced.sizes) > INNER:
        raise UnsupportedError(
            f"reduced axes lie scattered in memory: {len(outputs.sizes)} and {len(reduced.sizes)}"
            f" loops, at most {OUTER} and {INNER} are supported"
        )
    return {
        **outputs.padded(OUTER).fields("n", "x_stride", "y_stride"),
        **reduced.padded(INNER).fields("r", "r_stride"),
    }


def nest_reach(row: Mapping[str, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Element ranges of x and y that a row with `FIELDS` touches."""
    sizes = numbered(row, "n", OUTER)
    reduced = numbered(row, "r", INNER)
    strides = [*numbered(row, "x_stride", OUTER), *numbered(row, "r_stride", INNER)]
    return reach([*sizes, *reduced], strides), reach(sizes, numbered(row, "y_stride", OUTER))


def softmax_fields(x: Value, y: Value, axes: tuple[int, ...]) -> dict[str, int]:
    """Row fields of an operator that keeps the shape but normalises over `axes`.

    x and y lie in one memory order, so y strides serve x too.
    """
    order = common_order(x, y)
    shape, strides = x.static_shape, element_strides(x)
    kept = [a for a in order if a not in axes]
    inner = [a for a in order if a in axes]
    outer_strides = [strides[a] for a in kept]
    outputs = collapse([shape[a] for a in kept], outer_strides, outer_strides)
    reduced = collapse([shape[a] for a in inner], [strides[a] for a in inner])
    return nest_fields(outputs, reduced)


def softmax_reach(row: Mapping[str, int]) -> tuple[int, int]:
    """Element range that a row with `softmax_fields` touches in x and in y."""
    if numbered(row, "x_stride", OUTER) != numbered(row, "y_stride", OUTER):
        raise ValueError("x and y must have equal strides")
    return nest_reach(row)[0]
