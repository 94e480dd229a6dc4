"""All cases of ONNX's conformance suite pass, but for those that a table names with the reason.

ONNX's light real topologies (the networks whose weights are made up) are cases too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import qrt.backend
from qrt.errors import InputError, QrtError, UnsupportedError
from tests.conformance.failures import FAILURES, RANDOM
from tests.conformance.suite import cases

CASES = cases()
REASONS = {name: reason for reason, names in FAILURES.items() for name in names}
REAL = 9  # light topologies
NEEDED = 2010  # of 2024 in onnx 1.23.2


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNX_MODELS", str(tmp_path))  # where the runner writes inputs
    run = getattr(CASES[name], CASES[name]._testMethodName)
    if name not in REASONS:
        run()
        return
    if name in RANDOM:
        try:
            run()
        except AssertionError as error:  # of the values, which come after shape and dtype
            assert "Not equal to tolerance" in str(error)
        return
    with pytest.raises((AssertionError, QrtError)):  # or else it is to be taken from the list
        run()


def test_failures_are_few_and_known() -> None:
    assert sum(len(names) for names in FAILURES.values()) == len(REASONS), "one is listed twice"
    assert REASONS.keys() <= CASES.keys() or onnx.__version__ != "1.23.2"
    assert len(CASES) - REAL >= 2024 or onnx.__version__ < "1.23"
    passing = len(CASES.keys() - REASONS.keys()) - REAL
    print(f"\nonnx {onnx.__version__}: {passing} of {len(CASES) - REAL} cases pass")
    assert passing >= NEEDED or onnx.__version__ < "1.23"


def test_run_node_and_run_model() -> None:
    node = helper.make_node("Sub", ["a", "b"], ["c"])
    a, b = np.array([3, 5], np.float32), np.array([1], np.float32)
    (c,) = qrt.backend.run_node(node, [a, b])
    assert c.dtype == np.float32 and c.tolist() == [2, 4]
    (c,) = qrt.backend.run_node(node, [a, b], outputs_info=[(np.float32, (2,))], opset_version=13)
    assert c.tolist() == [2, 4]
    info = helper.make_tensor_value_info
    ins, outs = [info("a", 1, [2]), info("b", 1, [1])], [info("c", 1, [2])]
    graph = helper.make_graph([node], "g", ins, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    outputs = qrt.backend.run_model(model, [a, b])
    assert outputs.c.tolist() == [2, 4] and outputs[0] is outputs.c
    assert qrt.backend.prepare(model).run({"b": b, "a": a}).c.tolist() == [2, 4]
    with pytest.raises(InputError, match="has 2 inputs, got 1"):
        qrt.backend.run_model(model, a)


def test_devices() -> None:
    assert qrt.backend.supports_device("CPU")
    assert not qrt.backend.supports_device("CUDA:1")
    with pytest.raises(UnsupportedError, match="'CUDA'"):
        qrt.backend.prepare(onnx.ModelProto(), "CUDA")
