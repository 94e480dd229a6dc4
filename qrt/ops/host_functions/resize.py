"""Upsample, and Resize of opset 10: output i lies at i / scale of the input.

Nearest takes the pixel before going up, the one after going down (as onnxruntime does); linear is
the later Resize with asymmetric coordinates. The scales of Upsample 7 are an attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    reader = AttrReader(node)
    mode = reader.string("mode", "nearest", ("nearest", "linear"))
    fixed = np.array(reader.floats("scales"), np.float32) if reader.has("scales") else None
    attrs = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    scales = Value("scales", np.dtype(np.float32), (None,))
    linear = reference(
        Node("Resize", [node.inputs[0], None, scales], node.outputs, attrs, "", version=13)
    )

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x = given(inputs, 0)
        factors = given(inputs, 1) if fixed is None else fixed
        if factors.shape != (x.ndim,):
            raise ModelError(f"scales must have {x.ndim} elements, got {list(factors.shape)}")
        return linear([x, None, factors]) if mode == "linear" else [_nearest(x, factors)]

    return function


def _nearest(x: Array, factors: Array) -> Array:
    for axis, scale in enumerate(factors.astype(np.float32)):
        count = int(np.floor(np.float32(x.shape[axis]) * scale))
        at = np.arange(count, dtype=np.float32) / scale
        index = np.floor(at) if scale >= 1 else np.ceil(at)
        x = np.take(x, np.clip(index, 0, x.shape[axis] - 1).astype(np.int64), axis)
    return x


SPECS = (
    HostFunctionSpec("Upsample", make),
    HostFunctionSpec("Resize", make, until=11),
)
