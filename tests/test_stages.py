"""Graphs that are no single program: control flow, shapes in the data, sequences, strings.

The oracle is onnx.reference, or NumPy where that is not the operator's.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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
    assert not {"If", "Concat"} & {row.operator for row in session.explain()}


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
    assert not {"If", "Equal"} & {row.operator for row in session.explain()}


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


def scan(text: str = "") -> onnx.ModelProto:
    """Running sums over sequences, and their products with what the graph around has."""
    return parsed(f"""g (float[K,J] start, float[A,B,C] x, float[D,E,F] y, float[J] w)
        => (float[K,J] last, p, q) {{
        last, p, q = Scan <num_scan_inputs = 2 {text}, body = b
            (float[K,J] s, float[K,J] u, float[K,J] v)
            => (float[K,J] t, float[K,J] m, float[K,J] n) {{
            t = Add(s, u)
            m = Mul(t, v)
            n = Sub(m, w)
        }}> (start, x, y)
    }}""")


def test_scans_along_any_axis_in_any_direction() -> None:
    rng = np.random.default_rng(5)
    shapes = ((2, 3), (3,), (5, 2, 3), (5, 2, 3))
    start, w, u, v = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        axes, out_axes = rng.integers(-3, 3, 2), rng.integers(-3, 3, 2)
        ways, out_ways = rng.integers(0, 2, 2), rng.integers(0, 2, 2)
        text = "".join(
            f", scan_{name} = [{', '.join(map(str, values))}]"
            for name, values in (
                ("input_axes", axes), ("input_directions", ways),
                ("output_axes", out_axes), ("output_directions", out_ways),
            )
        )  # fmt: skip
        state, sums, rest = start, [], []
        for a, b in zip(u[:: -1 if ways[0] else 1], v[:: -1 if ways[1] else 1], strict=True):
            state = state + a
            sums.append(state * b)
            rest.append(state * b - w)
        expected = [
            np.stack(parts[:: -1 if way else 1], axis % 3)
            for parts, way, axis in zip((sums, rest), out_ways, out_axes, strict=True)
        ]
        session = qrt.load(scan(text))
        x, y = (np.moveaxis(a, 0, axis) for a, axis in zip((u, v), axes, strict=True))
        got = session.run(None, {"start": start, "x": x, "y": y, "w": w})
        for one, other in zip([state, *expected], got, strict=True):
            same(one, other)


def test_sequence_map_and_sequences_in_loops() -> None:
    model = parsed("""g (seq(float[N]) s, float[N] w, int64 n) => (seq(float[N]) t, float[L] y)
        <bool on = {1}> {
        t = SequenceMap (s, w) <body = m (float[N] a, float[N] b) => (float[N] c) {
            d = Mul(a, b)
            c = Add(d, w)
        }>
        u = Loop (n, on, t) <body = k (int64 i, bool c, seq(float[N]) r)
            => (bool d, seq(float[N]) q) {
            d = Identity(c)
            f = Cast <to = 1> (i)
            e = Add(w, f)
            q = SequenceInsert(r, e)
        }>
        y = ConcatFromSequence <axis = 0> (u)
    }""")
    w = np.arange(3, dtype=np.float32)
    t, y = qrt.load(model).run(None, {"s": [w + 1, w * 2], "w": w, "n": np.array(3)})
    same([(w + 1) * w + w, w * 2 * w + w], t)
    same(np.concatenate([*t, w, w + 1, w + 2]), y)


def test_what_a_run_teaches_is_kept() -> None:
    """That its output is strings is only in an attribute; the first plan takes it for numbers."""
    node = helper.make_node(
        "LabelEncoder", ["r"], ["y"], domain="ai.onnx.ml",
        keys_int64s=[1, 2], values_strings=["one", "two"], default_string="many",
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["r"]), node],
        "g",
        [helper.make_tensor_value_info("x", 7, ["N"])],
        [helper.make_tensor_value_info("y", 8, ["N"])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 4)]
    session = qrt.load(helper.make_model(graph, opset_imports=opsets))
    for _ in range(2):
        assert session(np.array([1, -2, 3])).tolist() == ["one", "two", "many"]
    assert [row.stage for row in session.explain()] == ["0", "1"]


def test_threads_share_a_session() -> None:
    """Shapes come in another order in each; every branch and every length is run by several."""
    model = parsed("""g (float[N] x) => (float[K] y) <bool on = {1}, float zero = {0}> {
        at = NonZero(x)
        s = Shape <start = 1> (at)
        n = ReduceMax <keepdims = 0> (s)
        z = Loop (n, on, x) <body = b (int64 i, bool c, float[N] u) => (bool d, float[N] v) {
            d = Identity(c)
            v = Add(u, x)
        }>
        m = ReduceSum <keepdims = 0> (z)
        p = Greater(m, zero)
        y = If (p) <then_branch = t () => (float[K] a) { a = Relu(z) },
                    else_branch = e () => (float[K] a) { a = Concat <axis = 0> (z, z) }>
    }""")
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-2, 3, n).astype(np.float32) for n in rng.integers(1, 9, 40)]

    def expected(x: Array) -> Array:
        z = x * np.float32(1 + np.count_nonzero(x))
        return np.maximum(z, 0) if z.sum() > 0 else np.concatenate([z, z])

    for threads in (1, 2):
        session = qrt.load(model, threads=threads)

        def work(seed: int, session: qrt.Session = session) -> None:
            for i in np.random.default_rng(seed).permutation(len(inputs)):
                same(expected(inputs[i]), session(inputs[i]))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))


def test_constants_that_programs_leave_behind_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program per value of a shape that is an input: their constants are not kept for ever."""
    monkeypatch.setattr("qrt.api.resources.LEFT_BEHIND", 4096)
    model = parsed("""g (float[N] x, int64[1] n, float[M] w) => (float[K] y) {
        t = Tile(x, n)
        y = Clip(t, w)
    }""")
    model.graph.node[1].input[1] = "low"
    model.graph.node.insert(1, helper.make_node("Squeeze", ["w"], ["low"]))
    session = qrt.load(model)
    sizes = []
    for n in range(1, 200):
        x = np.arange(7, dtype=np.float32) + n
        same(np.tile(x, n), session.run(None, {"x": x, "n": np.array([n]), "w": x[:1] * 0})[0])
        sizes.append(session.explain().constants_nbytes)
    assert max(sizes[100:]) == max(sizes[:100]) < 3 * max(sizes[:17]) + 4096


PIECES = (
    "{y} = Relu({x})",
    "{y} = Add({x}, {x})",
    "{y}s = Shape({x})  {y}p = ReduceProd <keepdims = 1> ({y}s)  {y}f = Reshape({x}, {y}p)"
    "  {y} = Unsqueeze({y}f, zero)",
    "{y}n = NonZero({x})  {y}t = Transpose <perm = [1, 0]> ({y}n)  {y}g = GatherND({x}, {y}t)"
    "  {y}u = Unsqueeze({y}g, zero)  {y} = Concat <axis = 1> ({y}u, row)",
    "{y}m = ReduceMax <keepdims = 0> ({x})  {y}c = Greater({y}m, one)  {y} = If ({y}c) <"
    "then_branch = {y}a () => (float[A,B] {y}v) {{ {y}v = Mul({x}, half) }},"
    "else_branch = {y}b () => (float[A,B] {y}w) {{ {y}w = Concat <axis = 0> ({x}, {x}) }}>",
    "{y}s = Shape <start = 0, end = 1> ({x})  {y}q = Squeeze({y}s)  {y} = Loop ({y}q, on, {x}) <"
    "body = {y}b (int64 {y}i, bool {y}c, float[A,B] {y}u) => (bool {y}d, float[A,B] {y}v) {{"
    " {y}d = Identity({y}c)  {y}k = Mul({y}u, half)  {y}v = Sub({y}k, one) }}>",
    "{y}l = SplitToSequence <axis = 1> ({x})  {y} = ConcatFromSequence <axis = 0> ({y}l)",
    "{y}a = ArgMax <axis = 1, keepdims = 0> ({x})  {y}e = ReduceMax <keepdims = 1> ({y}a)"
    "  {y}z = Add({y}e, ones)  {y} = Slice({x}, zero, {y}z, ones)",
)


def random_stages(rng: np.random.Generator) -> onnx.ModelProto:
    """A chain of pieces, each of which gives a matrix of some shape."""
    names = [f"v{i}" for i in range(int(rng.integers(2, 7)))]
    text, x = [], "x"
    for y in names:
        text.append(PIECES[int(rng.integers(len(PIECES)))].format(x=x, y=y))
        x = y
    return parsed(f"""g (float[N,M] x) => (float[P,Q] {x})
        <int64[1] zero = {{0}}, int64[1] ones = {{1}}, float one = {{1}}, float half = {{0.5}},
         float[1,1] row = {{2}}, bool on = {{1}}> {{
        {"  ".join(text)}
    }}""")


def test_random_graphs_of_stages() -> None:
    for seed in range(40):
        rng = np.random.default_rng((seed, 77))
        model = random_stages(rng)
        sets = [
            {"x": rng.integers(-3, 5, rng.integers(1, 4, 2)).astype(np.float32)} for _ in range(3)
        ]
        try:
            check(model, *sets)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {onnx.printer.to_text(model)}") from error
