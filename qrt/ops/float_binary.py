"""Element-wise float32 operators of two inputs (Max, Min, Sum: of any number), broadcasting.

Add, Sub, Mul and Div are the float32 operations. Pow takes constant exponents that a product or a
root computes. Integers are for constant folding only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Kernel, helper
from qrt.ops.broadcast import broadcast_rows, declare_broadcast
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant import functions
from qrt.simd.float_math import sqrt_f32
from qrt.simd.memory import as_f32


@helper
def add(a, b):  # type: ignore[no-untyped-def]
    return a + b


@helper
def sub(a, b):  # type: ignore[no-untyped-def]
    return a - b


@helper
def mul(a, b):  # type: ignore[no-untyped-def]
    return a * b


@helper
def div(a, b):  # type: ignore[no-untyped-def]
    return a / b


@helper
def maximum(a, b):  # type: ignore[no-untyped-def]
    return a if a > b or a != a else b


@helper
def minimum(a, b):  # type: ignore[no-untyped-def]
    return a if a < b or a != a else b


@helper
def prelu(x, slope):  # type: ignore[no-untyped-def]
    return x * slope if x < np.float32(0) else x


@helper
def power(x, exponent):  # type: ignore[no-untyped-def]
    """x**exponent for EXPONENTS; the product of three is rounded once, as in float64."""
    wide = np.float64(x)
    cube = np.float32(wide * wide * wide)
    root = sqrt_f32(x)
    y = x * x if exponent == np.float32(2) else x
    y = cube if exponent == np.float32(3) else y
    y = root if exponent == np.float32(0.5) else y
    y = np.float32(1) / root if exponent == np.float32(-0.5) else y
    return np.float32(1) / x if exponent == np.float32(-1) else y


EXPONENTS = (1.0, 2.0, 3.0, 0.5, -0.5, -1.0)
BINARY: dict[str, Callable[..., Any]] = {
    "Add": add,
    "Div": div,
    "Max": maximum,
    "Min": minimum,
    "Mul": mul,
    "PRelu": prelu,
    "Pow": power,
    "Sub": sub,
    "Sum": add,
}


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    AttrReader(node).done()
    shapes = [node.required(i).static_shape for i in range(len(node.inputs))]
    return [(np.broadcast_shapes(*shapes), node.required(0).dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    y = inputs[0]
    assert y is not None
    for b in inputs[1:]:
        assert b is not None
        y = _pair(node.op, y, b)
    return [y]


def _pair(op: str, a: Array, b: Array) -> Array:
    if a.dtype == np.float32:
        return functions.binary(op, a, b)
    if op == "Div" and a.dtype.kind in "iu":
        quotient = np.asarray(np.abs(a) // np.abs(b)) * np.sign(a) * np.sign(b)  # truncates
        return quotient.astype(a.dtype)
    return np.asarray(functions.BINARY[op](a, b)).astype(a.dtype)


def lower(node: Node, program: Lowering) -> None:
    inputs = [node.required(i) for i in range(len(node.inputs))]
    y = node.outputs[0]
    for value in inputs:
        if value.dtype != np.float32:
            raise UnsupportedError(f"{node.op} of {value.dtype} is not supported, only float32")
    if node.op == "Pow":
        _check_exponent(inputs[1])
    kernel = KERNELS[node.op]
    if len(inputs) == 1:
        program.alias(y, inputs[0])
        return
    # results of more than one row take turns in two places, the last is y: no row writes its input
    places = [program.operand(y)]
    if len(inputs) > 2:
        places.append(program.scratch(y.nbytes))
    left = len(inputs) - 2
    ends = {"y": places[left % 2]}
    for fields in broadcast_rows(program, y, inputs[0], inputs[1], ends):
        program.emit(kernel, **fields)
    for more in inputs[2:]:
        left -= 1
        ends = {"a": ends["y"], "y": places[left % 2]}
        for fields in broadcast_rows(program, y, y, more, ends):
            program.emit(kernel, **fields)


def has_exponent(value: Value) -> bool:
    """True for exponents that Pow takes."""
    return value.data is not None and bool(np.isin(value.data, EXPONENTS).all())


def _check_exponent(value: Value) -> None:
    if not has_exponent(value):
        raise UnsupportedError(f"the exponent of Pow must be constant, one of {EXPONENTS}")


@helper
def _no_values(row):  # type: ignore[no-untyped-def]
    return 0


def _declare(op: str, function: Callable[..., Any]) -> Kernel:
    @helper
    def span(a, b, y, n, a_step, b_step, values):  # type: ignore[no-untyped-def]
        pa = as_f32(a)
        pb = as_f32(b)
        out = as_f32(y)
        if a_step == 1 and b_step == 1:
            for i in range(n):
                out[i] = function(pa[i], pb[i])
        elif a_step == 1 and b_step == 0:
            other = pb[0]
            for i in range(n):
                out[i] = function(pa[i], other)
        elif a_step == 0 and b_step == 1:
            one = pa[0]
            for i in range(n):
                out[i] = function(one, pb[i])
        else:
            for i in range(n):
                out[i] = function(pa[i * a_step], pb[i * b_step])

    return declare_broadcast(f"{op.lower()}_f32", (), (4, 4, 4), _no_values, span)


KERNELS = {op: _declare(op, function) for op, function in BINARY.items()}

SPECS = tuple(OpSpec(op, "", infer, reference, lower, layout="any") for op in BINARY)
