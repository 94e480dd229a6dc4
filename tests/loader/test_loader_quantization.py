"""Scales, zero points and quantized types that have no meaning are refused, naming the node."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from qrt.errors import ModelError, QrtError, QuantizationError
from qrt.loader import load_graph
from tests.loader.models import f32, make_model, node, scalar, small_cnn, tensor_info

MS = "com.microsoft"
U8, S8, I32 = np.uint8, np.int8, np.int32
SCALE, ZERO_POINT = scalar(0.1), scalar(3, U8)


def with_constants(nodes: list[onnx.NodeProto], opset: int, **arrays: Any) -> onnx.ModelProto:
    """Inputs: x float 2 x 3, q uint8 2 x 3; every other array is a constant."""
    inputs = ["x", tensor_info("q", (2, 3), TensorProto.UINT8)]
    return make_model(nodes, inputs=inputs, constants=arrays, opset=opset, domains=[MS])


def linear(
    op: str = "QuantizeLinear",
    s: Any = SCALE,
    z: Any = ZERO_POINT,
    x: str | None = None,
    opset: int = 23,
    domain: str = "",
    **attrs: Any,
) -> onnx.ModelProto:
    """One QuantizeLinear or DequantizeLinear; z None leaves the zero point out."""
    source = x or ("x" if op == "QuantizeLinear" else "q")
    names = f"{source} s" if z is None else f"{source} s z"
    arrays = {"s": s} if z is None else {"s": s, "z": z}
    arrays["w"] = np.zeros((2, 3), S8)
    arrays["b"] = np.zeros(3, I32)
    made = node(op, names, "y", name="n", domain=domain, **attrs)
    return with_constants([made], opset, **arrays)


def quantize(**parts: Any) -> onnx.ModelProto:
    return linear("QuantizeLinear", **parts)


def dequantize(**parts: Any) -> onnx.ModelProto:
    return linear("DequantizeLinear", **parts)


def bits(values: Any, dtype: Any) -> Any:
    return np.array(values).astype(dtype)


CONV = {
    "xs": scalar(0.1), "xz": scalar(1, U8),
    "w": np.ones((4, 3, 1, 1), S8), "ws": f32(1, 2, 3, 4), "wz": np.zeros(4, S8),
    "ys": scalar(0.2), "yz": scalar(2, U8),
    "b": np.zeros(4, I32),
}  # fmt: skip


def conv(domain: str = "", **changes: Any) -> onnx.ModelProto:
    arrays = {**CONV, **changes}
    made = node("QLinearConv", "i xs xz w ws wz ys yz b", "y", name="n", domain=domain)
    image = tensor_info("i", (1, 3, 5, 5), TensorProto.UINT8)
    return make_model([made], inputs=[image], constants=arrays, domains=[MS])


MATMUL = {
    "as": scalar(0.1), "az": scalar(1, U8),
    "w": np.ones((3, 4), S8), "ws": scalar(0.1), "wz": scalar(0, S8),
    "ys": scalar(0.2), "yz": scalar(2, U8),
}  # fmt: skip


def matmul(**changes: Any) -> onnx.ModelProto:
    made = node("QLinearMatMul", "q as az w ws wz ys yz", "y", name="n")
    return with_constants([made], 17, **{**MATMUL, **changes})


def gemm(inputs: str = "q as az w ws wz c ys yz", **changes: Any) -> onnx.ModelProto:
    attrs = {k: changes.pop(k) for k in ("transB",) if k in changes}
    made = node("QGemm", inputs, "y", name="n", domain=MS, **attrs)
    return with_constants([made], 17, **{**MATMUL, "c": np.zeros(4, I32), **changes})


def add(inputs: str = "q s z q s z s z", **changes: Any) -> onnx.ModelProto:
    arrays = {"s": scalar(0.1), "z": scalar(3, U8), **changes}
    return with_constants([node("QLinearAdd", inputs, "y", name="n", domain=MS)], 17, **arrays)


def unary(op: str, inputs: str = "q s z s z", **changes: Any) -> onnx.ModelProto:
    arrays = {"s": scalar(0.1), "z": scalar(3, U8), **changes}
    return with_constants([node(op, inputs, "y", name="n", domain=MS)], 17, **arrays)


def integer(op: str, inputs: str, **arrays: Any) -> onnx.ModelProto:
    return with_constants([node(op, inputs, "y", name="n")], 17, **arrays)


GOOD = {
    "quantize": quantize(),
    "no zero point": quantize(z=None),
    "output_dtype": quantize(z=None, output_dtype=TensorProto.INT16),
    "output_dtype and zero point": quantize(output_dtype=TensorProto.UINT8),
    "one element lists": quantize(s=f32(0.1), z=np.array([3], U8)),
    "scalar and list": quantize(s=scalar(0.1), z=np.array([3], U8)),
    "smallest scale": quantize(s=scalar(1e-45)),
    "channels": quantize(s=f32(1, 2, 3), z=np.zeros(3, U8), axis=1),
    "channels from the end": quantize(s=f32(1, 2), z=np.zeros(2, U8), axis=-2),
    "float16 scale": quantize(s=scalar(0.1, np.float16)),
    "float8": quantize(z=bits(0, ml_dtypes.float8_e4m3fn)),
    "int4": quantize(z=bits(-8, ml_dtypes.int4)),
    "blocks": quantize(s=np.ones((2, 2), np.float32), z=np.zeros((2, 2), U8), block_size=2),
    "one block": quantize(s=np.ones((2, 1), np.float32), z=np.zeros((2, 1), U8), block_size=3),
    "dequantize": dequantize(),
    "dequantize weights": dequantize(x="w", z=scalar(0, S8)),
    "dequantize bias": dequantize(x="b", z=None, s=f32(1, 2, 3), axis=0),
    "dequantize bias with zeros": dequantize(x="b", z=np.zeros(3, I32), s=f32(1, 2, 3), axis=0),
    "com.microsoft": quantize(domain=MS, opset=17, z=scalar(3, np.uint16)),
    "conv": conv(),
    "conv per tensor": conv(ws=scalar(1), wz=scalar(0, S8)),
    "conv of com.microsoft": conv(domain=MS),
    "matmul": matmul(),
    "matmul columns": matmul(ws=f32(1, 2, 3, 4), wz=np.zeros(4, S8)),
    "matmul rows": matmul(**{"as": f32(1, 2), "az": np.zeros(2, U8)}),
    "gemm": gemm(),
    "gemm columns": gemm(ws=f32(1, 2, 3, 4), wz=np.zeros(4, S8)),
    "gemm transposed": gemm(w=np.ones((4, 3), S8), ws=f32(1, 2, 3, 4), wz=np.zeros(4, S8),
                            transB=1),
    "gemm to float": gemm("q as az w ws wz c"),
    "gemm without bias": gemm("q as az w ws wz - ys yz"),
    "add": add(),
    "add without zero points": add("q s - q s - s"),
    "sigmoid": unary("QLinearSigmoid"),
    "concat": unary("QLinearConcat", "s z q s z q s z"),
    "small network": small_cnn(),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_accepted(name: str) -> None:
    load_graph(GOOD[name])


POSITIVE = "scale must be positive and finite, got"

BAD: dict[str, tuple[onnx.ModelProto, str]] = {
    **{
        f"{op} scale {value}": (linear(op, s=scalar(value)), f"{POSITIVE} {value}")
        for op in ("QuantizeLinear", "DequantizeLinear")
        for value in (0.0, -0.5, np.nan, np.inf, -np.inf, -0.0)
    },
    "one of many": (
        quantize(s=f32(1, 0, 3), z=np.zeros(3, U8)), f"{POSITIVE} 0.0 .element 1 of 3",
    ),
    "float16 scale": (quantize(s=scalar(np.inf, np.float16)), POSITIVE),
    "integer scale": (quantize(s=scalar(1, I32)), "scale must be .*float32.*, got int32"),
    "double scale": (quantize(s=scalar(1, np.float64)), "got float64"),
    "no scale": (quantize(s=f32(), z=np.zeros(0, U8)), "must have an element"),
    "zero point of float": (quantize(z=scalar(0)), "zero_point must be .*, got float32"),
    "zero point of int64": (quantize(z=scalar(0, np.int64)), "got int64"),
    "quantize to int32": (quantize(z=scalar(0, I32)), "y must be .*, got int32"),
    "output_dtype": (
        quantize(output_dtype=TensorProto.INT8),
        "zero_point must have the type of y, int8, got uint8",
    ),
    "output_dtype float": (quantize(z=None, output_dtype=TensorProto.FLOAT), "got float32"),
    "type of x": (dequantize(z=scalar(0, S8)), "type of x, uint8, got int8"),
    "type of weights": (dequantize(x="w", z=scalar(0, U8)), "type of x, int8, got uint8"),
    "dequantize float": (dequantize(x="x", z=None), "x must be .*, got float32"),
    "zero point of sums": (
        dequantize(x="b", z=scalar(7, I32)), "zero_point must be 0 when x is int32, got 7",
    ),
    "shapes": (
        quantize(s=f32(1, 2, 3), z=np.zeros(2, U8)),
        r"zero_point must have the shape of scale, \[3\], got \[2\]",
    ),
    "many zero points": (quantize(z=np.zeros(3, U8)), "must have the shape of scale"),
    "channels": (
        quantize(s=f32(1, 2), z=np.zeros(2, U8)), r"scale must have 3 elements .*axis 1.*, got 2",
    ),
    "axis": (quantize(s=f32(1, 2), z=np.zeros(2, U8), axis=2), "axis must be -2 to 1.*, got 2"),
    "axis below": (quantize(s=f32(1, 2), z=np.zeros(2, U8), axis=-3), "got -3"),
    "old channels": (
        quantize(s=f32(1, 2, 3), z=np.zeros(3, U8), opset=12), "1 element before opset 13, got 3",
    ),
    "blocks without block_size": (
        quantize(s=np.ones((2, 2), np.float32), z=np.zeros((2, 2), U8)), "unless block_size",
    ),
    "blocks of another shape": (
        quantize(s=np.ones((2, 3), np.float32), z=np.zeros((2, 3), U8), block_size=2),
        "axis 1 of scale must have 2 elements",
    ),
    "blocks of another rank": (
        quantize(s=f32(1, 2), z=np.zeros(2, U8), block_size=2), "must have 2 dimensions as x",
    ),
    "negative blocks": (
        quantize(s=np.ones((2, 2), np.float32), z=np.zeros((2, 2), U8), block_size=-2),
        "block_size must be 0 or more, got -2",
    ),
    "com.microsoft": (quantize(domain=MS, s=scalar(0)), POSITIVE),
    "conv x_scale": (conv(xs=scalar(0)), "x_scale must be positive"),
    "conv w_scale": (conv(ws=f32(1, 2, np.nan, 4)), r"w_scale .*nan \(element 2 of 4\)"),
    "conv y_scale": (conv(ys=scalar(-1)), "y_scale must be positive"),
    "conv channels": (
        conv(ws=f32(1, 2, 3), wz=np.zeros(3, S8)), "w_scale must have 1 or 4 elements .*, got 3",
    ),
    "conv x channels": (
        conv(xs=f32(1, 2, 3), xz=np.zeros(3, U8)), "x_scale must have 1 element, got 3",
    ),
    "conv y channels": (conv(ys=f32(*range(1, 5)), yz=np.zeros(4, U8)), "y_scale must have 1 el"),
    "conv channels in 2-D": (
        conv(ws=np.ones((4, 1), np.float32), wz=np.zeros((4, 1), S8)), "w_scale must have 1 dim",
    ),
    "conv x type": (conv(xz=scalar(0, S8)), "x_zero_point must have the type of x, uint8"),
    "conv w type": (conv(wz=np.zeros(4, U8)), "w_zero_point must have the type of w, int8"),
    "conv y type": (conv(yz=scalar(0, np.int16)), "y must be int8 or uint8, got int16"),
    "conv 16 bit weights": (conv(w=np.ones((4, 3, 1, 1), np.int16), wz=np.zeros(4, np.int16)),
                            "w must be int8 or uint8, got int16"),
    "conv zero points": (conv(wz=np.zeros(3, S8)), "must have the shape of w_scale"),
    "conv bias type": (conv(b=f32(0, 0, 0, 0)), "bias must be int32, got float32"),
    "conv bias length": (conv(b=np.zeros(3, I32)), "bias must have 4 elements"),
    "conv bias rank": (conv(b=np.zeros((4, 1), I32)), "bias must have 1 dimension"),
    "conv weights without axes": (
        conv(w=scalar(1, S8), ws=f32(1, 2), wz=np.zeros(2, S8)),
        "1 element when w has 0 dimensions, got 2",
    ),
    "conv of com.microsoft": (conv(domain=MS, ys=scalar(0)), "y_scale must be positive"),
    "matmul columns": (matmul(ws=f32(1, 2, 3), wz=np.zeros(3, S8)), "b_scale must have 1 or 4"),
    "matmul rows": (
        matmul(**{"as": f32(1, 2, 3), "az": np.zeros(3, U8)}), "a_scale must have 1 or 2",
    ),
    "matmul type": (matmul(wz=scalar(0, U8)), "b_zero_point must have the type of b, int8"),
    "gemm scale": (gemm(ws=scalar(0)), "b_scale must be positive"),
    "gemm transposed": (
        gemm(w=np.ones((4, 3), S8), ws=f32(1, 2, 3), wz=np.zeros(3, S8), transB=1), "1 or 4 elem",
    ),
    "add scale": (add(s=scalar(np.inf)), "a_scale must be positive"),
    "add type": (add("q s z q s z s t", t=scalar(0, S8)), "one type, got uint8 and int8"),
    "add a type": (add("q s t q s z s z", t=scalar(0, S8)), "a_zero_point must have the type of a"),
    "sigmoid": (unary("QLinearSigmoid", s=scalar(0)), "x_scale must be positive"),
    "pool": (unary("QLinearAveragePool", s=scalar(0)), "x_scale must be positive"),
    "concat": (
        unary("QLinearConcat", "s z q s z q t z", t=scalar(0)), "x1_scale must be positive",
    ),
    "concat y": (unary("QLinearConcat", "t z q s z", t=scalar(0)), "y_scale must be positive"),
    "conv integer": (
        integer("ConvInteger", "i w z z", i=np.zeros((1, 1, 3, 3), U8),
                w=np.zeros((1, 1, 1, 1), S8), z=scalar(0, U8)),
        "w_zero_point must have the type of w, int8",
    ),
    "matmul integer": (
        integer("MatMulInteger", "q w - z", w=np.zeros((3, 4), S8), z=np.zeros(3, S8)),
        "b_zero_point must have 1 or 4 elements",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    model, says = BAD[name]
    with pytest.raises(QuantizationError, match=says) as caught:
        load_graph(model)
    op = model.graph.node[0].op_type
    assert str(caught.value).startswith(f"{op} 'n' (#0): ")


# com.microsoft operators have no schema in onnx: the loader counts their inputs itself
SIGNATURES: dict[str, tuple[onnx.ModelProto, type[QrtError], str]] = {
    "add short": (add("q s z q s z"), ModelError, "must have 7 to 8 inputs, got 6"),
    "add long": (add("q s z q s z s z z"), ModelError, "must have 7 to 8 inputs, got 9"),
    "add hole": (add("q s z q - z s z"), ModelError, "input 4 is required, it is left out"),
    "concat short": (unary("QLinearConcat", "s z"), ModelError, "must have 5 or more inputs"),
    "concat pairs": (unary("QLinearConcat", "s z q s z q s"), ModelError, "3 for each tensor"),
    "concat hole": (unary("QLinearConcat", "s z q s z - s z"), ModelError, "is required"),
    "gemm half": (gemm("q as az w ws wz c - yz"), ModelError, "y_scale"),
    "quantize": (unary("QuantizeLinear", "q"), ModelError, "must have 2 to 3 inputs, got 1"),
    "two outputs": (
        with_constants(
            [node("QLinearSigmoid", "q s z s z", "y y2", domain=MS)], 17,
            s=scalar(0.1), z=scalar(3, U8),
        ),
        ModelError, "must have 1 output, got 2",
    ),
    "axis": (quantize(domain=MS, s=f32(1, 2), z=np.zeros(2, U8), axis="a"), ModelError, "an int"),
    "transB": (gemm(transB=7), ModelError, "must be 0 or 1, got 7"),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    model, error, says = SIGNATURES[name]
    with pytest.raises(error, match=says):
        load_graph(model)


def test_types_follow_the_nodes_before() -> None:
    first = node("QuantizeLinear", "x s z", "a")
    second = node("DequantizeLinear", "a s t", "y", name="n")
    model = with_constants([first, second], 17, s=scalar(0.1), z=scalar(3, U8), t=scalar(3, S8))
    with pytest.raises(QuantizationError, match="type of x, uint8, got int8"):
        load_graph(model)
    dynamic = node("DynamicQuantizeLinear", "x", "a ds dz")
    model = with_constants([dynamic, second], 17, s=scalar(0.1), t=scalar(3, S8))
    with pytest.raises(QuantizationError, match="type of x, uint8, got int8"):
        load_graph(model)


def test_parameters_that_are_not_constant_are_left_alone() -> None:
    nodes = [
        node("DynamicQuantizeLinear", "x", "a s z"),
        node("DequantizeLinear", "a s z", "y"),
    ]
    load_graph(with_constants(nodes, 17))
