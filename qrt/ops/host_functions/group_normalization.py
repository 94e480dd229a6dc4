"""GroupNormalization of opset 18 to 20, whose scale and bias are per group, not per channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    attrs = AttrReader(node)
    epsilon, groups = attrs.float("epsilon", float(np.float32(1e-5))), attrs.int("num_groups")
    if groups < 1:
        raise ModelError(f"num_groups must be 1 or more, got {groups}")

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x = given(inputs, 0)
        scale, bias = (given(inputs, i).astype(np.float64)[:, None] for i in (1, 2))
        wide = x.astype(np.float64).reshape(x.shape[0], groups, -1)
        centred = wide - wide.mean(axis=2, keepdims=True)
        variance = (centred**2).mean(axis=2, keepdims=True)
        y = centred / np.sqrt(variance + epsilon) * scale + bias
        return [y.reshape(x.shape).astype(x.dtype)]

    return function


SPEC = HostFunctionSpec("GroupNormalization", make, until=21)
