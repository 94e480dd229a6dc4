"""Operators without a native kernel run on onnx.reference between native rows, and explain says so.

What a model computes is told by the reference evaluator on the whole model.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import qrt
from qrt.errors import InputError, KernelError, MemoryLimitError, ProgramError, UnsupportedError
from qrt.loader import load_graph
from qrt.passes import optimize, specialize
from qrt.program import Program, build_program, load_program, save_program, verify
from qrt.vm import Executor
from tests.graphs.draw import Array
from tests.loader.models import f32, make_model, node, scalar, tensor_info
from tests.sessions import THREADS, difference, feature_levels, named
from tests.test_imports import run_python

HOST = "host: onnx.reference"
IMAGE = tensor_info("x", (2, 3, 6, 6))
# powers of two and an even zero point: the reference's other order of operations gives the same
CONV = {
    "s": scalar(2**-5),
    "z": scalar(128, np.uint8),
    "w": np.random.default_rng(0).integers(-60, 60, (8, 3, 3, 3)).astype(np.int8),
    "ws": scalar(2**-7),
    "wz": scalar(0, np.int8),
    "one": np.array(1),
    "part": f32(0.75),
}
FRONT = [node("QuantizeLinear", "x s z", "q"), node("QLinearConv", "q s z w ws wz s z", "c")]
BACK = [node("DequantizeLinear", "c s z", "d")]


def small(
    *nodes: onnx.NodeProto,
    inputs: Sequence[onnx.ValueInfoProto] = (IMAGE,),
    outputs: Sequence[str] = ("y",),
    **constants: Array,
) -> onnx.ModelProto:
    return make_model(list(nodes), inputs=list(inputs), outputs=list(outputs), constants=constants)


# Sinh, Mod, CumSum, Det, Hardmax have no native kernel; results are exact or of one implementation
MODELS: dict[str, onnx.ModelProto] = {
    "alone": small(node("Sinh", "x", "y")),
    "first": small(node("Sinh", "x", "a"), node("Relu", "a", "y")),
    "last": small(node("Relu", "x", "a"), node("Mod", "a part", "y", fmod=1), part=f32(0.75)),
    "two in a row": small(
        node("Relu", "x", "a"), node("Sinh", "a", "b"), node("Mod", "b part", "c", fmod=1),
        node("Neg", "c", "y"), part=f32(0.75),
    ),
    "shared inputs": small(
        node("Relu", "x", "a"), node("Sinh", "a", "b"), node("Hardmax", "a", "c"),
        node("Mod", "a a", "e", fmod=1), node("Add", "b c", "f"), node("Add", "f a", "y"),
        outputs=("y", "e", "a"),
    ),
    "two outputs of one": small(
        node("TopK", "x k", "v i", axis=1), node("Neg", "v", "y"), outputs=("y", "i", "v"),
        k=np.array([2]),
    ),
    "after channels last": make_model(
        [*FRONT, *BACK, node("CumSum", "d one", "y")], inputs=[IMAGE], constants=CONV, opset=21
    ),
    "into channels last": make_model(
        [node("Mod", "x part", "m", fmod=1), node("QuantizeLinear", "m s z", "q"), *FRONT[1:],
         *BACK, node("Slice", "d lo hi", "t"), node("Det", "t", "u")],
        inputs=[IMAGE],
        outputs=["u", "d"],
        constants={**CONV, "lo": np.array([0, 0, 0, 0]), "hi": np.array([2, 8, 4, 4])},
        opset=21,
    ),
    "codes": make_model(
        [*FRONT, node("BitwiseNot", "c", "n"), node("DequantizeLinear", "n s z", "y")],
        inputs=[IMAGE], outputs=["y", tensor_info("n", None, TensorProto.UINT8)], constants=CONV,
        opset=21,
    ),
    "signed codes": make_model(  # int8 on both sides of the host operator, uint8 inside of qrt
        [node("QuantizeLinear", "x s wz", "q"), node("BitwiseNot", "q", "n"),
         node("Transpose", "n", "p"), node("DequantizeLinear", "p s wz", "y")],
        inputs=[IMAGE], outputs=["y", tensor_info("n", None, TensorProto.INT8)], constants=CONV,
        opset=21,
    ),
    "an omitted input": small(
        node("Clip", "i  hi", "y"), inputs=[tensor_info("i", (3, 4), TensorProto.INT64)],
        hi=np.array(2),
    ),
    "nothing in it": small(node("Sinh", "x", "y"), inputs=[tensor_info("x", (0, 3))]),
    "one number": small(node("Sinh", "x", "y"), inputs=[tensor_info("x", ())]),
    "float16": small(node("Softmax", "x", "y"), inputs=[tensor_info("x", (2, 3), 10)]),
    "spatial axes": small(
        node("AveragePool", "x", "a", kernel_shape=[2, 2, 2]), node("Neg", "a", "y"),
        inputs=[tensor_info("x", (1, 3, 4, 4, 4))],
    ),
}  # fmt: skip


def feeds(model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    arrays = {}
    for info in model.graph.input:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        arrays[info.name] = np.asarray(rng.normal(0, 1, shape) * 2).astype(dtype)
    return arrays


def hosts(session: qrt.Session) -> list[str]:
    return [row.operator for row in session.explain() if HOST in row.kernels]


@pytest.mark.parametrize("features", feature_levels(), ids=named)
@pytest.mark.parametrize("name", MODELS)
def test_model_with_host_operators(name: str, features: str) -> None:
    model = MODELS[name]
    evaluator = ReferenceEvaluator(model)
    for threads in THREADS:
        session = qrt.load(model, threads=threads, features=features)
        assert hosts(session)
        for seed in range(3):
            inputs = feeds(model, seed)
            with np.errstate(all="ignore"):
                expected = evaluator.run(None, inputs)
            for want, got in zip(expected, session.run(None, inputs), strict=True):
                what = difference(np.asarray(want), got)
                assert not what, f"{threads} threads, seed {seed}: {what}"


def wide(shape: tuple[int, ...] = (64, 1024)) -> onnx.ModelProto:
    """Large enough for two threads: Relu, Mod (host), Neg."""
    return make_model(
        [node("Relu", "x", "a"), node("Mod", "a part", "b", fmod=1), node("Neg", "b", "y")],
        inputs=[tensor_info("x", shape)],
        constants={"part": f32(0.75)},
    )


def test_sessions_are_re_entrant() -> None:
    session = qrt.load(wide(), threads=2)
    wrong: list[str] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).normal(0, 4, (64, 1024)).astype(np.float32)
        expected = -np.fmod(np.maximum(x, 0), np.float32(0.75))
        for _ in range(20):
            (y,) = session.run(None, {"x": x})
            if not (y == expected).all():
                wrong.append(f"seed {seed}")

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_only_some_outputs() -> None:
    model = MODELS["shared inputs"]
    session, inputs = qrt.load(model), feeds(model)
    y, e, _ = session.run(None, inputs)
    assert not difference(e, session.run(["e"], inputs)[0])
    assert not difference(y, session.run(["e", "y"], inputs)[1])


def test_shapes_may_change() -> None:
    session = qrt.load(wide(("rows", 4)))
    for rows in (1, 5, 0, 1):
        x = np.full((rows, 4), 2, np.float32)
        assert (session(x) == -0.5).all() and session(x).shape == (rows, 4)


def failing() -> onnx.ModelProto:
    """GatherND whose indices are data: onnx.reference raises for those out of range."""
    return make_model(
        [node("Relu", "x", "a"), node("GatherND", "a i", "g", name="pick"),
         node("Neg", "g", "y")],
        inputs=[tensor_info("x", (3,)), tensor_info("i", (2, 1), TensorProto.INT64)],
    )  # fmt: skip


def test_an_error_inside_names_the_node_and_leaves_the_session_usable() -> None:
    session = qrt.load(failing())
    good = {"x": f32(1, 2, 3), "i": np.array([[2], [0]])}
    bad = {**good, "i": np.array([[7], [0]])}
    for _ in range(3):
        assert session.run(None, good)[0].tolist() == [-3, -1]
        with pytest.raises(KernelError, match=r"^GatherND 'pick' \(#1\): on the host: "):
            session.run(None, bad)
        with pytest.raises(KernelError, match="'pick'"):
            session.profile(bad, runs=1)
    assert session.run(None, good)[0].tolist() == [-3, -1]


def test_an_output_that_is_not_as_planned_is_an_error() -> None:
    program = program_of(failing())
    (call,) = program.hosts
    for result in (np.zeros(3, np.float32), np.zeros(2, np.float64)):
        odd = replace(call, function=lambda inputs, result=result: [result])
        executor = Executor(replace(program, hosts=(odd,)), frozenset())
        with pytest.raises(KernelError, match=r"'pick'.*planned as float32\[2\].*gave float"):
            executor.run([f32(1, 2, 3), np.array([[0], [1]])])


def test_explain_says_where_and_why() -> None:
    session = qrt.load(MODELS["float16"])
    (row,) = session.explain()
    assert row.kernels == (HOST,) and row.operator == "Softmax"
    assert "float16" in row.why and HOST in str(session.explain())
    (row,) = qrt.load(MODELS["alone"]).explain()
    assert row.why == "it has no native kernel"


def test_profile_has_a_row_for_it() -> None:
    for threads in THREADS:
        profile = qrt.load(wide(), threads=threads).profile(runs=5)
        assert 0 < profile.python_share < 1 and "% in Python" in str(profile)
        assert [row.kernel for row in profile] == ["relu_f32", HOST, "neg_f32"]
        assert all(row.min_ns > 0 for row in profile)
        slowest = max(profile, key=lambda row: row.min_ns)
        assert slowest.kernel == HOST and HOST in str(profile)


def test_constants_alone_are_computed_once() -> None:
    """A weight that only the reference can dequantize costs nothing while the model runs."""
    w = np.arange(12, dtype=np.int8).reshape(3, 4)
    model = make_model(
        [node("DequantizeLinear", "w s", "f", axis=1, block_size=2), node("MatMul", "x f", "y")],
        inputs=[tensor_info("x", (2, 3))],
        constants={"w": w, "s": np.full((3, 2), 0.5, np.float32)},
        opset=21,
    )
    session = qrt.load(model)
    assert not hosts(session)
    np.testing.assert_array_equal(session(np.ones((2, 3), np.float32)), [w.sum(0) / 2] * 2)


def test_sub_byte_and_float8_tensors_go_in_and_out() -> None:
    kinds = {
        TensorProto.FLOAT8E4M3FN: ("tensor(float8e4m3fn)", ml_dtypes.float8_e4m3fn),
        TensorProto.FLOAT8E5M2: ("tensor(float8e5m2)", ml_dtypes.float8_e5m2),
        TensorProto.INT4: ("tensor(int4)", ml_dtypes.int4),
        TensorProto.UINT4: ("tensor(uint4)", ml_dtypes.uint4),
    }
    for kind, (spelled, dtype) in kinds.items():
        model = make_model(
            [node("DequantizeLinear", "q s", "x"), node("QuantizeLinear", "x s z", "y")],
            inputs=[tensor_info("q", (5,), kind)],
            outputs=[tensor_info("y", (5,), kind)],
            constants={"s": scalar(0.5), "z": np.zeros((), dtype)},
            opset=21,
        )
        session = qrt.load(model)
        q = np.array([0, 1, 2, 4, 6], dtype)
        assert session.get_inputs()[0].type == session.get_outputs()[0].type == spelled
        assert not difference(q, session(q))
        for other in (q.view(np.uint8), q.astype(np.float32)):
            with pytest.raises(InputError, match=r"'q': expected .* of \(5\)"):
                session(other)


def program_of(model: onnx.ModelProto) -> Program:
    graph = optimize(load_graph(model))
    shapes = {info.name: feeds(model)[info.name].shape for info in model.graph.input}
    return build_program(specialize(graph, shapes), frozenset())


def test_such_a_program_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"GatherND 'pick' \(#1\).*cannot be saved"):
        save_program(program_of(failing()), tmp_path / "p")
    assert not (tmp_path / "p").exists()
    save_program(program_of(make_model([node("Relu", "x", "y")])), tmp_path / "p")
    load_program(tmp_path / "p")


def test_host_rows_are_verified() -> None:
    program = program_of(failing())
    verify(program)
    (call,) = program.hosts
    output = call.outputs[0]
    for bad, message in (
        ((), "host call 0"),
        ((call, call), "2 host calls"),
        ((replace(call, outputs=(replace(output, offset=1 << 40),)),), "of the arena by output 0"),
        ((replace(call, outputs=(replace(output, offset=~0),)),), "output 0, which is a constant"),
        ((replace(call, outputs=(replace(output, offset=call.inputs[0].offset),)),), "overlap"),
        ((replace(call, inputs=(replace(output, shape=(-1,)),)),), "host|does not fit|bytes"),
    ):
        with pytest.raises(ProgramError, match=message):
            verify(replace(program, hosts=bad))


def test_memory_counts() -> None:
    with pytest.raises(MemoryLimitError):
        qrt.load(wide(), max_bytes=1000)


def test_what_the_reference_means_differently_is_computed_here() -> None:
    """Hardmax before opset 13 is over all axes from `axis` on."""
    session = qrt.load(make_model([node("Hardmax", "x", "y")], inputs=[IMAGE], opset=11))
    (row,) = session.explain()
    assert row.kernels == ("host: python",) and row.operator == "Hardmax"
    (x,) = feeds(make_model([node("Hardmax", "x", "y")], inputs=[IMAGE])).values()
    y = session(x)
    assert (y.sum((1, 2, 3)) == 1).all() and (y[x == x.max((1, 2, 3), keepdims=True)] == 1).all()


def test_operators_of_other_domains_of_onnx() -> None:
    domain = "ai.onnx.ml"
    model = make_model(
        [node("Binarizer", "x", "y", domain=domain, threshold=1.0)], domains=[domain]
    )
    session = qrt.load(model)
    (row,) = session.explain()
    assert row.kernels == (HOST,) and row.operator == "ai.onnx.ml.Binarizer"
    assert session(np.array([[0, 1, 2], [3, 0, 1.5]], np.float32)).tolist() == [
        [0, 0, 1],
        [1, 0, 1],
    ]
    for op, says in (("Binary", "'Binary' is not an ONNX operator of opset 1 of ai.onnx.ml"),
                     ("TreeEnsemble", "of opset 1 of ai.onnx.ml, it came later")):  # fmt: skip
        with pytest.raises(UnsupportedError, match=says):
            qrt.load(make_model([node(op, "x", "y", domain=domain)], domains=[domain]))


def test_onnx_reference_is_imported_only_for_host_operators(tmp_path: Path) -> None:
    for op, there in (("Relu", False), ("Sinh", True)):
        path = tmp_path / f"{op}.onnx"
        path.write_bytes(make_model([node(op, "x", "y")]).SerializeToString())
        code = f"import sys, qrt; qrt.load({str(path)!r}); print('onnx.reference' in sys.modules)"
        assert run_python(code, tmp_path) == str(there)
