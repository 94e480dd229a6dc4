"""Memory order: where Copies go, and that Transpose and reshapes of ones cost none."""

from __future__ import annotations

import onnx.parser
import pytest

from qrt.ir import Graph
from qrt.loader import load_graph
from qrt.passes import optimize, specialize
from qrt.passes.layout import canonical, channels_last, same_order

HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> '
S = "float s = {0.1}, uint8 z = {3}, int8[4,2,1,1] w = {1,2,3,4,5,6,7,8}"
NHWC = (0, 2, 3, 1)


def machine(text: str) -> Graph:
    graph = load_graph(onnx.parser.parse_model(HEAD + text))
    return specialize(optimize(graph), {v.name: v.static_shape for v in graph.inputs})


def ops(graph: Graph) -> str:
    return " ".join(n.op for n in graph.nodes)


def test_orders() -> None:
    assert channels_last(4) == NHWC
    assert channels_last(3) == (0, 2, 1)
    assert channels_last(2) is None
    assert canonical(NHWC, (2, 3, 1, 1)) is None
    assert canonical(NHWC, (2, 1, 5, 7)) is None
    assert canonical(NHWC, (2, 3, 5, 7)) == NHWC
    assert same_order(NHWC, None, (2, 1, 5, 7))
    assert not same_order(NHWC, None, (2, 3, 5, 7))


def test_channels_last_inside_row_major_outside() -> None:
    graph = machine(
        f"""g (float[1,2,5,5] x) => (float[1,4,5,5] y) <{S}> {{
            q = QuantizeLinear(x, s, z)
            a = DequantizeLinear(q, s, z)
            v = DequantizeLinear(w, s)
            c = Conv(a, v)
            d = Relu(c)
            e = QuantizeLinear(d, s, z)
            f = DequantizeLinear(e, s, z)
            h = Add(f, f)
            k = QuantizeLinear(h, s, z)
            y = DequantizeLinear(k, s, z)
        }}"""
    )
    # both Copies move bytes, not floats
    assert ops(graph) == "Quantize Copy Conv Copy Lookup"
    assert [n.outputs[0].layout for n in graph.nodes] == [None, NHWC, NHWC, None, None]


def test_transposes_around_a_convolution_vanish() -> None:
    graph = machine(
        f"""g (uint8[1,5,5,2] x) => (uint8[1,5,5,4] y) <{S}> {{
            t = Transpose<perm = [0, 3, 1, 2]>(x)
            a = DequantizeLinear(t, s, z)
            v = DequantizeLinear(w, s)
            c = Conv(a, v)
            q = QuantizeLinear(c, s, z)
            y = Transpose<perm = [0, 2, 3, 1]>(q)
        }}"""
    )
    assert ops(graph) == "Transpose Conv Transpose"


def test_axes_of_length_one_need_no_copy() -> None:
    graph = machine(
        f"""g (uint8[1,1,1,2] x) => (uint8[1,4] y) <{S}, int64[2] shape = {{1,-1}}> {{
            t = Transpose<perm = [0, 3, 1, 2]>(x)
            a = DequantizeLinear(t, s, z)
            v = DequantizeLinear(w, s)
            c = Conv(a, v)
            q = QuantizeLinear(c, s, z)
            y = Reshape(q, shape)
        }}"""
    )
    assert ops(graph) == "Transpose Conv Reshape"


def test_one_copy_serves_all_readers() -> None:
    graph = machine(
        f"""g (uint8[1,2,5,5] x) => (uint8[1,8,5,5] y) <{S}> {{
            a = DequantizeLinear(x, s, z)
            v = DequantizeLinear(w, s)
            c = Conv(a, v)
            d = Conv(a, v)
            e = Concat<axis = 1>(c, d)
            y = QuantizeLinear(e, s, z)
        }}"""
    )
    assert ops(graph) == "Copy Conv Conv Concat Copy"


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1)])
def test_a_constant_is_stored_in_the_order_of_its_reader(shape: tuple[int, ...]) -> None:
    """A constant of full rank takes the common order; what broadcasts is read as it is."""
    dims = ",".join(map(str, shape))
    graph = machine(
        f"""g (uint8[1,2,5,5] x) => (uint8[1,4,5,5] y)
            <{S}, uint8[{dims}] k = {{9,8,7,6}}> {{
            a = DequantizeLinear(x, s, z)
            v = DequantizeLinear(w, s)
            c = Conv(a, v)
            q = QuantizeLinear(c, s, z)
            d = DequantizeLinear(q, s, z)
            b = DequantizeLinear(k, s, z)
            e = Mul(d, b)
            y = QuantizeLinear(e, s, z)
        }}"""
    )
    assert ops(graph) == "Copy Conv Mul Copy"
    mul = graph.nodes[2]
    assert mul.required(0).layout == NHWC and mul.required(1).layout is None
