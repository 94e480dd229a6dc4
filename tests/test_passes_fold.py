"""Passes around recognition: folding, identities, BatchNormalization, pads, inputs by value."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from qrt.errors import InputError, UnsupportedError
from qrt.ir import Graph
from qrt.loader import load_graph
from qrt.passes import arithmetic, bind_values, optimize, specialised_inputs, specialize
from qrt.passes.batchnorm import fold_batchnorm
from qrt.passes.fold import fold_constants
from qrt.passes.identities import drop_identities
from tests.passes_reference import run

HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> '


def graph_of(text: str) -> Graph:
    return load_graph(onnx.parser.parse_model(HEAD + text))


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def test_constants_fold_to_constants() -> None:
    graph = fold_constants(
        graph_of(
            """g (float[2] x) => (float[2] y) <int64[2] a = {3,4}, int64[2] b = {2,0}> {
                c = Sub(a, b)
                d = Cast<to = 1>(c)
                e = Transpose(d)
                y = Add(x, e)
            }"""
        )
    )
    assert ops(graph) == ["Add"]
    np.testing.assert_array_equal(graph.nodes[0].required(1).data, np.array([1, 4], np.float32))


def test_shape_of_a_known_shape_folds() -> None:
    graph = fold_constants(
        graph_of(
            """g (float[2,3,N] x) => (int64[2] y, float[2,3,N] z) {
                y = Shape<end = 2>(x)
                z = Identity(x)
            }"""
        )
    )
    # an output that is constant is still written by a node
    assert ops(graph) == ["Identity", "Identity"]
    assert graph.outputs[0].data is None
    np.testing.assert_array_equal(graph.nodes[0].required(0).data, [2, 3])


def test_folding_stops_at_large_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """g (float x) => (float[N] y) <int64[1] n = {4000}> {
        a = ConstantOfShape(n)
        y = Add(x, a)
    }"""
    assert ops(fold_constants(graph_of(text))) == ["Add"]
    monkeypatch.setattr(arithmetic, "MAX_NBYTES", 1000)
    assert ops(fold_constants(graph_of(text))) == ["ConstantOfShape", "Add"]


def test_identities_are_dropped() -> None:
    graph = drop_identities(
        graph_of(
            """g (float[2] x) => (float[2] y, float[2] z) {
                a = Identity(x)
                b = Dropout(a)
                c = Cast<to = 1>(b)
                y = Neg(b)
                z = Identity(y)
            }"""
        )
    )
    assert ops(graph) == ["Neg", "Identity"]
    assert graph.nodes[0].required(0) is graph.inputs[0]


def test_batchnorm_goes_into_float_weights() -> None:
    text = """g (float[1,2,3,3] x) => (float[1,2,3,3] y)
        <float[2,2,1,1] w = {1,2,3,4}, float[2] b = {0.5,-1}, float[2] gamma = {2,-1},
         float[2] beta = {0.25,1}, float[2] mean = {1,2}, float[2] variance = {4,0.25}> {
        c = Conv(x, w, b)
        y = BatchNormalization<epsilon = 0.0>(c, gamma, beta, mean, variance)
    }"""
    graph = fold_batchnorm(graph_of(text))
    (conv,) = graph.nodes
    assert conv.outputs == graph.outputs
    expected_w = np.array([[1, 2], [-6, -8]], np.float32).reshape(2, 2, 1, 1)
    np.testing.assert_array_equal(conv.required(1).data, expected_w)
    np.testing.assert_array_equal(conv.required(2).data, np.array([-0.25, 7], np.float32))


def test_batchnorm_behind_a_quantized_product() -> None:
    """Scale and bias change; a channel with a negative gain has a negative scale."""
    text = """g (uint8[1,2,3,3] x) => (float[1,2,3,3] y)
        <float s = {0.5}, uint8 z = {3}, float r = {0.25}, int8[2,2,1,1] w = {1,2,3,4},
         float[2] gamma = {2,-1}, float[2] beta = {0.25,1}, float[2] mean = {1,2},
         float[2] variance = {4,0.25}> {
        a = DequantizeLinear(x, s, z)
        v = DequantizeLinear(w, r)
        c = Conv(a, v)
        y = BatchNormalization<epsilon = 0.0>(c, gamma, beta, mean, variance)
    }"""
    machine = specialize(optimize(graph_of(text)), {"x": (1, 2, 3, 3)})
    conv = next(n for n in machine.nodes if n.op == "Conv")
    np.testing.assert_array_equal(conv.attrs["scale"], np.array([0.125, -0.25], np.float32))
    x = np.arange(18, dtype=np.uint8).reshape(1, 2, 3, 3)
    real = (x.astype(np.float32) - 3) * 0.5
    w = np.array([[0.25, 0.5], [0.75, 1.0]], np.float32)
    product = np.einsum("nchw,oc->nohw", real, w)
    expected = np.stack([(product[:, 0] - 1) + 0.25, (product[:, 1] - 2) * -2 + 1], 1)
    np.testing.assert_allclose(run(machine, {"x": x})["y"], expected, rtol=1e-6)


def test_inputs_that_must_be_known_by_value() -> None:
    text = """g (float[2,6] x, float s, uint8 z, int64[2] shape, int64 n) => (float[N,M] y) {
        q = QuantizeLinear(x, s, z)
        a = DequantizeLinear(q, s, z)
        m = Shape(a)
        one = Div(n, n)
        p = Mul(shape, one)
        b = Add(a, x)
        y = Reshape(b, p)
    }"""
    graph = graph_of(text)
    assert specialised_inputs(graph) == {"s", "z", "shape", "n"}
    values = {
        "s": np.array(0.5, np.float32),
        "z": np.array(9, np.uint8),
        "shape": np.array([3, 4]),
        "n": np.array(7),
    }
    bound = bind_values(graph, values)
    assert [v.name for v in bound.inputs] == ["x"]
    assert len(graph.inputs) == 5
    assert ops(optimize(bound)) == ["Quantize", "Dequantize", "Add", "Reshape"]


def test_an_unknown_operator_is_refused_by_name() -> None:
    graph = optimize(graph_of("g (float[2] x) => (float[2] y) { y = NonZero(x) }"))
    message = r"NonZero \(#0\): is not supported: it has no native kernel; the shape of its output"
    with pytest.raises(UnsupportedError, match=message):
        specialize(graph, {"x": (2,)})


def test_every_input_needs_a_shape() -> None:
    graph = optimize(graph_of("g (float[N] x) => (float[N] y) { y = Identity(x) }"))
    with pytest.raises(InputError, match="'x'"):
        specialize(graph, {})


def test_why_is_said() -> None:
    """What stays float although it meets a quantized tensor says why."""
    text = """g (uint8[2,2] x, float[2,2] v) => (float[2,2] y)
        <float s = {0.1}, uint8 z = {3}> {
        a = DequantizeLinear(x, s, z)
        y = MatMul(a, v)
    }"""
    machine = optimize(graph_of(text))
    assert ops(machine) == ["Dequantize", "MatMul"]
    assert machine.nodes[1].why == "its right operand is not a quantized tensor"


def test_sums_that_pass_int32_are_refused() -> None:
    """255 * 127 * 70000 > 2**31: proved from the weights, not from K alone."""
    k = 70000
    for weight, expected in ((127, "MatMul"), (1, "qrt.MatMul")):
        w = np.full((k, 1), weight, np.int8)
        model = onnx.parser.parse_model(
            HEAD
            + f"""g (uint8[1,{k}] x, int8[{k},1] w) => (uint8[1,1] y) <float s = {{0.1}}> {{
                a = DequantizeLinear(x, s)
                v = DequantizeLinear(w, s)
                c = MatMul(a, v)
                y = QuantizeLinear(c, s)
            }}"""
        )
        machine = optimize(bind_values(load_graph(model), {"w": w}))
        node = next(n for n in machine.nodes if n.op == "MatMul")
        assert (f"{node.domain}." if node.domain else "") + node.op == expected
        assert ("more than int32 holds" in node.why) == (expected == "MatMul")


def test_an_integer_times_zero_is_zero() -> None:
    """What exporters write to keep an input that nothing needs; 0 * NaN of floats is no 0."""
    text = """g (int64 n, float[2] x, float f) => (float[2] y, float z)
        <int64 zero = {0}, float none = {0}> {
        k = Mul(n, zero)
        c = Cast <to = 1> (k)
        y = Add(x, c)
        z = Mul(f, none)
    }"""
    assert ops(optimize(graph_of(text))) == ["Add", "Mul"]
