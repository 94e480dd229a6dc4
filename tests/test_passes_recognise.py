"""Recognition on tiny graphs: which machine operators come out, and that they compute the contract.

A case is a graph in ONNX's text form and the operators of its specialised form, in order. Every
case is run against the oracle too, so that a wrong attribute shows as a wrong value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx.parser
import pytest

from qrt.loader import load_graph
from qrt.passes import optimize, specialize
from tests.contract import evaluate
from tests.passes_reference import run

HEAD = '<ir_version: 8, opset_import: ["" : 19, "com.microsoft" : 1]> '
S = "float s = {0.1}, float t = {0.3}, float r = {0.002}"
U = "uint8 z = {7}, uint8 y0 = {11}"
W = "int8[3,2,1,1] w = {1,-2,3,4,-5,6}"


@dataclass(frozen=True)
class Case:
    name: str
    graph: str
    ops: str  # of the specialised graph, in order; "onnx." marks the ONNX domain


CASES = [
    Case(
        "DQ conv relu Q is one product",
        f"""g (uint8[1,2,3,3] x) => (uint8[1,3,3,3] y) <{S}, {U}, {W}> {{
            a = DequantizeLinear(x, s, z)
            b = DequantizeLinear(w, r)
            c = Conv(a, b)
            d = Relu(c)
            y = QuantizeLinear(d, t, y0)
        }}""",
        "Copy Conv Copy",
    ),
    Case(
        "int8 activations are flipped at the edges only",
        f"""g (int8[1,2,3,3] x) => (int8[1,3,3,3] y) <{S}, int8 z = {{-7}}, {W}> {{
            a = DequantizeLinear(x, s, z)
            b = DequantizeLinear(w, r)
            c = Conv(a, b)
            d = QuantizeLinear(c, t, z)
            e = DequantizeLinear(d, t, z)
            f = MaxPool<kernel_shape = [2, 2], auto_pad = "SAME_UPPER">(e)
            y = QuantizeLinear(f, t, z)
        }}""",
        "Lookup Copy Conv MaxPool Lookup Copy",
    ),
    Case(
        "sums are requantized at once, also to int8",
        f"""g (int32[2,3] x) => (int8[2,3] y) <{S}, int8 z = {{-7}}> {{
            a = DequantizeLinear(x, s)
            b = Relu(a)
            y = QuantizeLinear(b, t, z)
        }}""",
        "Requantize",
    ),
    Case(
        "sums with a scale per channel move as codes",
        f"""g (int32[2,3] x) => (uint8[3,2] y)
            <{U}, float[3] s = {{0.1,0.02,0.3}}, float t = {{0.4}}> {{
            a = DequantizeLinear(x, s)
            b = Transpose(a)
            y = QuantizeLinear(b, t, y0)
        }}""",
        "Requantize onnx.Transpose Copy",
    ),
    Case(
        "sums that are read as float are dequantized too",
        f"""g (int32[2,3] x) => (uint8[2,3] y, float[2,3] a) <{S}, {U}> {{
            a = DequantizeLinear(x, s)
            y = QuantizeLinear(a, t, y0)
        }}""",
        "Requantize Dequantize",
    ),
    Case(
        "codes that are read elsewhere too stay uint8",
        f"""g (int32[2,3] x) => (int8[2,3] y, uint8[2,3] w) <{S}, {U}, int8 n = {{-7}}> {{
            a = DequantizeLinear(x, s)
            y = QuantizeLinear(a, t, n)
            b = DequantizeLinear(y, t, n)
            c = Sigmoid(b)
            w = QuantizeLinear(c, s, y0)
        }}""",
        "Requantize Lookup Lookup",
    ),
    Case(
        "QLinearConv with uint8 weights whose zero point fits",
        f"""g (uint8[1,2,3,3] x) => (uint8[1,3,2,2] y)
            <{S}, {U}, uint8[3,2,2,2] w = {{130,131,128,120,110,140,1,2,3,4,5,6,7,8,9,10,20,30,40,
             50,60,70,80,90}}, uint8 wz = {{100}}, int32[3] b = {{5,-6,7}}> {{
            y = QLinearConv(x, s, z, w, r, wz, t, y0, b)
        }}""",
        "Copy Conv Copy",
    ),
    Case(
        "a float result needs no QuantizeLinear",
        f"""g (uint8[2,2] x) => (float[2,3] y)
            <{S}, {U}, int8[2,3] w = {{1,-2,3,4,-5,6}}, float[3] b = {{0.5,-0.25,1}}> {{
            a = DequantizeLinear(x, s, z)
            v = DequantizeLinear(w, r)
            y = Gemm<alpha = 0.5>(a, v, b)
        }}""",
        "MatMul",
    ),
    Case(
        "a float bias behind a QuantizeLinear is quantized",
        f"""g (uint8[2,2] x) => (uint8[2,3] y)
            <{S}, {U}, int8[3,2] w = {{1,-2,3,4,-5,6}}, float[3] b = {{0.5,-0.25,1}}> {{
            a = DequantizeLinear(x, s, z)
            v = DequantizeLinear(w, r)
            c = Gemm<transB = 1, beta = 0.5>(a, v, b)
            y = QuantizeLinear(c, r, y0)
        }}""",
        "MatMul",
    ),
    Case(
        "two activations: the right one becomes int8",
        f"""g (uint8[2,4] x, uint8[4,3] v) => (uint8[2,3] y) <{S}, {U}> {{
            a = DequantizeLinear(x, s, z)
            b = DequantizeLinear(v, t, y0)
            c = MatMul(a, b)
            y = QuantizeLinear(c, t, z)
        }}""",
        "Lookup MatMul",
    ),
    Case(
        "x * sigmoid(x), requantized in between, is one table",
        f"""g (uint8[2,2] x) => (uint8[2,2] y) <{S}, {U}> {{
            a = DequantizeLinear(x, s, z)
            b = Sigmoid(a)
            c = QuantizeLinear(b, r, y0)
            d = DequantizeLinear(c, r, y0)
            e = Mul(a, d)
            f = QuantizeLinear(e, t, y0)
            h = DequantizeLinear(f, t, y0)
            y = QuantizeLinear(h, r, z)
        }}""",
        "Lookup",
    ),
    Case(
        "HardSwish spelled as parts",
        f"""g (uint8[2,2] x) => (uint8[2,2] y)
            <{S}, {U}, float three = {{3}}, float six = {{6}}, float nought = {{0}}> {{
            a = DequantizeLinear(x, s, z)
            b = Add(a, three)
            c = Clip(b, nought, six)
            d = Div(c, six)
            e = Mul(d, a)
            y = QuantizeLinear(e, t, y0)
        }}""",
        "Lookup",
    ),
    Case(
        "equal parameters: only the movement is left",
        f"""g (uint8[1,2,3] x) => (uint8[3,2] y) <{S}, {U}, int64[2] shape = {{2,3}}> {{
            a = DequantizeLinear(x, s, z)
            b = Reshape(a, shape)
            c = QuantizeLinear(b, s, z)
            d = DequantizeLinear(c, s, z)
            e = Transpose(d)
            y = QuantizeLinear(e, s, z)
        }}""",
        "onnx.Reshape onnx.Transpose Copy",
    ),
    Case(
        "MaxPool, Relu, Reshape between other parameters: integers, then a table",
        f"""g (uint8[1,1,4,4] x) => (uint8[1,4] y) <{S}, {U}, int64[2] shape = {{1,-1}}> {{
            a = DequantizeLinear(x, s, z)
            b = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
            c = Relu(b)
            d = Reshape(c, shape)
            y = QuantizeLinear(d, t, y0)
        }}""",
        "MaxPool onnx.Reshape Lookup",
    ),
    Case(
        "a falling function is looked up before a maximum",
        f"""g (uint8[1,1,4,4] x) => (uint8[1,1,2,2] y) <{S}, {U}> {{
            a = DequantizeLinear(x, s, z)
            b = Neg(a)
            c = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
            y = QuantizeLinear(c, t, y0)
        }}""",
        "Lookup MaxPool",
    ),
    Case(
        "Concat requantizes each part by a table",
        f"""g (uint8[1,2] x, uint8[1,3] v) => (uint8[1,5] y) <{S}, {U}> {{
            a = DequantizeLinear(x, s, z)
            b = DequantizeLinear(v, t, y0)
            c = Concat<axis = 1>(a, b)
            y = QuantizeLinear(c, s, y0)
        }}""",
        "Concat",
    ),
    Case(
        "Pad of 0.0 goes into the convolution",
        f"""g (uint8[1,2,3,3] x) => (uint8[1,3,4,5] y)
            <{S}, {U}, {W}, int64[8] p = {{0,0,1,0,0,0,0,2}}> {{
            a = DequantizeLinear(x, s, z)
            m = Pad(a, p)
            b = DequantizeLinear(w, r)
            c = Conv(m, b)
            y = QuantizeLinear(c, t, y0)
        }}""",
        "Copy Conv Copy",
    ),
    Case(
        "Pad of another number stays",
        f"""g (uint8[1,1,3,3] x) => (uint8[1,1,4,3] y)
            <{S}, {U}, int64[8] p = {{0,0,1,0,0,0,0,0}}, float v = {{0.55}}> {{
            a = DequantizeLinear(x, s, z)
            b = Pad(a, p, v)
            y = QuantizeLinear(b, t, y0)
        }}""",
        "Lookup onnx.Pad",
    ),
    Case(
        "averages and Softmax",
        f"""g (uint8[1,2,4,4] x) => (float[1,2,1,1] y) <{S}, {U}> {{
            a = DequantizeLinear(x, s, z)
            b = AveragePool<kernel_shape = [2, 2], pads = [1, 1, 0, 0]>(a)
            c = QuantizeLinear(b, s, z)
            d = DequantizeLinear(c, s, z)
            e = GlobalAveragePool(d)
            f = QuantizeLinear(e, t, y0)
            h = DequantizeLinear(f, t, y0)
            y = Softmax<axis = 1>(h)
        }}""",
        "Copy AveragePool ReduceMean Softmax",
    ),
    Case(
        "Add broadcasts a quantized constant; Clip narrows it",
        f"""g (uint8[1,2,3] x) => (uint8[1,2,3] y)
            <{S}, {U}, uint8[2,1] k = {{200,3}}, float low = {{-1}}, float high = {{1.5}}> {{
            a = DequantizeLinear(x, s, z)
            b = DequantizeLinear(k, r, y0)
            c = Add(a, b)
            d = Clip(c, low, high)
            y = QuantizeLinear(d, t, y0)
        }}""",
        "Add",
    ),
    Case(
        "weights that are transposed, reshaped and quantized while loading",
        f"""g (uint8[2,2] x) => (uint8[2,3] y)
            <{S}, {U}, float[3,2] f = {{0.1,-0.2,0.3,0.4,-0.5,0.6}}, int8 wz = {{0}}> {{
            a = DequantizeLinear(x, s, z)
            q = QuantizeLinear(f, r, wz)
            v = DequantizeLinear(q, r, wz)
            u = Transpose(v)
            c = MatMul(a, u)
            y = QuantizeLinear(c, t, y0)
        }}""",
        "MatMul",
    ),
    Case(
        "an average over channels last",
        f"""g (uint8[1,4,4,2] x) => (uint8[1,2,2,2] y) <{S}, {U}> {{
            y = com.microsoft.QLinearAveragePool<channels_last = 1, kernel_shape = [2, 2],
                strides = [2, 2]>(x, s, z, t, y0)
        }}""",
        "onnx.Transpose AveragePool onnx.Transpose",
    ),
    Case(
        "a bias per row is a product per row",
        f"""g (uint8[2,2] x) => (uint8[2,3] y)
            <{S}, {U}, int8[2,3] w = {{1,-2,3,4,-5,6}}, int8 wz = {{0}},
             int32[2,1] b = {{50,-60}}> {{
            y = com.microsoft.QGemm(x, s, z, w, r, wz, b, t, y0)
        }}""",
        "onnx.Slice MatMul onnx.Slice MatMul onnx.Concat",
    ),
    Case(
        "a convolution over three axes is one over two",
        f"""g (uint8[1,2,3,3,3] x) => (uint8[1,1,2,3,3] y)
            <{S}, {U}, int8[1,2,2,1,1] w = {{1,-2,3,4}}> {{
            a = DequantizeLinear(x, s, z)
            b = DequantizeLinear(w, r)
            c = Conv(a, b)
            y = QuantizeLinear(c, r, y0)
        }}""",
        "onnx.Slice onnx.Reshape onnx.Slice onnx.Reshape onnx.Concat onnx.Reshape onnx.Transpose"
        " onnx.Reshape Copy Conv onnx.Reshape onnx.Transpose",
    ),
    Case(
        "QuantizeLinear goes through MaxPool and Reshape to the product",
        f"""g (uint8[1,2,4,4] x) => (uint8[1,12] y) <{S}, {U}, {W}, int64[2] shape = {{1,-1}}> {{
            a = DequantizeLinear(x, s, z)
            b = DequantizeLinear(w, r)
            c = Conv(a, b)
            d = Relu(c)
            e = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d)
            f = Reshape(e, shape)
            y = QuantizeLinear(f, r, y0)
        }}""",
        "Copy Conv MaxPool Copy onnx.Reshape",
    ),
    Case(
        "MatMul and Add of a constant row: a product with a bias",
        f"""g (uint8[2,2] x) => (float[2,3] y)
            <{S}, {U}, int8[2,3] w = {{1,-2,3,4,-5,6}}, float[3] b = {{0.5,-0.25,1}}> {{
            a = DequantizeLinear(x, s, z)
            v = DequantizeLinear(w, r)
            c = MatMul(a, v)
            y = Add(b, c)
        }}""",
        "MatMul",
    ),
    Case(
        "a Shape chain folds away",
        f"""g (uint8[2,3,1,1] x) => (float[2,3] y)
            <{S}, {U}, int64 zero = {{0}}, int64[1] ax = {{0}}, int64[1] m1 = {{-1}}> {{
            a = DequantizeLinear(x, s, z)
            b = Shape(a)
            c = Gather(b, zero)
            d = Unsqueeze(c, ax)
            e = Concat<axis = 0>(d, m1)
            y = Reshape(a, e)
        }}""",
        "onnx.Reshape Dequantize",
    ),
]


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEAD + text)


def describe(graph: object) -> str:
    return " ".join(n.op if n.domain == "qrt" else f"onnx.{n.op}" for n in graph.nodes)  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    model = parse(case.graph)
    graph = load_graph(model)
    before = [repr(n) for n in graph.nodes]
    machine = specialize(optimize(graph), {v.name: v.static_shape for v in graph.inputs})
    assert describe(machine) == case.ops
    assert [repr(n) for n in graph.nodes] == before, "optimize changed the graph it was given"
    rng = np.random.default_rng(0)
    for _ in range(3):
        feeds = {v.name: random_integers(rng, v.dtype, v.static_shape) for v in graph.inputs}
        expected, got = evaluate(model, feeds), run(machine, feeds)
        assert list(expected) == list(got)
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array)


def random_integers(
    rng: np.random.Generator, dtype: object, shape: tuple[int, ...]
) -> np.ndarray[object, object]:  # type: ignore[type-var]
    limits = np.iinfo(dtype)  # type: ignore[call-overload]
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)  # type: ignore[return-value]
