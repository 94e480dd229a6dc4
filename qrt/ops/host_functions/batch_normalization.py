"""BatchNormalization of opset 7 and 8 at inference; spatial=0: its numbers are per element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    attrs = AttrReader(node)
    epsilon = attrs.float("epsilon", float(np.float32(1e-5)))
    spatial = attrs.bool("spatial", True)
    if len(node.outputs) > 1:
        raise UnsupportedError("BatchNormalization of opset 7 and 8 is supported for inference")

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x = given(inputs, 0)
        numbers = [given(inputs, i).astype(np.float64) for i in range(1, 5)]
        if spatial:
            numbers = [n.reshape(-1, *[1] * (x.ndim - 2)) for n in numbers]
        scale, bias, mean, variance = numbers
        y = (x - mean) / np.sqrt(variance + epsilon) * scale + bias
        return [y.astype(x.dtype)]

    return function


SPEC = HostFunctionSpec("BatchNormalization", make, until=9)
