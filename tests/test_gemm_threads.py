"""Products and depthwise convolutions on threads that really run at once, arena full of junk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from product_cases import Numbers, conv_node, draw_numbers, forced, matmul_node

from qrt.ir import Graph, Node, Value
from qrt.ops import conv, matmul
from qrt.program.builder import build_program
from qrt.simd.features import active_features
from qrt.vm.executor import Executor

OPS = {("qrt", "Conv"): conv.SPEC, ("qrt", "MatMul"): matmul.SPEC}
RUNS = 25


def chain(rng: np.random.Generator) -> tuple[list[Node], tuple[int, ...]]:
    """3x3 convolution, depthwise, pointwise with weight zero points, strided runs: each feeds the
    next, so that a missing barrier shows."""
    nodes: list[Node] = []
    shape: tuple[int, ...] = (2, 24, 23, 21)
    steps: list[tuple[tuple[int, ...], dict[str, Any], bool]] = [
        ((64, 24, 3, 3), {"pads": (1, 1, 1, 1)}, False),
        ((64, 1, 3, 3), {"pads": (1, 1, 1, 1), "group": 64}, False),
        ((37, 64, 1, 1), {}, True),
        ((37, 1, 5, 5), {"pads": (2, 2, 2, 2), "group": 37, "strides": (2, 2)}, True),
        ((8, 37, 1, 1), {}, False),
        ((70, 8, 3, 3), {"pads": (1, 0, 0, 1), "strides": (1, 2)}, True),
    ]
    for w_shape, geometry, zero_points in steps:
        w = rng.integers(-128, 128, w_shape, dtype=np.int8)
        numbers = draw_numbers(rng, w_shape[0], w[0].size, "u8", weight_zero_points=zero_points)
        node = conv_node(shape, w, numbers, **geometry)
        if nodes:
            node.inputs[0] = nodes[-1].outputs[0]
        nodes.append(node)
        shape = node.outputs[0].static_shape
    return nodes, shape


def graph_of(nodes: list[Node]) -> Graph:
    """The chain as a graph with all results as outputs, in the layout they lie in."""
    first = nodes[0].required(0)
    return Graph(nodes, [first], [n.outputs[0] for n in nodes])


@pytest.mark.parametrize("threads", (2, 3))
def test_chain(threads: int) -> None:
    """Every tensor of the chain equals one thread's, over many runs on junk."""
    seed = 801
    rng = np.random.default_rng(seed)
    nodes, _ = chain(rng)
    graph = graph_of(nodes)
    features = active_features()
    with forced(None, threads_always=True):
        executors = [
            Executor(build_program(graph, features, t, ops=OPS), features, threads=t)
            for t in (1, threads)
        ]
    assert executors[1].threads == threads
    for run in range(RUNS):
        x = rng.integers(0, 256, graph.inputs[0].static_shape, dtype=np.uint8)
        one, many = (run_on_junk(executor, x, rng) for executor in executors)
        for node, a, b in zip(nodes, one, many, strict=True):
            assert np.array_equal(a, b), f"run {run} of seed {seed}: {node}"
        if run == 0:
            want = x
            for node, got in zip(nodes, one, strict=True):
                (want,) = conv.reference(node, [want, node.required(1).data])
                assert np.array_equal(got, want), node


def run_on_junk(executor: Executor, x: Any, rng: np.random.Generator) -> list[Any]:
    """Outputs of a run whose arena held junk outside the input."""
    call, home = executor.take([x])
    try:
        call.arena[:] = rng.integers(0, 256, call.arena.size, dtype=np.uint8)
        call.inputs[0][...] = x
        failure = call.enter()
        if failure:
            executor.fail(failure)
        return [view.copy() for view in call.outputs]
    finally:
        home.append(call)


@pytest.mark.parametrize("m, n", [(1, 1000), (1000, 1), (97, 131), (6, 64), (13, 640)])
def test_one_product(m: int, n: int) -> None:
    """Splits by rows and by panels, fewer tiles than threads."""
    rng = np.random.default_rng(802)
    k = 300
    w = rng.integers(-128, 128, (k, n), dtype=np.int8)
    numbers: Numbers = draw_numbers(rng, n, k, "u8", weight_zero_points=True)
    node = matmul_node((m, k), w, numbers)
    graph = Graph([node], [_input(node)], list(node.outputs))
    features = active_features()
    with forced(None, threads_always=True):
        program = build_program(graph, features, 2, ops=OPS)
    executor = Executor(program, features, threads=2)
    for run in range(RUNS):
        x = rng.integers(0, 256, (m, k), dtype=np.uint8)
        (got,) = run_on_junk(executor, x, rng)
        (want,) = matmul.reference(node, [x, w])
        assert np.array_equal(got, want), f"run {run}: {program.kernels}"


def _input(node: Node) -> Value:
    return node.required(0)
