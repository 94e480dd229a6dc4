"""Equal, Greater, GreaterOrEqual, Less, LessOrEqual, And, Or, Xor (ONNX, opset 7 to 19) to bool.

NumPy broadcasting; a bool is a byte of 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Kernel, helper
from qrt.ops.broadcast import broadcast_rows, declare_broadcast
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.memory import as_f32, as_i32, as_i64, as_u8

BOOL = np.dtype(np.bool_)


@helper
def equal(a, b):  # type: ignore[no-untyped-def]
    return a == b


@helper
def greater(a, b):  # type: ignore[no-untyped-def]
    return a > b


@helper
def greater_or_equal(a, b):  # type: ignore[no-untyped-def]
    return a >= b


@helper
def less(a, b):  # type: ignore[no-untyped-def]
    return a < b


@helper
def less_or_equal(a, b):  # type: ignore[no-untyped-def]
    return a <= b


@helper
def both(a, b):  # type: ignore[no-untyped-def]
    return (a & b) != 0


@helper
def either(a, b):  # type: ignore[no-untyped-def]
    return (a | b) != 0


@helper
def one_of(a, b):  # type: ignore[no-untyped-def]
    return (a ^ b) != 0


NUMBERS = {"float32": as_f32, "int32": as_i32, "int64": as_i64}
BYTES = {"bool": as_u8, "uint8": as_u8}
ITEMS: dict[str, Any] = {**NUMBERS, **BYTES}
# operator -> (scalar function, NumPy's, dtypes that have a kernel)
COMPARISONS: dict[str, tuple[Callable[..., Any], Any, tuple[str, ...]]] = {
    "And": (both, np.logical_and, ("bool",)),
    "Equal": (equal, np.equal, tuple(ITEMS)),
    "Greater": (greater, np.greater, tuple(NUMBERS)),
    "GreaterOrEqual": (greater_or_equal, np.greater_equal, tuple(NUMBERS)),
    "Less": (less, np.less, tuple(NUMBERS)),
    "LessOrEqual": (less_or_equal, np.less_equal, tuple(NUMBERS)),
    "Or": (either, np.logical_or, ("bool",)),
    "Xor": (one_of, np.logical_xor, ("bool",)),
}


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    AttrReader(node).done()
    a, b = node.required(0), node.required(1)
    return [(np.broadcast_shapes(a.static_shape, b.static_shape), BOOL)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    a, b = inputs
    assert a is not None and b is not None
    return [np.asarray(COMPARISONS[node.op][1](a, b))]


def lower(node: Node, program: Lowering) -> None:
    a, b, y = node.required(0), node.required(1), node.outputs[0]
    dtype = np.dtype(a.dtype).name
    if (node.op, dtype) not in KERNELS or a.dtype != b.dtype:
        supported = ", ".join(COMPARISONS[node.op][2])
        raise UnsupportedError(
            f"{node.op} of {a.dtype} and {b.dtype} is not supported, only of equal {supported}"
        )
    for fields in broadcast_rows(program, y, a, b):
        program.emit(KERNELS[node.op, dtype], **fields)


@helper
def _no_values(row):  # type: ignore[no-untyped-def]
    return 0


def _declare(op: str, dtype: str) -> Kernel:
    function, as_item = COMPARISONS[op][0], ITEMS[dtype]
    itemsize = np.dtype(dtype).itemsize

    @helper
    def span(a, b, y, n, a_step, b_step, values):  # type: ignore[no-untyped-def]
        pa, pb, out = as_item(a), as_item(b), as_u8(y)
        if a_step == 1 and b_step == 1:
            for i in range(n):
                out[i] = np.uint8(1) if function(pa[i], pb[i]) else np.uint8(0)
        else:
            for i in range(n):
                out[i] = np.uint8(1) if function(pa[i * a_step], pb[i * b_step]) else np.uint8(0)

    name = f"{op.lower()}_{dtype}"
    return declare_broadcast(name, (), (itemsize, itemsize, 1), _no_values, span)


KERNELS = {
    (op, dtype): _declare(op, dtype)
    for op, (_, _, dtypes) in COMPARISONS.items()
    for dtype in dtypes
}

SPECS = tuple(OpSpec(op, "", infer, reference, lower, layout="any") for op in COMPARISONS)
