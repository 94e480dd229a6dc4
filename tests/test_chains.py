"""Chains of element-wise operators: the bits of the operators one by one, on every level and number
of threads; what joins a chain and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node

import qrt
from qrt import passes
from qrt.errors import KernelError, ProgramError
from qrt.passes.chains import fuse_chains
from qrt.program import build_program, verify
from qrt.simd.features import active_features
from qrt.vm import Executor
from tests.graphs.draw import Array
from tests.passes_reference import machine_graph
from tests.sessions import THREADS, Cases, differences, feature_levels, named, run

UNARY = (
    "Abs", "Ceil", "Elu", "Erf", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg",
    "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Tanh",
)  # fmt: skip
BINARY = ("Add", "Div", "Max", "Min", "Mul", "Sub")
SHAPES = ((7,), (3, 130), (2, 5, 33), (2, 24, 6, 5), (1, 1), (1, 700), (2, 3, 512), (4, 1300))


@contextmanager
def unfused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sessions made inside keep every operator apart."""
    with monkeypatch.context() as patch:
        rest = [rewrite for rewrite in passes.SPECIALIZE if rewrite is not fuse_chains]
        patch.setattr(passes, "SPECIALIZE", rest)
        yield


def random_chain(seed: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Three to ten operators on one tensor, others broadcast to it; some quantized at the ends."""
    rng = np.random.default_rng((seed, 77))
    shape = SHAPES[seed % len(SHAPES)]
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    feeds = {"x": rng.standard_normal(shape).astype(np.float32)}
    step = np.float32(rng.uniform(0.01, 0.05))
    constants |= {"scale": np.asarray(step), "zero": np.asarray(rng.integers(0, 256), np.uint8)}
    names = ["x"]
    if seed % 3 == 0:
        feeds["x"] = rng.integers(0, 256, shape).astype(np.uint8)
        nodes.append(make_node("DequantizeLinear", ["x", "scale", "zero"], ["xr"]))
        names = ["xr"]
    for i in range(int(rng.integers(3, 11))):
        a, y = str(rng.choice(names[-2:])), f"t{i}"
        if rng.random() < 0.5:
            nodes.append(make_node(str(rng.choice(UNARY)), [a], [y]))
        else:
            kind = int(rng.integers(4))
            b = f"c{i}"
            if kind == 0:
                b = str(rng.choice(names))
            else:
                own = [int(d) if rng.random() < 0.5 else 1 for d in shape]
                own = own[len(own) - int(rng.integers(len(own) + 1)) :]
                array = (rng.standard_normal(own) + 2).astype(np.float32)
                (constants if kind < 3 else feeds)[b] = array
            pair = [a, b] if rng.random() < 0.7 else [b, a]
            nodes.append(make_node(str(rng.choice(BINARY)), pair, [y]))
        names.append(y)
    outputs = [names[-1]]
    if seed % 2:
        nodes.append(make_node("QuantizeLinear", [names[-1], "scale", "zero"], ["q"]))
        outputs = ["q"]
    if rng.random() < 0.3:
        outputs.append(str(rng.choice([n for n in names[1:] if n not in outputs] or outputs)))
    types = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info(n, types[a.dtype], a.shape) for n, a in feeds.items()],
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(outputs)],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), feeds


def test_chains_give_the_bits_of_their_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = Cases()
    chains = 0
    for seed in range(80):
        model, feeds = random_chain(seed)
        with unfused(monkeypatch):
            want = run(model, feeds)
        for features in feature_levels() if seed % 8 == 0 else [""]:
            for threads in THREADS:
                what = differences(want, run(model, feeds, features, threads))
                cases.check(f"seed {seed}, {named(features)}, {threads} threads", what)
        chains += any(row.operator == "qrt.Chain" for row in qrt.load(model).explain())
    cases.finish("random chains", at_least=160)
    assert chains > 60


def test_large_chain_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks, shared by threads; per channel in the order of a convolution."""
    rng = np.random.default_rng(5)
    w = rng.standard_normal((20, 3, 1, 1)).astype(np.float32)
    factor = rng.standard_normal((1, 20, 1, 1)).astype(np.float32)
    gate = rng.standard_normal((2, 20, 1, 1)).astype(np.float32)
    nodes = [
        make_node("Conv", ["x", "w"], ["c"]),
        make_node("Mul", ["c", "factor"], ["m"]),
        make_node("Sigmoid", ["m"], ["s"]),
        make_node("Mul", ["m", "s"], ["p"]),
        make_node("Mul", ["p", "gate"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [2, 3, 40, 41]), info("gate", TensorProto.FLOAT, gate.shape)],
        [info("y", TensorProto.FLOAT, [2, 20, 40, 41])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(factor, "factor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    feeds = {"x": rng.standard_normal((2, 3, 40, 41)).astype(np.float32), "gate": gate}
    with unfused(monkeypatch):
        want = run(model, feeds)
    rows = [r for r in qrt.load(model).explain() if r.operator == "qrt.Chain"]
    assert [row.note for row in rows] == ["Mul Sigmoid Mul Mul"]
    for threads in (1, 2, 3):
        assert not differences(want, run(model, feeds, "", threads))


def test_what_others_read_ends_a_chain() -> None:
    nodes = [
        make_node("Relu", ["x"], ["a"]),
        make_node("Tanh", ["a"], ["b"]),
        make_node("Neg", ["b"], ["c"]),
        make_node("Exp", ["c"], ["y"]),
        make_node("MatMul", ["b", "b"], ["z"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [4, 4])],
        [info(n, TensorProto.FLOAT, [4, 4]) for n in "yz"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    notes = [r.note for r in qrt.load(model).explain() if r.operator == "qrt.Chain"]
    assert notes == ["Relu Tanh", "Neg Exp"]


def test_chains_call_only_their_steps() -> None:
    """Whatever a program's rows name, a chain calls a step or says that it lacks one."""
    x = np.arange(4, dtype=np.float32)
    info = helper.make_tensor_value_info
    ends = [info("x", TensorProto.FLOAT, [4])], [info("y", TensorProto.FLOAT, [4])]
    nodes = [make_node("Abs", ["x"], ["t"]), make_node("Neg", ["t"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends), ir_version=8)
    program = build_program(machine_graph(model, {"x": x}), active_features())
    assert program.kernels == ("chain_f32", "chain_step_abs", "chain_step_neg")
    first, second, *rest = program.callees(0)
    for slot, wrong in ((first, 0), (second, 3), (second, -2), (rest[-1], 1)):
        rows = program.rows.copy()
        rows[0, slot] = wrong
        with pytest.raises(ProgramError, match=f"row 0: .* calls kernel {wrong}, not of chain_"):
            verify(replace(program, rows=rows))
    rows = program.rows.copy()
    rows[0, second] = -1
    lacking = replace(program, rows=rows)
    verify(lacking)
    with pytest.raises(KernelError, match="lacks a function"):
        Executor(lacking, active_features()).run([x])
