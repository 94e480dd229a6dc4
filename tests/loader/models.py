"""Small models, good and bad, for the tests of the loader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


def tensor_info(
    name: str, dims: Sequence[Any] | None = (2, 3), kind: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    """A float32 input or output of 2 x 3, unless said otherwise."""
    return helper.make_tensor_value_info(name, kind, dims)


def make_model(
    nodes: Iterable[onnx.NodeProto],
    *,
    inputs: Iterable[Any] = ("x",),
    outputs: Iterable[Any] = ("y",),
    constants: dict[str, Array] | None = None,
    opset: int = 17,
    domains: Sequence[str] = (),
    ir_version: int = 8,
    **graph: Any,
) -> onnx.ModelProto:
    """A model of float 2 x 3 inputs and outputs; names may be given as ValueInfoProto instead."""
    proto = helper.make_graph(
        list(nodes),
        "test",
        [tensor_info(i) if isinstance(i, str) else i for i in inputs],
        [tensor_info(o, None) if isinstance(o, str) else o for o in outputs],
        [numpy_helper.from_array(a, name) for name, a in (constants or {}).items()],
        **graph,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=ir_version)


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    """A node from space-separated names; "-" leaves one out."""
    return helper.make_node(
        op,
        ["" if n == "-" else n for n in inputs.split()],
        ["" if n == "-" else n for n in outputs.split()],
        **attrs,
    )


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def scalar(value: float, dtype: Any = np.float32) -> Array:
    return np.array(value, dtype)


def small_cnn() -> onnx.ModelProto:
    """A quantized network with a bit of everything that a file can hold."""
    rng = np.random.default_rng(1)
    constants = {
        "s": scalar(0.02),
        "z": scalar(128, np.uint8),
        "w": rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.01, 4).astype(np.float32),
        "wz": np.zeros(4, np.int8),
        "b": rng.integers(-1000, 1000, 4).astype(np.int32),
    }
    nodes = [
        node("QuantizeLinear", "x s z", "xq", name="quantize"),
        node("QLinearConv", "xq s z w ws wz s z b", "c", name="conv", pads=[1, 1, 1, 1]),
        node("QLinearAdd", "c s z c s z s z", "a", domain="com.microsoft", name="add"),
        node("Constant", "", "k", value_floats=[1.0, 2.0, 3.0, 4.0], name="constant"),
        node("Constant", "", "t", value=numpy_helper.from_array(f32(*range(4)), "tensor")),
        node("DequantizeLinear", "a s z", "d"),
        node("ReduceMean", "d", "r", axes=[2, 3], keepdims=0),
        node("Add", "r k", "p"),
        node("Mul", "p t", "y"),
    ]
    return make_model(
        nodes,
        inputs=[tensor_info("x", ("batch", 3, 5, 5))],
        outputs=[tensor_info("y", ("batch", 4))],
        constants=constants,
        domains=["com.microsoft"],
        value_info=[tensor_info("d", ("batch", 4, 5, 5))],
    )
