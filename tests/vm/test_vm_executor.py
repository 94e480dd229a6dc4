"""One program on this CPU: values in and out, arenas, failures, timing."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from qrt.errors import KernelError, MemoryLimitError
from qrt.ir import Graph
from qrt.program import ConstantPool, build_program
from qrt.simd.features import active_features
from qrt.vm import ArenaBudget, Executor, time_rows
from qrt.vm.state import TIMES
from tests.machine.graphs import (
    OPS,
    constant,
    failing_graph,
    node,
    rotated,
    rotating_chain,
    tensor,
)

FEATURES = active_features()


def executor_of(graph: Graph, threads: int = 1, **options: object) -> Executor:
    program = build_program(graph, FEATURES, threads=threads, ops=OPS)
    return Executor(program, FEATURES, threads=threads, **options)  # type: ignore[arg-type]


def test_rows_run_in_order() -> None:
    x = np.arange(7, dtype=np.float32)
    (y,) = executor_of(rotating_chain(5, 7)).run([x])
    np.testing.assert_array_equal(y, rotated(x, 5))


def test_outputs_are_the_callers_own() -> None:
    executor = executor_of(rotating_chain(2, 7))
    x = np.arange(7, dtype=np.float32)
    (first,) = executor.run([x])
    kept = first.copy()
    executor.run([x + 100])
    np.testing.assert_array_equal(first, kept)
    assert first.flags.owndata and first.flags.c_contiguous and first.flags.writeable


def test_arrays_of_any_strides_are_read_and_never_written() -> None:
    base = np.arange(28, dtype=np.float32).reshape(7, 4)
    base.flags.writeable = False
    executor = executor_of(rotating_chain(3, 7))
    for x in (base[:, 1], base[::-1, 2], base.T[3], np.broadcast_to(np.float32(2), 7)):
        (y,) = executor.run([x])
        np.testing.assert_array_equal(y, rotated(x, 3))


def test_physical_layouts_of_bindings() -> None:
    x, out = tensor("x", (2, 3, 4, 5)), tensor("out", (2, 3, 4, 5))
    x.layout = out.layout = (0, 2, 3, 1)
    executor = executor_of(Graph([node("Add", [x, x], out)], [x], [out]))
    data = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    (y,) = executor.run([data])
    np.testing.assert_array_equal(y, data + data)
    assert y.flags.c_contiguous


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2)])
def test_scalars_and_empty_tensors(shape: tuple[int, ...]) -> None:
    x, out = tensor("x", shape), tensor("out", shape)
    executor = executor_of(Graph([node("Add", [x, x], out)], [x], [out]))
    (y,) = executor.run([np.full(shape, 3, np.float32)])
    assert y.shape == shape and (y == 6).all() and isinstance(y, np.ndarray)


def test_a_graph_without_nodes_or_inputs() -> None:
    c = constant("c", np.arange(3))
    (y,) = executor_of(Graph([], [], [c])).run([])
    np.testing.assert_array_equal(y, [0, 1, 2])


def test_some_outputs_in_any_order() -> None:
    x, a, b = tensor("x", (3,)), tensor("a", (3,)), tensor("b", (3,))
    nodes = [node("Add", [x, x], a), node("Add", [a, x], b)]
    executor = executor_of(Graph(nodes, [x], [a, b]))
    got = executor.run([np.ones(3, np.float32)], [1, 0, 1])
    assert [float(g[0]) for g in got] == [3, 2, 3]


@pytest.mark.parametrize("status", [1, 7, -1, -(1 << 31), (1 << 31) - 1])
def test_a_status_names_the_node_and_the_next_run_works(status: int) -> None:
    executor = executor_of(failing_graph(status, 0, n=10))
    x = np.ones(10, np.float32)
    armed, safe = np.array([1]), np.array([0])
    with pytest.raises(KernelError, match=r"Fail 'make_armed' \(#1\): .*\(row 1\)") as caught:
        executor.run([x, armed])
    assert f"returned status {status}" in str(caught.value)
    assert ("index" in str(caught.value)) == (status == 1)
    assert executor.run([x, safe])[0][0] == 6


def test_arenas_are_kept_and_reused() -> None:
    executor = executor_of(rotating_chain(2, 100))
    x = np.zeros(100, np.float32)
    for _ in range(5):
        executor.run([x])
    assert len(executor._free) == 1


def test_concurrent_calls_have_arenas_of_their_own() -> None:
    executor = executor_of(rotating_chain(40, 3000))
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.full(3000, seed, np.float32)
        expected = rotated(x, 40)
        for _ in range(60):
            if not np.array_equal(executor.run([x])[0], expected):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert 1 <= len(executor._free) <= 6


def test_a_tight_budget_makes_calls_wait_instead_of_growing() -> None:
    one = build_program(rotating_chain(30, 3000), FEATURES, ops=OPS)
    budget = ArenaBudget(one.arena_nbytes * 3 // 2)
    first = Executor(one, FEATURES, budget=budget)
    second = executor_of(rotating_chain(29, 3000), budget=budget)
    x = np.ones(3000, np.float32)
    most: list[int] = []

    def work(executor: Executor) -> None:
        for _ in range(30):
            executor.run([x])
            most.append(budget.taken)

    threads = [threading.Thread(target=work, args=(e,)) for e in (first, second, first)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive(), "a call waits for ever"
    assert max(most) <= one.arena_nbytes * 3 // 2
    del first, second
    gc.collect()
    assert budget.taken == 0


def test_an_impossible_arena_is_a_limit_error() -> None:
    x, out = tensor("x", (1 << 44,)), tensor("out", (1 << 44,))
    executor = executor_of(Graph([node("Alias", [x], out)], [x], [out]))
    with pytest.raises(MemoryLimitError, match="cannot be allocated"):
        executor.run([np.zeros(1, np.float32)])


def test_growing_constants_reach_older_programs() -> None:
    pool = ConstantPool()

    def graph(value: float) -> Graph:
        x, out = tensor("x", (8,)), tensor("out", (8,))
        c = constant("c", np.full(8, value, np.float32))
        return Graph([node("Add", [x, c], out)], [x], [out])

    x = np.zeros(8, np.float32)
    old = Executor(build_program(graph(1), FEATURES, 1, pool, ops=OPS), FEATURES)
    call, home = old.take([x])
    new = Executor(build_program(graph(2), FEATURES, 1, pool, ops=OPS), FEATURES)
    old.rebase()
    assert call.enter() == 0 and (call.outputs[0] == 1).all(), "a call ends on the old buffer"
    home.append(call)
    assert (old.run([x])[0] == 1).all() and (new.run([x])[0] == 2).all()
    assert old._constants is new._constants is pool.buffer


def test_every_row_is_timed() -> None:
    executor = executor_of(rotating_chain(4, 5000))
    times = time_rows(executor, [np.ones(5000, np.float32)], runs=7)
    assert times.shape == (7, 4)
    assert (times >= 0).all() and times.sum() > 0
    call, _ = executor.take([np.ones(5000, np.float32)])
    assert call.block[TIMES] == 0, "later runs take no times"


def test_numba_stays_out_of_this_process() -> None:
    import subprocess
    import sys
    from pathlib import Path

    code = (
        "import sys, numpy as np\n"
        "from tests.vm.test_vm_executor import *\n"
        "executor_of(rotating_chain(2, 8)).run([np.ones(8, np.float32)])\n"
        "assert 'numba' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)
