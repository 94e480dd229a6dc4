"""Ranges that products find, in whole models, against onnx.reference; and what damage gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from product_cases import Array

import qrt
from qrt.errors import KernelError
from qrt.gemm.table import CODES
from qrt.jit.declare import HEADER
from qrt.passes import found_ranges
from qrt.simd.features import active_features
from qrt.vm import Executor


def model(highest: float, gain: float) -> onnx.ModelProto:
    """Two dynamic convolutions, the second a model's output; the first clipped to [0, highest], or,
    where that is NaN, y * h - y."""
    rng = np.random.default_rng(5)
    nodes, constants = [], []

    def constant(name: str, array: Array) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    x = "x"
    for i, (n, c) in enumerate(((12, 5), (7, 12))):
        w = constant(f"w{i}", rng.integers(-127, 128, (n, c, 1, 1), dtype=np.int8))
        w_scale = constant(f"s{i}", np.float32(gain if i == 0 else 0.01).reshape(()))
        bias = constant(f"b{i}", rng.standard_normal((1, n, 1, 1)).astype(np.float32))
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [x], [f"q{i}", f"xs{i}", f"z{i}"]),
            helper.make_node("ConvInteger", [f"q{i}", w, f"z{i}"], [f"a{i}"]),
            helper.make_node("Cast", [f"a{i}"], [f"f{i}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"xs{i}", w_scale], [f"m{i}"]),
            helper.make_node("Mul", [f"f{i}", f"m{i}"], [f"p{i}"]),
            helper.make_node("Add", [f"p{i}", bias], [f"y{i}"]),
        ]
        x = f"c{i}"
    ends = [constant(name, np.float32(v).reshape(())) for name, v in (("l", 0), ("h", highest))]
    nodes.insert(6, helper.make_node("Clip", ["y0", *ends], ["c0"]))
    if np.isnan(highest):
        nodes[6:7] = [
            helper.make_node("Mul", ["y0", constant("half", np.float32(1.7).reshape(()))], ["h0"]),
            helper.make_node("Sub", ["h0", "y0"], ["c0"]),
        ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 5, 6, 7])],
        [value("y1", TensorProto.FLOAT, None)], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("highest, gain, makes_codes", [
    (6, 0.02, True), (6, 1e-4, True), (np.inf, 0.02, False), (np.nan, 0.02, False),
])  # fmt: skip
def test_models(
    highest: float, gain: float, makes_codes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass joins what it may, and onnx.reference gives the same."""
    monkeypatch.setattr(found_ranges, "SPILLS", 0)
    made = model(highest, gain)
    x = np.random.default_rng(6).standard_normal((1, 5, 6, 7)).astype(np.float32)
    (want,) = ReferenceEvaluator(made).run(None, {"x": x})
    session = qrt.load(made)
    (got,) = session.run(None, {"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    (again,) = qrt.load(made, threads=3).run(None, {"x": x})
    assert np.array_equal(got, again)
    ran = [kernel for row in session.explain().rows for kernel in row.kernels]
    assert any(name.endswith(CODES) for name in ran) == makes_codes
    assert ran.count("range_f32") == 1  # the model's input has no product in front


def test_four_numbers_are_no_record() -> None:
    """A damaged row that leads to numbers which ask for a range ends the run, before it writes."""
    session = qrt.load(model(np.inf, 0.02))
    session.explain()
    program = next(iter(session._programs._executors.values())).program
    row = max(i for i in range(len(program.rows)) if "limits_step" in program.fields(i))
    fields = program.fields(row)
    assert fields["limits_step"] == 0
    rows = program.rows.copy()
    rows[row, len(HEADER) + list(fields).index("limits")] = fields["panels"]
    executor = Executor(replace(program, rows=rows), active_features())
    with pytest.raises(KernelError, match="no place for it"):
        executor.run([np.zeros((1, 5, 6, 7), np.float32)])
