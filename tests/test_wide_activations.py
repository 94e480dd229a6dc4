"""QDQ with 16-bit activations: products sum in integers and give the contract's bits; what computes
nothing in integers is the definition's."""

from __future__ import annotations

from itertools import product as combinations
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qrt
from tests.contract import evaluate
from tests.rivals import onnxruntime_outputs
from tests.sessions import THREADS, Cases, differences, feature_levels, named, run

Array = np.ndarray[Any, Any]
F = np.float32
U16, S16 = np.dtype(np.uint16), np.dtype(np.int16)
WORDS = (U16, S16)


class Draft:
    """QDQ nodes under construction; `domain` is that of the Quantize and Dequantize nodes."""

    def __init__(self, rng: np.random.Generator, domain: str = "") -> None:
        self.rng, self.domain = rng, domain
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: Any) -> str:
        """An initializer."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, *inputs: str, out: str = "", domain: str = "", **attrs: Any) -> str:
        """A node's output."""
        name = out or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], domain=domain, **attrs))
        return name

    def linear(self, op: str, x: str, scale: Any, zero_point: Any, out: str = "", **attrs: Any
               ) -> str:  # fmt: skip
        """QuantizeLinear or DequantizeLinear."""
        given = [self.constant(np.asarray(scale, F)), self.constant(zero_point)]
        return self.node(f"{op}Linear", x, *given, out=out, domain=self.domain, **attrs)

    def model(self, shape: tuple[int, ...], dtype: Any = np.float32) -> onnx.ModelProto:
        """From x to y."""
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        outs = [helper.make_tensor_value_info("y", element, None)]
        graph = helper.make_graph(self.nodes, "wide", ends, outs, self.constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def zero_of(rng: np.random.Generator, dtype: np.dtype[Any]) -> Array:
    """A zero point somewhere in the type."""
    limits = np.iinfo(dtype)
    return np.array(rng.integers(limits.min // 3 + 1, limits.max // 3), dtype)


def drawn(
    rng: np.random.Generator, op: str, dtype: np.dtype[Any], y: Any, bias: str, domain: str
) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """QDQ around one product: x of `dtype`, its result of `y` (None: float32)."""
    d = Draft(rng, domain)
    shape: tuple[int, ...]
    if op == "Conv":
        shape, w_shape, axis, n = (2, 6, 5, 4), (10, 3, 3, 3), 0, 10
    elif op == "depthwise":
        shape, w_shape, axis, n = (1, 8, 6, 5), (8, 1, 3, 3), 0, 8
    else:
        shape, w_shape, axis, n = (5, 70), (70, 33), 1, 33
    x_scale = F(1e-4)
    codes = d.linear("Quantize", "x", x_scale, zero_of(rng, dtype))
    x = d.linear("Dequantize", codes, x_scale, d_zero(d))
    per_channel = bool(rng.integers(0, 2))
    w_scale = (rng.random(n if per_channel else ()) * 0.01 + 0.001).astype(F)
    w_type = np.dtype(rng.choice([np.int8, np.uint8]))
    limits = np.iinfo(w_type)
    w = rng.integers(limits.min, limits.max, w_shape, w_type, endpoint=True)
    w_zero = np.broadcast_to(np.array(0 if w_type == np.int8 else 121, w_type), w_scale.shape)
    weights = d.linear("Dequantize", d.constant(w), w_scale, w_zero, axis=axis)
    inputs = [x, weights]
    if bias == "int32":
        steps = d.constant(rng.integers(-(2**20), 2**20, n, np.int32))
        scales = np.broadcast_to(x_scale * w_scale, n) if per_channel else x_scale * w_scale
        inputs.append(d.linear("Dequantize", steps, scales, np.zeros(np.shape(scales), np.int32),
                               axis=0))  # fmt: skip
    elif bias == "float":
        inputs.append(d.constant(rng.standard_normal(n).astype(F)))
    attrs = {"Conv": {"group": 2, "pads": [1, 0, 1, 2]}, "depthwise": {"group": 8}}.get(op, {})
    kind = {"depthwise": "Conv"}.get(op, op)
    result = d.node(kind, *inputs, out="y" if y is None else "", **attrs)
    if y is not None:
        d.linear("Quantize", result, 2e-3 if np.dtype(y).itemsize == 1 else 1e-5, zero_of(rng, y),
                 "y")  # fmt: skip
    return d.model(shape, np.float32 if y is None else y), shape


def d_zero(d: Draft) -> Array:
    """The zero point drawn last."""
    return numpy_helper.to_array(d.constants[-1])


@pytest.mark.parametrize("op", ("Conv", "depthwise", "MatMul", "Gemm"))
def test_products(op: str) -> None:
    cases = Cases()
    rng = np.random.default_rng(940)
    results = (None, U16, S16, np.dtype(np.uint8), np.dtype(np.int8))
    biases = ("",) if op == "MatMul" else ("", "int32", "float")
    for dtype, y, bias in combinations(WORDS, results, biases):
        domain = "com.microsoft" if rng.integers(0, 2) else ""
        model, shape = drawn(rng, op, dtype, y, bias, domain)
        x = {"x": (rng.standard_normal(shape) * 3).astype(F)}
        want = evaluate(model, x)
        case = (str(dtype), str(y), bias, domain)
        for features, threads in combinations(feature_levels(), THREADS):
            got = run(model, x, features, threads)
            cases.check((*case, named(features), threads), differences(want, got))
        rows = qrt.load(model).explain()
        ran = " ".join(str(row.kernels) for row in rows)
        integers = "join_sums" in ran and "split_bytes" in ran and "u8s8" in ran
        cases.check(case, "" if integers else f"ran {ran}")
        theirs = onnxruntime_outputs(model, x)
        if theirs is not None:
            gap = np.abs(theirs["y"].astype(np.float64) - want["y"]).max()
            near = 1 if y is not None else 1e-5 * np.abs(want["y"]).max()
            cases.check((*case, "onnxruntime"), "" if gap <= near else f"{gap} apart")
    cases.finish(op, at_least=40)


def test_other_operators_are_the_definition() -> None:
    """Element by element, tables, pooling and movements between 16-bit tensors."""
    cases = Cases()
    rng = np.random.default_rng(941)
    chains: dict[str, Any] = {
        "Relu": {}, "Sigmoid": {}, "Transpose": {"perm": [0, 2, 3, 1]}, "Identity": {},
        "MaxPool": {"kernel_shape": [2, 2]}, "Flatten": {},
    }  # fmt: skip
    for (op, attrs), dtype, y in combinations(chains.items(), WORDS, (U16, S16, None)):
        d = Draft(rng)
        zero = zero_of(rng, dtype)
        codes = d.linear("Quantize", "x", 1e-4, zero)
        real = d.linear("Dequantize", codes, 1e-4, zero)
        result = d.node(op, real, out="y" if y is None else "", **attrs)
        if y is not None:
            d.linear("Quantize", result, 2e-4, zero_of(rng, y), "y")
        model = d.model((2, 3, 4, 5), np.float32 if y is None else y)
        x = {"x": rng.standard_normal((2, 3, 4, 5)).astype(F)}
        theirs = onnxruntime_outputs(model, x)
        got = run(model, x)
        for features in feature_levels():
            cases.check((op, dtype, y), differences(got, run(model, x, features)))
        assert theirs is not None
        gap = np.abs(theirs["y"].astype(np.float64) - got["y"]).max()
        cases.check((op, dtype, y, "onnxruntime"), "" if gap <= (1 if y else 1e-6) else f"{gap}")
    cases.finish("operators", at_least=40)
