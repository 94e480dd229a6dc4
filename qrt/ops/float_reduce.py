"""ReduceMean, ReduceSum, ReduceMax, ReduceMin and GlobalAveragePool of float32, over any axes.

Sums have one order whatever the threads: element by element where neighbouring outputs fill the
lanes of a vector, in 16 lanes that are then added up where the reduced elements are contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.channels import normalized_axes
from qrt.ops.constants import optional_ints
from qrt.ops.reduce_mean import reduced_shape
from qrt.ops.reductions import FIELDS as NEST_FIELDS
from qrt.ops.reductions import nest_fields, nest_reach, reduction_nests
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share
from qrt.simd.vectors import (
    add_f32x16,
    div_f32x16,
    load_f32x16,
    max_f32x16,
    max_lanes_f32x16,
    min_f32x16,
    min_lanes_f32x16,
    splat_f32x16,
    store_f32x16,
    sum_lanes_f32x16,
)

FIELDS = ("x", "y", *NEST_FIELDS)
(
    X, Y, N0, N1, N2, XS0, XS1, XS2, YS0, YS1, YS2, R0, R1, R2, RS0, RS1, RS2,
) = slots(FIELDS)  # fmt: skip
AXES_INPUT = {"ReduceSum": 13}  # version since which axes are an input; 18 for the others


def parse(node: Node) -> tuple[tuple[int, ...], bool]:
    """(axes, keepdims)."""
    rank = len(node.required(0).static_shape)
    attrs = AttrReader(node)
    if node.op == "GlobalAveragePool":
        attrs.done()
        return tuple(range(2, rank)), True
    keepdims = attrs.bool("keepdims", True)
    empty_is_noop = attrs.bool("noop_with_empty_axes", False)
    if node.version < AXES_INPUT.get(node.op, 18):
        axes: Sequence[int] | None = attrs.ints("axes") if attrs.has("axes") else None
    else:
        axes = optional_ints(node, 1, "axes")
    attrs.done()
    if not axes:
        axes = () if empty_is_noop else tuple(range(rank))
    return normalized_axes(tuple(axes), rank), keepdims


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x = node.required(0)
    return [(reduced_shape(x.static_shape, *parse(node)), x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x = inputs[0]
    assert x is not None
    axes, keepdims = parse(node)
    function: Any = {"ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min}.get(
        node.op, np.mean
    )
    if x.dtype == np.float32 and _reduces_nothing(x.shape, axes):
        shape = reduced_shape(x.shape, axes, keepdims)
        return [np.full(shape, OF_NOTHING[_kernel_name(node)], np.float32)]
    wide = x.astype(np.float64) if x.dtype == np.float32 else x
    return [np.asarray(function(wide, axis=axes, keepdims=keepdims)).astype(x.dtype)]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    if x.dtype != np.float32:
        raise UnsupportedError(f"{node.op} of {x.dtype} is not supported, only float32")
    axes, keepdims = parse(node)
    if math.prod(y.static_shape) == 0:
        return
    if _reduces_nothing(x.static_shape, axes):
        full = np.full(y.static_shape, OF_NOTHING[_kernel_name(node)], np.float32)
        program.alias(y, Value(y.name, y.dtype, y.shape, full))
        return
    outputs, reduced = reduction_nests(x, y, axes, keepdims)
    program.emit(
        KERNELS[_kernel_name(node)],
        x=program.operand(x),
        y=program.operand(y),
        **nest_fields(outputs, reduced),
    )


def _kernel_name(node: Node) -> str:
    return "ReduceMean" if node.op == "GlobalAveragePool" else node.op


def _reduces_nothing(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    return math.prod(shape[a] for a in axes) == 0


def extents(row: Mapping[str, int]) -> list[Extent]:
    x, y = nest_reach(row)
    return [
        Extent("x", 4 * (x[1] - x[0]), start=4 * x[0]),
        Extent("y", 4 * (y[1] - y[0]), writes=True, start=4 * y[0]),
    ]


@helper
def _add(a, b):  # type: ignore[no-untyped-def]
    return a + b


@helper
def _maximum(a, b):  # type: ignore[no-untyped-def]
    return b if b > a else a


@helper
def _minimum(a, b):  # type: ignore[no-untyped-def]
    return b if b < a else a


@helper
def _add16(a, b):  # type: ignore[no-untyped-def]
    return add_f32x16(a, b)


@helper
def _max16(a, b):  # type: ignore[no-untyped-def]
    return max_f32x16(b, a)


@helper
def _min16(a, b):  # type: ignore[no-untyped-def]
    return min_f32x16(b, a)


def _declare(
    op: str, initial: Any, one: Callable[..., Any], many: Callable[..., Any], lanes: Any
) -> Kernel:
    mean = op == "ReduceMean"

    @helper
    def columns(x, y, row, count):  # type: ignore[no-untyped-def]
        """16 neighbouring outputs."""
        acc = splat_f32x16(initial)
        for i in range(row[R0]):
            for j in range(row[R1]):
                source = x + 4 * (i * row[RS0] + j * row[RS1])
                for k in range(row[R2]):
                    acc = many(acc, load_f32x16(source + 4 * k * row[RS2]))
        store_f32x16(y, div_f32x16(acc, splat_f32x16(count)) if mean else acc)

    @helper
    def single(x, row, count, contiguous):  # type: ignore[no-untyped-def]
        acc = initial
        for i in range(row[R0]):
            for j in range(row[R1]):
                source = x + 4 * (i * row[RS0] + j * row[RS1])
                k = 0
                if contiguous and row[R2] >= 16:
                    wide = splat_f32x16(initial)
                    while k + 16 <= row[R2]:
                        wide = many(wide, load_f32x16(source + 4 * k))
                        k += 16
                    acc = one(acc, lanes(wide))
                while k < row[R2]:
                    acc = one(acc, as_f32(source)[k * row[RS2]])
                    k += 1
        return acc / count if mean else acc

    @kernel(f"{op.lower()}_f32", FIELDS, extents, family="reduce_f32")
    def reduce_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        count = np.float32(row[R0] * row[R1] * row[R2])
        side_by_side = row[XS2] == 1 and row[YS2] == 1
        contiguous = row[RS2] == 1 and not side_by_side
        rows = row[N0] * row[N1]
        # few rows (one image): threads share the columns, in blocks of whole vectors
        c0, c1 = np.int64(0), row[N2]
        r0, r1 = np.int64(0), rows
        if rows >= threads:
            r0, r1 = share(rows, thread, threads, 1)
        else:
            c0, c1 = share(row[N2], thread, threads, 64)
        for r in range(r0, r1):
            i = r // row[N1]
            j = r % row[N1]
            at_x = x + 4 * (i * row[XS0] + j * row[XS1])
            at_y = y + 4 * (i * row[YS0] + j * row[YS1])
            c = c0
            while side_by_side and c + 16 <= c1:
                columns(at_x + 4 * c, at_y + 4 * c, row, count)
                c += 16
            while c < c1:
                value = single(at_x + 4 * c * row[XS2], row, count, contiguous)
                as_f32(at_y)[c * row[YS2]] = value
                c += 1
        return 0

    return reduce_kernel


INF = np.float32(np.inf)
# what no elements reduce to (ONNX ReduceMax, opset 20); the mean is 0 / 0
OF_NOTHING = {"ReduceMean": np.nan, "ReduceSum": 0.0, "ReduceMax": -np.inf, "ReduceMin": np.inf}
KERNELS = {
    "ReduceMean": _declare("ReduceMean", np.float32(0), _add, _add16, sum_lanes_f32x16),
    "ReduceSum": _declare("ReduceSum", np.float32(0), _add, _add16, sum_lanes_f32x16),
    "ReduceMax": _declare("ReduceMax", -INF, _maximum, _max16, max_lanes_f32x16),
    "ReduceMin": _declare("ReduceMin", INF, _minimum, _min16, min_lanes_f32x16),
}

OPERATORS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "GlobalAveragePool")
SPECS = tuple(OpSpec(op, "", infer, reference, lower, layout="any") for op in OPERATORS)
