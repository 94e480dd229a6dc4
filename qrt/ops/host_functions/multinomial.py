"""Multinomial (ONNX 22): classes drawn with probabilities softmax(x), rows of x apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    attrs = AttrReader(node)
    count = attrs.int("sample_size", 1)
    dtype = helper.tensor_dtype_to_np_dtype(attrs.int("dtype", TensorProto.INT32))
    seed = int(np.float32(attrs.float("seed")).view(np.uint32)) if attrs.has("seed") else None
    if count < 0:
        raise ModelError(f"sample_size must be 0 or more, got {count}")

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x = given(inputs, 0).astype(np.float64)
        odds = np.exp(x - x.max(axis=1, keepdims=True)).cumsum(axis=1)
        rng = np.random.default_rng(seed)
        drawn = rng.random((len(x), count)) * odds[:, -1:]
        picked = (drawn[:, :, None] >= odds[:, None, :]).sum(axis=2)
        return [picked.astype(dtype)]

    return function


SPEC = HostFunctionSpec("Multinomial", make)
