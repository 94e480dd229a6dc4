"""Where and Not (ONNX, opset 1 to 16): choose by a bool, of any item size, NumPy broadcasting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops.movement import itemsize_of
from qrt.ops.movement_kernels import AS_ITEM
from qrt.ops.nests import elementwise_nest, names, numbered, reach
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.memory import as_u8, operand
from qrt.simd.scalar import share

RANK = 4
# y is contiguous in the order of the loops
FIELDS = (
    "c", "a", "b", "y", *names("n", RANK),
    *names("c_stride", RANK), *names("a_stride", RANK), *names("b_stride", RANK),
)  # fmt: skip
C, A, B, Y, N0, N1, N2, N3, C0, C1, C2, C3, A0, A1, A2, A3, B0, B1, B2, B3 = slots(FIELDS)
NOT_FIELDS = ("x", "y", "n")
NX, NY, NN = slots(NOT_FIELDS)
BOOL = np.dtype(np.bool_)


def infer_where(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    AttrReader(node).done()
    shapes = [node.required(i).static_shape for i in range(3)]
    return [(np.broadcast_shapes(*shapes), node.required(1).dtype)]


def reference_where(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    c, a, b = inputs
    assert c is not None and a is not None and b is not None
    return [np.where(c, a, b)]


def lower_where(node: Node, program: Lowering) -> None:
    c, a, b = (node.required(i) for i in range(3))
    y = node.outputs[0]
    if c.dtype != BOOL or a.dtype != b.dtype or itemsize_of(a) not in KERNELS:
        raise UnsupportedError(f"Where of {c.dtype}, {a.dtype} and {b.dtype} is not supported")
    nest = elementwise_nest(y, c, a, b)
    if nest.count == 0:
        return
    program.emit(
        KERNELS[itemsize_of(a)],
        c=program.operand(c),
        a=program.operand(a),
        b=program.operand(b),
        y=program.operand(y),
        **nest.padded(RANK).fields("n", "c_stride", "a_stride", "b_stride"),
    )


def _declare(itemsize: int, as_item: Any) -> Kernel:
    def extents(row: Mapping[str, int]) -> list[Extent]:
        sizes = numbered(row, "n", RANK)
        found = []
        for name, width in (("c", 1), ("a", itemsize), ("b", itemsize)):
            low, high = reach(sizes, numbered(row, f"{name}_stride", RANK))
            found.append(Extent(name, width * (high - low), start=width * low))
        return [*found, Extent("y", itemsize * math.prod(sizes), writes=True)]

    @kernel(f"where_{itemsize}", FIELDS, extents, family="where")
    def where(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        c = as_u8(operand(row, C, arena, constants))
        a = as_item(operand(row, A, arena, constants))
        b = as_item(operand(row, B, arena, constants))
        y = as_item(operand(row, Y, arena, constants))
        n1, n2, n = row[N1], row[N2], row[N3]
        c_step, a_step, b_step = row[C3], row[A3], row[B3]
        start, stop = share(row[N0] * n1 * n2, thread, threads, 1)
        for r in range(start, stop):
            i2 = r % n2
            i1 = r // n2 % n1
            i0 = r // n2 // n1
            at_c = i0 * row[C0] + i1 * row[C1] + i2 * row[C2]
            at_a = i0 * row[A0] + i1 * row[A1] + i2 * row[A2]
            at_b = i0 * row[B0] + i1 * row[B1] + i2 * row[B2]
            for i in range(n):
                one = a[at_a + i * a_step]
                other = b[at_b + i * b_step]
                y[r * n + i] = one if c[at_c + i * c_step] != 0 else other
        return 0

    return where


def infer_not(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    AttrReader(node).done()
    return [(node.required(0).static_shape, BOOL)]


def reference_not(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    return [np.logical_not(x)]


def lower_not(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    if x.dtype != BOOL:
        raise UnsupportedError(f"Not of {x.dtype} is not supported, only bool")
    n = math.prod(x.static_shape)
    program.emit(not_kernel, x=program.operand(x), y=program.operand(y), n=n)


def not_extents(row: Mapping[str, int]) -> list[Extent]:
    n = product(row, "n")
    return [Extent("x", n), Extent("y", n, writes=True)]


@kernel("not_bool", NOT_FIELDS, not_extents)
def not_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = as_u8(operand(row, NX, arena, constants))
    y = as_u8(operand(row, NY, arena, constants))
    start, stop = share(row[NN], thread, threads, 4096)
    for i in range(start, stop):
        y[i] = np.uint8(1) if x[i] == 0 else np.uint8(0)
    return 0


KERNELS = {n: _declare(n, as_item) for n, as_item in AS_ITEM.items()}

WHERE = OpSpec("Where", "", infer_where, reference_where, lower_where, layout="any")
NOT = OpSpec("Not", "", infer_not, reference_not, lower_not, layout="any")
