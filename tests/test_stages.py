"""Graphs that are no single program: control flow, shapes in the data, sequences, strings.

The oracle is onnx.reference, or NumPy where that is not the operator's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import qrt
from tests.graphs.draw import Array

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def parsed(text: str) -> onnx.ModelProto:
    """A model from ONNX's text form."""
    return onnx.parser.parse_model(HEAD + text)


def check(model: onnx.ModelProto, *sets: dict[str, Any]) -> qrt.Session:
    """Each set of inputs gives what onnx.reference gives; the session that ran them."""
    session = qrt.load(model)
    oracle = ReferenceEvaluator(model)
    for inputs in sets:
        for expected, got in zip(oracle.run(None, inputs), session.run(None, inputs), strict=True):
            same(expected, got)
    return session


def same(expected: Any, got: Any) -> None:
    if isinstance(expected, list):
        assert isinstance(got, list) and len(got) == len(expected)
        for one, other in zip(expected, got, strict=True):
            same(one, other)
        return
    expected = np.asarray(expected)
    assert isinstance(got, np.ndarray) and got.dtype == expected.dtype, (expected, got)
    assert got.shape == expected.shape
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(got, expected)


X = np.array([[1, -2, 0], [0, 4, -5]], np.float32)


def test_a_shape_in_the_data_ends_a_stage() -> None:
    model = parsed("""g (float[N,M] x) => (float[K] y, int64[R,K] at) {
        r = Relu(x)
        at = NonZero(r)
        t = Transpose <perm = [1, 0]> (at)
        p = GatherND(x, t)
        y = Add(p, p)
    }""")
    session = check(model, {"x": X}, {"x": X * 0}, {"x": -X}, {"x": X[:1]})
    rows = {row.operator: row for row in session.explain()}
    assert rows["NonZero"].kernels == ("host: onnx.reference",)
    assert "depends on the elements" in rows["NonZero"].why
    assert rows["Add"].kernels[0].startswith("add_f32") and rows["Add"].stage == "2"


def test_a_shape_that_shapes_decide_does_not() -> None:
    model = parsed("""g (float[N,M] x) => (float[L] y) {
        s = Shape(x)
        all = ReduceProd <keepdims = 1> (s)
        f = Relu(x)
        y = Reshape(f, all)
    }""")
    session = check(model, {"x": X}, {"x": X[:1]})
    assert not any(row.stage for row in session.explain())


def branches(condition: str = "c") -> onnx.ModelProto:
    return parsed(f"""g (float[N,M] x, bool c) => (float[A,B] y)
        <bool always = {{1}}> {{
        r = Relu(x)
        y = If ({condition}) <
            then_branch = t () => (float[A,B] yt) {{ yt = Add(r, x) }},
            else_branch = e () => (float[A,B] ye) {{ n = Neg(r)  ye = Concat <axis = 0> (n, x) }}
        >
    }}""")


def test_if_runs_the_branch_chosen() -> None:
    session = check(
        branches(), *({"x": x, "c": np.array(c)} for x in (X, X[:1]) for c in (True, False))
    )
    assert {row.stage for row in session.explain()} >= {"0", "1", "1.then_branch.0"}


def test_a_constant_condition_is_no_stage() -> None:
    session = check(branches("always"), {"x": X, "c": np.array(False)})
    assert not any(row.stage for row in session.explain())
    assert [row.operator for row in session.explain()] == ["Relu", "Add"]


def test_shapes_may_choose_a_branch() -> None:
    """As PyTorch exports squeeze: the branch becomes part of the program for these shapes."""
    model = parsed("""g (float[N,M] x) => (float y)
        <int64[1] one = {1}, int64[1] zero = {0}, float[2] w = {1, 2}> {
        s = Shape <start = 0, end = 1> (x)
        c = Equal(s, one)
        t = If (c) <
            then_branch = t () => (float[A] yt) { yt = Squeeze(x, zero) },
            else_branch = e () => (float[A,B] ye) {
                d = Equal(one, s)
                ye = If (d) <
                    then_branch = f () => (float[A] yf) { yf = Squeeze(x, zero) },
                    else_branch = h () => (float[A,B] yh) { n = Neg(x)  yh = Mul(n, w) }
                >
            }
        >
        y = ReduceSum <keepdims = 0> (t)
    }""")
    session = check(model, {"x": X[:, :2]}, {"x": X[:1]}, {"x": X[:, 1:]})
    assert not any(row.stage for row in session.explain())
    assert {row.operator for row in session.explain()} >= {"Neg", "Mul"}


def loop(trips: str = "n", condition: str = "on") -> onnx.ModelProto:
    return parsed(f"""g (float[N] x, int64 n) => (float[N] y, float[T,N] all)
        <bool on = {{1}}, float[1] limit = {{100}}> {{
        y, all = Loop ({trips}, {condition}, x) <body = b (int64 i, bool c, float[N] s)
            => (bool more, float[N] t, float[N] u) {{
            d = Add(s, x)
            f = Cast <to = 1> (i)
            t = Add(d, f)
            u = Identity(t)
            m = ReduceMax <keepdims = 0> (t)
            more = Less(m, limit)
        }}>
    }}""")


def test_loops_carry_and_stack() -> None:
    sets = [{"x": X[0], "n": np.array(n)} for n in (1, 3, 40)]
    check(loop(), *sets)
    x = np.ones(2, np.float32)
    y, rows = qrt.load(loop()).run(None, {"x": x, "n": np.array(0)})
    np.testing.assert_array_equal(y, x)
    assert rows.shape == (0, 0) or rows.shape == (0, 2)


def test_a_loop_that_never_ends_is_stopped() -> None:
    session = qrt.load(loop("", ""), max_steps=50)
    with pytest.raises(qrt.StepLimitError, match=r"Loop \(#0\): .* 50 steps \(max_steps\)"):
        session.run(None, {"x": X[0] * 0 - 1e6, "n": np.array(1)})


def test_sequences_in_and_out() -> None:
    model = parsed("""g (seq(float[N]) s, float[N] x) => (seq(float[N]) t, float[L] y, int64 n) {
        t = SequenceInsert(s, x)
        n = SequenceLength(t)
        y = ConcatFromSequence <axis = 0> (t)
    }""")
    x = np.arange(3, dtype=np.float32)
    session = check(model, {"s": [x, x[:1]], "x": x}, {"s": [], "x": x})
    assert session.get_inputs()[0].type == "seq(tensor(float))"
    with pytest.raises(qrt.InputError, match=r"'s': expected seq\(tensor\(float\)\), a list"):
        session.run(None, {"s": x, "x": x})
    with pytest.raises(qrt.InputError, match="input 's'"):
        session.run(None, {"s": [x.astype(np.float64)], "x": x})


def test_strings() -> None:
    model = parsed("""g (string[N] a, string[N] b) => (string[N] c, bool[N] d) {
        c = StringConcat(a, b)
        d = Equal(a, b)
    }""")
    a: Array = np.array(["x", "yy"], object)
    session = qrt.load(model)
    c, d = session.run(None, {"a": a, "b": np.array(["x", "z"])})
    assert c.tolist() == ["xx", "yyz"] and c.dtype == object and d.tolist() == [True, False]


def test_optionals() -> None:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(1, None))
    nodes = [
        helper.make_node("OptionalHasElement", ["o"], ["there"]),
        helper.make_node("Identity", ["o"], ["same"]),
    ]
    outputs = [helper.make_tensor_value_info("there", 9, []), helper.make_value_info("same", kind)]
    graph = helper.make_graph(nodes, "g", [helper.make_value_info("o", kind)], outputs)
    session = qrt.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    assert session.get_outputs()[1].type == "optional(tensor(float))"
    there, value = session.run(None, {"o": None})
    assert not there and value is None
    there, value = session.run(None, {"o": X})
    assert there and value is X
