"""MeanVarianceNormalization (ONNX 13): (x - mean) / (std + 1e-9) over `axes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    axes = tuple(AttrReader(node).ints("axes", (0, 2, 3)))

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x = given(inputs, 0)
        wide = x.astype(np.float64)
        centred = wide - wide.mean(axis=axes, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=axes, keepdims=True))
        return [(centred / (deviation + 1e-9)).astype(x.dtype)]

    return function


SPEC = HostFunctionSpec("MeanVarianceNormalization", make)
