"""GlobalLpPool (ONNX 22): the p-norm of each channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    p = AttrReader(node).int("p", 2)

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x = given(inputs, 0)
        wide = np.abs(x).astype(np.float64) ** p
        norm = wide.sum(axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)
        return [norm.astype(x.dtype)]

    return function


SPEC = HostFunctionSpec("GlobalLpPool", make)
