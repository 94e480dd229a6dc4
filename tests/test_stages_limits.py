"""What a hostile graph of several stages may ask for, and what is said to it."""

from __future__ import annotations

import contextlib
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import qrt
from qrt.errors import (
    InputError,
    KernelError,
    MemoryLimitError,
    ModelError,
    QrtError,
    StepLimitError,
)
from tests.test_bad_models import damage
from tests.test_stages import X, loop, parsed, random_stages

HUGE = np.array([2**40, 2**40], np.int64)

# operator -> its text, with n (the sum of int64[2] sizes and zero) as what makes it large
BOMBS = {
    "ConstantOfShape": "y = ConstantOfShape(n)",
    "Expand": "y = Expand(x, n)",
    "Tile": "y = Tile(x, n)",
    "Range": "z = Squeeze(first)  last = ReduceMax <keepdims = 0> (n)  y = Range(z, last, one)",
    "Pad": "p = Concat <axis = 0> (n, n)  y = Pad(x, p)",
    "Resize": "y = Resize <mode = \"nearest\"> (x, , , n)",
    "OneHot": "d = ReduceMax <keepdims = 0> (n)  i = Cast <to = 7> (x)  y = OneHot(i, d, values)",
}


def bomb(op: str, declared: str = "int64[2] sizes") -> onnx.ModelProto:
    """The shape is computed from data, so that only a run can know it."""
    return parsed(f"""g (float[1,1] x, {declared}) => (y)
        <int64[1] zero = {{0}}, int64[1] first = {{0}}, int64 one = {{1}},
         float[2] values = {{0, 1}}> {{
        at = NonZero(x)
        none = ReduceSum <keepdims = 0> (at)
        n = Add(sizes, none)
        {BOMBS[op]}
    }}""")


@pytest.mark.parametrize("max_bytes", [None, 2**26])
@pytest.mark.parametrize("op", BOMBS)
def test_memory_bombs_at_run_time(op: str, max_bytes: int | None) -> None:
    session = qrt.load(bomb(op), max_bytes=max_bytes)
    says = "max_bytes allows" if max_bytes else "one tensor may have"
    for sizes in (HUGE, HUGE // 2**8):
        with pytest.raises(MemoryLimitError, match=rf"{op} \(#\d+\): its result .*{says}"):
            session.run(None, {"x": X[:1, :1], "sizes": sizes})
    small = session.run(None, {"x": X[:1, :1], "sizes": np.array([2, 3])})[0]
    assert 0 < small.size < 100


@pytest.mark.parametrize("op", BOMBS)
def test_memory_bombs_that_are_planned(op: str) -> None:
    model = parsed(f"""g (float[1,1] x, int64[2] n) => (y)
        <int64[1] first = {{0}}, int64 one = {{1}}, float[2] values = {{0, 1}}> {{
        {BOMBS[op]}
    }}""")
    session = qrt.load(model, max_bytes=2**26)
    for sizes in (HUGE, HUGE // 2**8):
        with pytest.raises(MemoryLimitError, match=rf"{op} \(#\d+\): its result"):
            session.run(None, {"x": X[:1, :1], "n": sizes})


def test_loops_that_double_what_they_carry() -> None:
    """Strings, and a tensor by way of a sequence; 2**40 bytes after 40 steps."""
    strings = parsed("""g (string[N] a, int64 n) => (string[N] y) <bool on = {1}> {
        y = Loop (n, on, a) <body = b (int64 i, bool c, string[N] s) => (bool d, string[N] t) {
            d = Identity(c)
            t = StringConcat(s, s)
        }>
    }""")
    tensors = parsed("""g (float[N] a, int64 n) => (float[N] y) <bool on = {1}> {
        y = Loop (n, on, a) <body = b (int64 i, bool c, float[N] s) => (bool d, float[N] t) {
            d = Identity(c)
            q = SequenceConstruct(s, s)
            t = ConcatFromSequence <axis = 0> (q)
        }>
    }""")
    planned = parsed("""g (float[N] a, int64 n) => (float[N] y) <bool on = {1}> {
        y = Loop (n, on, a) <body = b (int64 i, bool c, float[N] s) => (bool d, float[N] t) {
            d = Identity(c)
            t = Concat <axis = 0> (s, s)
        }>
    }""")
    for model, a in (
        (strings, np.array(["xy"], object)), (tensors, X[0, :1]), (planned, X[0, :1])
    ):  # fmt: skip
        session = qrt.load(model, max_bytes=2**20)
        (y,) = session.run(None, {"a": a, "n": np.array(4)})
        assert y[0] == a[0] * 16 if y.dtype == object else y.size == 16
        with pytest.raises(MemoryLimitError, match="max_bytes allows"):
            session.run(None, {"a": a, "n": np.array(40)})


def test_what_loops_collect_is_limited() -> None:
    session = qrt.load(loop(), max_bytes=2**20)
    x = np.full(1000, -1e9, np.float32)
    session.run(None, {"x": x, "n": np.array(10)})
    with pytest.raises(MemoryLimitError, match=r"Loop \(#0\): .* max_bytes"):
        session.run(None, {"x": x, "n": np.array(10_000)})


def test_steps_of_all_loops_count_together() -> None:
    model = parsed("""g (float[N] x, int64 n) => (float[N] y)
        <bool on = {1}> {
        y = Loop (n, on, x) <body = b (int64 i, bool c, float[N] s) => (bool d, float[N] t) {
            d = Identity(c)
            t = Loop (n, c, s) <body = k (int64 j, bool e, float[N] u) => (bool f, float[N] v) {
                f = Identity(e)
                v = Neg(u)
            }>
        }>
    }""")
    session = qrt.load(model, max_steps=12)
    np.testing.assert_array_equal(session.run(None, {"x": X[0], "n": np.array(3)})[0], -X[0])
    with pytest.raises(StepLimitError, match=r"12 steps \(max_steps\)"):
        session.run(None, {"x": X[0], "n": np.array(4)})
    # the next run counts from the start
    session.run(None, {"x": X[0], "n": np.array(3)})


def test_subgraphs_ten_thousand_deep() -> None:
    """protobuf refuses them in a file; a message made in this process is refused by max_depth."""
    data = b""
    for _ in range(10_000):
        data = _field(1, _field(4, b"If") + _field(5, _field(1, b"then_branch") + _field(6, data)))
    with pytest.raises(ModelError, match="nested deeper than protobuf reads"):
        qrt.load(_field(7, data))
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "b", [], [])
    body.output.add(name="y")
    for _ in range(25):
        node = helper.make_node("If", ["c"], ["y"])
        node.attribute.add(name="then_branch", type=5).g.CopyFrom(body)
        node.attribute.add(name="else_branch", type=5).g.node.add(
            op_type="Neg", input=["x"], output=["y"]
        )
        node.attribute[1].g.output.add(name="y")
        body = helper.make_graph([node], "b", [], [])
        body.output.add(name="y")
    info = helper.make_tensor_value_info
    body.input.extend([info("x", 1, ["N"]), info("c", 9, [])])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)])
    x = X[0]
    for c, expected in ((True, np.maximum(x, 0)), (False, -x)):
        got = qrt.load(model).run(None, {"x": x, "c": np.array(c)})[0]
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ModelError, match=r"may be 20 deep \(max_depth\)"):
        qrt.load(model, max_depth=20)
    with pytest.raises(ModelError, match="may have 30 nodes"):
        qrt.load(model, max_nodes=30)
    with pytest.raises(QrtError, match="max_depth may be up to 100, got 10000"):
        qrt.load(model, max_depth=10_000)


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = len(data), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + data


WRONG: dict[str, tuple[str, dict[str, Any], type[QrtError], str]] = {
    "condition of two": (
        "y = If (b) <then_branch = t () => (p) { p = Neg(x) }, else_branch = e () => (q)"
        " { q = Abs(x) }>",
        {}, KernelError, r"If \(#0\): a condition must be one bool, got bool\[2\]",
    ),
    "condition that is no bool": (
        "y = If (i) <then_branch = t () => (p) { p = Neg(x) }, else_branch = e () => (q)"
        " { q = Abs(x) }>",
        {}, KernelError, "a condition must be one bool, got int64",
    ),
    "outputs of a branch": (
        "y = If (c) <then_branch = t () => (p, p) { p = Neg(x) }, else_branch = e () => (q)"
        " { q = Abs(x) }>",
        {}, ModelError, "then_branch must have 1 outputs, got 2",
    ),
    "inputs of a body": (
        "y = Loop (i, c, x) <body = b (j) => (d, t) { d = Identity(c) t = Neg(x) }>",
        {}, ModelError, "body must have .* inputs",
    ),
    "shapes that are stacked": (
        "y = Loop (four, c) <body = b (j, k) => (k, t) { s = Unsqueeze(j, zero)"
        " t = Expand(x, s) }>",
        {}, QrtError, "must have one shape|Expand",
    ),
    "position": (
        "s = SequenceConstruct(x, x)  y = SequenceAt(s, i)",
        {"i": np.array(2)}, KernelError, "SequenceAt .* position must be -2 to 1, got 2",
    ),
    "splits": (
        "s = SplitToSequence <axis = 0> (x, sizes)  y = SequenceAt(s, i)",
        {"sizes": np.array([1, 5])}, KernelError, "SplitToSequence .* must add up to 2",
    ),
    "indices of a gather": (
        "n = NonZero(x)  g = Add(n, hundred)  y = Gather(x, g)",
        {}, QrtError, "Gather .*index|Gather .*out of bounds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_control_flow(name: str) -> None:
    text, given, error, says = WRONG[name]
    model = parsed(f"""g (float[N,M] x, bool c, bool[2] b, int64 i, int64[2] sizes) => (y)
        <int64[1] zero = {{0}}, int64 four = {{4}}, int64 hundred = {{100}}> {{ {text} }}""")
    inputs: dict[str, Any] = {
        "x": X, "c": np.array(True), "b": np.array([True, False]), "i": np.array(1),
        "sizes": np.array([1, 1]), **given,
    }  # fmt: skip
    with pytest.raises(error, match=says):
        qrt.load(model).run(None, inputs)


def test_symbolic_dimensions_must_agree() -> None:
    model = parsed("""g (float[N,M] x, float[M] w, seq(float[N]) s) => (float[N,M] y, int64 n) {
        y = Mul(x, w)
        n = SequenceLength(s)
    }""")
    session = qrt.load(model)
    session.run(None, {"x": X, "w": X[0], "s": []})
    with pytest.raises(InputError, match=r"'w': .*dimension 0 \('M'\) is 2, but 'M' is 3"):
        session.run(None, {"x": X, "w": X[0, :2], "s": []})


def test_inputs_of_unknown_rank() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("NonZero", ["r"], ["at"]),
            helper.make_node("Shape", ["r"], ["s"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, None)],
        [helper.make_tensor_value_info(name, 7, None) for name in ("at", "s")],
    )
    session = qrt.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    for x in (X, X[0], X[None], -X):
        at, shape = session.run(None, {"x": x})
        np.testing.assert_array_equal(at, np.array(np.nonzero(np.maximum(x, 0))))
        assert shape.tolist() == list(x.shape)


def test_damaged_stages_give_a_result_or_a_qrt_error() -> None:
    """Random graphs of stages with one field changed, or some bytes."""
    outcomes: Counter[str] = Counter()
    for seed in range(400):
        rng = np.random.default_rng((seed, 5))
        model = random_stages(rng) if rng.random() < 0.7 else loop()
        if rng.random() < 0.75:
            with contextlib.suppress(ValueError):  # a number that the field does not hold
                damage(rng, SimpleNamespace(graph=_any_graph(rng, model.graph)))
            data = model.SerializeToString()
        else:
            changed = bytearray(model.SerializeToString())
            changed[int(rng.integers(len(changed)))] = int(rng.integers(256))
            data = bytes(changed)
        try:
            session = qrt.load(data, max_steps=1000, max_bytes=2**26)
            feeds = {}
            for argument in session.get_inputs():
                dims = [d if isinstance(d, int) else 2 for d in argument.dims or (2, 2)]
                feeds[argument.name] = np.ones(dims, argument.dtype or np.float32)
            session.run(None, feeds)
            outcomes["runs"] += 1
        except QrtError as error:
            outcomes[type(error).__name__] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {onnx.printer.to_text(model)}") from error
    print(f"\ndamaged stages: {dict(outcomes)}")
    assert outcomes["runs"] > 40 and outcomes["ModelError"] > 100


def _any_graph(rng: np.random.Generator, graph: onnx.GraphProto) -> onnx.GraphProto:
    """The graph, or now and then one of its subgraphs."""
    inner = [a.g for n in graph.node for a in n.attribute if a.HasField("g") and a.g.node]
    if inner and rng.random() < 0.5:
        return _any_graph(rng, inner[int(rng.integers(len(inner)))])
    return graph
