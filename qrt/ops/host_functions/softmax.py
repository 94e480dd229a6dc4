"""Softmax, LogSoftmax and Hardmax before opset 13: of the matrix that Flatten(axis) makes of x."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    axis = AttrReader(node).int("axis", 1)
    x = node.required(0)
    matrix = Value(x.name, x.dtype, (None, None))
    rows = reference(Node(node.op, [matrix], node.outputs, {"axis": 1}, "", version=13))

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x = given(inputs, 0)
        at = axis + x.ndim if axis < 0 else axis
        (y,) = rows([x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))])
        return [y.reshape(x.shape)]

    return function


SPECS = tuple(HostFunctionSpec(op, make, until=13) for op in ("Hardmax", "LogSoftmax", "Softmax"))
