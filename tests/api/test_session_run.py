"""Sessions over hand-made machine graphs: running, shapes, names, memory, other threads."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from qrt.api import programs as programs_module
from qrt.errors import InputError, MemoryLimitError, QrtError
from qrt.ir import Graph
from tests.machine.graphs import constant, node, rotated, rotating_chain, tensor
from tests.machine.recipe import HandMade, offset_recipe, session_of, sum_recipe


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_run_and_call() -> None:
    session = session_of(sum_recipe((2,), (2,)))
    a, b = f32(1, 2), f32(10, 20)
    for got in (
        session.run(None, {"a": a, "b": b}),
        session.run([], {"b": b, "a": a}, None),
        session(a, b),
        session(a=a, b=b),
        session(a, b=b),
        session.run(None, {"a": [1, 2], "b": b}),
    ):
        np.testing.assert_array_equal(got, [[11, 22], [22, 44]])
    np.testing.assert_array_equal(session.run(["twice"], {"a": a, "b": b}), [[22, 44]])
    np.testing.assert_array_equal(
        session.run(["twice", "sum", "twice"], {"a": a, "b": b})[1], [11, 22]
    )


def test_one_output_alone() -> None:
    graph = rotating_chain(2, 3)
    session = session_of(HandMade(graph, lambda shapes, values: rotating_chain(2, 3)))
    y = session(f32(1, 2, 3))
    assert isinstance(y, np.ndarray)
    np.testing.assert_array_equal(y, rotated(f32(1, 2, 3), 2))


@pytest.mark.parametrize("names", [["nothing"], ["sum", "x"], "sum", [None], [["sum"]]])
def test_unknown_outputs(names: object) -> None:
    session = session_of(sum_recipe((2,), (2,)))
    with pytest.raises(InputError, match="output"):
        session.run(names, {"a": f32(1, 2), "b": f32(1, 2)})  # type: ignore[arg-type]


def test_bad_feeds_after_a_good_run() -> None:
    session = session_of(sum_recipe((2,), (2,)))
    a = f32(1, 2)
    session.run(None, {"a": a, "b": a})
    for feeds in (
        {"a": a},
        {"a": a, "b": a, "c": a},
        {"a": a, "b": f32(1)},
        {"a": a, "b": a.astype(np.float64)},
        {"a": a, "b": a[None]},
        {"a": a, "c": a},
        {},
        None,
    ):
        with pytest.raises(InputError):
            session.run(None, feeds)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="twice"):
        session(a, a=a)
    with pytest.raises(InputError, match="2 inputs, got 3"):
        session(a, a, a)


def test_static_models_are_built_at_load_and_let_their_graph_go() -> None:
    recipe = sum_recipe((2,), (2,))
    session = session_of(recipe)
    assert recipe.calls == 1 and session._programs._recipe is None
    session(f32(1, 2), f32(1, 2))
    assert recipe.calls == 1


def test_symbolic_shapes_make_programs_once_each() -> None:
    recipe = sum_recipe(("N",), ("N",))
    session = session_of(recipe)
    assert recipe.calls == 0
    for _ in range(3):
        for n in (1, 5, 2):
            x = np.arange(n, dtype=np.float32)
            np.testing.assert_array_equal(session(x, x)[1], 4 * x)
    assert recipe.calls == 3


def test_the_least_recent_shapes_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs_module, "MAX_PROGRAMS", 2)
    recipe = sum_recipe(("N",), ("N",))
    session = session_of(recipe)
    for n in (1, 2, 1, 3, 1, 2):  # 2 leaves when 3 comes
        x = np.ones(n, np.float32)
        session(x, x)
    assert recipe.calls == 4 and len(session._programs._executors) == 2


def test_values_that_are_part_of_the_program() -> None:
    recipe = offset_recipe()
    session = session_of(recipe)
    x = f32(1, 2)
    for _ in range(2):
        for offset in (f32(1, 1), f32(5, 6)):
            np.testing.assert_array_equal(session(x, offset), x + offset)
    assert recipe.calls == 2
    np.testing.assert_array_equal(session(f32(7, 7), f32(5, 6)), [12, 13])
    assert recipe.calls == 2


def test_arguments() -> None:
    session = session_of(sum_recipe(("N", 3, None), ("N", 3, 1)))
    a, b = session.get_inputs()
    assert (a.name, a.shape, a.type) == ("a", ["N", 3, None], "tensor(float)")
    assert b.shape == ["N", 3, 1]
    assert [o.name for o in session.get_outputs()] == ["sum", "twice"]
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_modelmeta().graph_name == "sums"
    assert session.get_overridable_initializers() == []


def test_overridable_initializers_are_listed() -> None:
    x, out = tensor("x", (2,)), tensor("out", (2,))
    w = constant("w", f32(1, 2))
    graph = Graph([node("Add", [x, w], out)], [x], [out], overridable=("w",))
    session = session_of(HandMade(graph, lambda shapes, values: graph.copy()))
    (arg,) = session.get_overridable_initializers()
    assert (arg.name, arg.shape) == ("w", [2])
    with pytest.raises(InputError, match="'w'"):
        session.run(None, {"x": f32(1, 2), "w": f32(1, 2)})


def test_max_bytes() -> None:
    with pytest.raises(MemoryLimitError, match="max_bytes allows 1000"):
        session_of(sum_recipe((1000,), (1000,)), max_bytes=1000)
    session = session_of(sum_recipe(("N",), ("N",)), max_bytes=50_000)
    small, big = np.ones(100, np.float32), np.ones(10_000, np.float32)
    for n in range(100, 2600, 100):  # more shapes than fit at once: idle arenas are given up
        x = np.ones(n, np.float32)
        session(x, x)
        assert session.nbytes <= 50_000
    with pytest.raises(MemoryLimitError):
        session(big, big)
    session(small, small)


def test_two_threads_at_once_with_several_shapes() -> None:
    session = session_of(sum_recipe(("N",), ("N",)))
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            a, b = rng.random((2, int(rng.integers(1, 8))), np.float32)
            total, twice = session.run(None, {"a": a, "b": b})
            if not (np.array_equal(total, a + b) and np.array_equal(twice, 2 * (a + b))):
                wrong.append((seed, a, b))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_can_build_while_the_parent_holds_the_lock() -> None:
    session = session_of(sum_recipe(("N",), ("N",)))
    x = np.ones(3, np.float32)
    session(x, x)
    with session._shared.lock:
        pid = os.fork()
        if pid == 0:
            import signal

            signal.alarm(30)
            y = np.ones(4, np.float32)
            os._exit(0 if session(y, y)[0][0] == 2 and session(x, x)[0][0] == 2 else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_explain_before_and_after_a_run() -> None:
    session = session_of(sum_recipe(("N",), ("N",)))
    explanation = session.explain()
    assert [row.kernels for row in explanation] == [("test_add",), ("test_add",)]
    assert [row.node for row in explanation] == ["make_sum", "make_twice"]
    assert "test_add" in str(explanation) and "float32" in str(explanation)
    import json

    assert json.loads(explanation.to_json())["rows"][1]["operator"] == "test.Add"
    assert explanation.kernels()["test_add"] == 2
    with pytest.raises(QrtError, match="run it first"):
        session_of(offset_recipe()).explain()


def test_profile() -> None:
    session = session_of(sum_recipe(("N",), ("N",)))
    x = np.ones(1000, np.float32)
    profile = session.profile({"a": x, "b": x}, runs=5)
    assert [row.kernel for row in profile] == ["test_add", "test_add"]
    assert profile.runs == 5 and profile.median_ns >= profile.min_ns > 0
    assert list(profile.by_kernel()) == ["test_add"] and profile.python_share == 0
    assert "median of 5 runs" in str(profile) and "make_twice" in str(profile)
    import json

    assert json.loads(profile.to_json())["runs"] == 5
    assert len(session.profile(runs=1).rows) == 2
    with pytest.raises(InputError, match="at least 1"):
        session.profile(runs=0)
    with pytest.raises(InputError):
        session.profile({"a": x})
