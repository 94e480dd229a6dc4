"""The kernels of chains alone: operators without rounding of their own, exactly as in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from kernel_harness import new_value, run_node
from onnx import TensorProto, helper, numpy_helper
from operator_cases import Cases, same

from qrt import passes
from qrt.ir import Node
from qrt.loader import load_graph
from qrt.ops import OPS, chain, float_binary, float_unary
from qrt.ops.chain_steps import FUNCTIONS, STEPS, Step

Array = np.ndarray[Any, Any]
SHAPES = ((7,), (3, 130), (2, 5, 33), (2, 24, 6, 5), (1, 700), (4, 1300))
SCALE, ZERO_POINT = np.float32(0.0123), np.uint8(97)


def chain_of(shape: tuple[int, ...], codes_in: bool, codes_out: bool) -> tuple[Node, list[Array]]:
    """The one machine node of (|x * b - c| max y) + x, quantized at the ends, and its inputs."""
    rng = np.random.default_rng(len(shape) + 2 * codes_in + 4 * codes_out)
    x = rng.standard_normal(shape).astype(np.float32)
    constants = {
        "b": rng.standard_normal(shape[-1]).astype(np.float32),
        "c": rng.standard_normal((1,) * len(shape)).astype(np.float32),
        "s": np.asarray(SCALE),
        "z": np.asarray(ZERO_POINT),
    }
    feeds = {"x": x, "y": rng.standard_normal(shape).astype(np.float32)}
    nodes = []
    first, last = "x", "out"
    if codes_in:
        feeds["x"] = rng.integers(0, 256, shape, dtype=np.uint8)
        nodes.append(helper.make_node("DequantizeLinear", ["x", "s", "z"], ["xr"]))
        first = "xr"
    if codes_out:
        last = "real"
    nodes += [
        helper.make_node("Mul", [first, "b"], ["t0"]),
        helper.make_node("Sub", ["t0", "c"], ["t1"]),
        helper.make_node("Abs", ["t1"], ["t2"]),
        helper.make_node("Max", ["t2", "y"], ["t3"]),
        helper.make_node("Add", ["t3", first], [last]),
    ]
    if codes_out:
        nodes.append(helper.make_node("QuantizeLinear", ["real", "s", "z"], ["out"]))
    types = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}
    infos = [helper.make_tensor_value_info(n, types[a.dtype], a.shape) for n, a in feeds.items()]
    kind = TensorProto.UINT8 if codes_out else TensorProto.FLOAT
    out = helper.make_tensor_value_info("out", kind, shape)
    graph = helper.make_graph(
        nodes, "g", infos, [out], [numpy_helper.from_array(a, n) for n, a in constants.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    machine = passes.specialize(
        passes.optimize(load_graph(model)), {n: a.shape for n, a in feeds.items()}
    )
    (node,) = (n for n in machine.nodes if n.op == "Chain")
    given = feeds | constants
    return node, [given[v.name] for v in node.inputs if v is not None]


def by_hand(feeds: list[Array], node: Node, shape: tuple[int, ...], codes_out: bool) -> Array:
    """The same in NumPy, each operator rounded to float32."""
    given = {v.name: a for v, a in zip(node.inputs, feeds, strict=True) if v is not None}
    x = given["x"]
    if x.dtype == np.uint8:
        x = (x.astype(np.int32) - int(ZERO_POINT)).astype(np.float32) * SCALE
    rng_b, rng_c = (given[name] for name in "bc")
    real = np.maximum(np.abs(x * rng_b - rng_c), given["y"]) + x
    assert real.dtype == np.float32
    if not codes_out:
        return real.reshape(shape)
    steps = np.rint(real / SCALE).astype(np.int64) + int(ZERO_POINT)
    return np.clip(steps, 0, 255).astype(np.uint8)


def test_chains_without_rounding_of_their_own() -> None:
    with Cases("chains") as cases:
        for shape in SHAPES:
            for codes_in in (False, True):
                for codes_out in (False, True):
                    node, feeds = chain_of(shape, codes_in, codes_out)
                    want = by_hand(feeds, node, shape, codes_out)
                    cases.node((shape, codes_in, codes_out), chain.SPEC, node, feeds, [want], same)


def test_every_step_gives_the_bits_of_its_operator() -> None:
    """f(a) + g(a) + ..., a few functions in a chain; test_ops_float holds the operators' own
    kernels against float64."""
    rng = np.random.default_rng(3)
    b = rng.choice(np.array(float_binary.EXPONENTS, np.float32), (3, 130))
    values = [new_value(name, np.float32, b.shape) for name in "aby"]
    nodes = [
        Node(op, values[:1], values[2:], attrs, version=20)
        for op in float_unary.UNARY
        for attrs in ({}, {"approximate": "tanh"})
        if not attrs or op in float_unary.VARIANTS
    ]
    exponent = new_value("b", np.float32, b.shape, data=b)
    nodes += [
        Node(op, [values[0], exponent if op == "Pow" else values[1]], values[2:])
        for op in float_binary.BINARY
    ]
    given = {node: float_unary.parse(node) for node in nodes if len(node.inputs) == 1}
    given |= {node: (node.op, 0.0, 0.0) for node in nodes if len(node.inputs) == 2}
    assert {name for name, *_ in given.values()} == set(STEPS)
    add = Node("Add", values[:2], values[2:])
    with Cases("steps") as cases:
        for first in range(0, len(nodes), FUNCTIONS - 1):
            group = nodes[first : first + FUNCTIONS - 1]
            steps: list[Step] = []
            for node in group:
                name, alpha, beta = given[node]
                steps.append(Step(node, name, tuple(range(len(node.inputs))), alpha, beta))
                if node is not group[0]:
                    steps.append(Step(add, "Add", (~(len(steps) - 2), ~(len(steps) - 1))))
            chained = Node("Chain", list(values[:2]), values[2:], {"steps": tuple(steps)}, "qrt")
            for sign in (1, -1):
                a = (sign * rng.uniform(0.1, 3, b.shape)).astype(np.float32)
                want = np.float32(0)
                for i, node in enumerate(group):
                    (part,) = run_node(OPS["", node.op], node, [a, b][: len(node.inputs)])
                    want = part if i == 0 else want + part
                (got,) = run_node(chain.SPEC, chained, [a, b])
                cases.check(([node.op for node in group], sign), same(got, want))
