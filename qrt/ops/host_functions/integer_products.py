"""MatMulInteger and ConvInteger (ONNX 10) with zero points per row, column or channel.

A vector of zero points belongs to the rows of A (M) and the columns of B (N), and to the channels
that a convolution writes. Sums of float64 are exact, and int32 holds them or their low 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.ir import Node, Value
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction

F64 = np.dtype(np.float64)


def make_matmul(node: Node, reference: Reference) -> HostFunction:
    def function(inputs: Sequence[Array | None]) -> list[Any]:
        a, b = given(inputs, 0), given(inputs, 1)
        a_zero, b_zero = (*inputs[2:], None, None)[:2]
        if a_zero is not None and a_zero.ndim == 1 and a_zero.size > 1:
            a_zero = a_zero[:, None]  # one per row
        return [_int32(np.matmul(_centred(a, a_zero), _centred(b, b_zero)))]

    return function


def make_conv(node: Node, reference: Reference) -> HostFunction:
    operands: list[Value | None] = [Value("x", F64), Value("w", F64)]
    convolve = reference(
        Node("Conv", operands, [Value("y", F64)], node.attrs, "", node.name, version=11)
    )

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x, w = given(inputs, 0), given(inputs, 1)
        x_zero, w_zero = (*inputs[2:], None, None)[:2]
        if w_zero is not None and w_zero.size > 1:
            w_zero = w_zero.reshape(-1, *[1] * (w.ndim - 1))  # one per channel of the result
        (sums,) = convolve([_centred(x, x_zero), _centred(w, w_zero)])
        return [_int32(sums)]

    return function


def _centred(q: Array, zero_point: Array | None) -> Array:
    """q - zero_point; one element is a number."""
    if zero_point is None:
        return q.astype(F64)
    zero = zero_point.astype(F64)
    centred: Array = q - (zero.reshape(()) if zero.size == 1 else zero)
    return centred


def _int32(sums: Array) -> Array:
    return np.asarray(sums).astype(np.int64).astype(np.int32)


SPECS = (
    HostFunctionSpec("MatMulInteger", make_matmul),
    HostFunctionSpec("ConvInteger", make_conv),
)
