"""The quantization cases of ONNX's own node tests, with scales and zero points as graph inputs."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qrt
from tests.graphs.draw import Array
from tests.sessions import THREADS, difference, feature_levels, named

FILES = (
    *("convinteger", "dequantizelinear", "dynamicquantizelinear", "matmulinteger"),
    *("qlinearconv", "qlinearmatmul", "quantizelinear"),
)


def onnx_cases() -> list[Any]:
    """The cases that `FILES` of onnx.backend.test.case.node make when they are imported."""
    node = importlib.import_module("onnx.backend.test.case.node")
    for name in FILES:
        importlib.import_module(f"onnx.backend.test.case.node.{name}")
    return [case for case in node._NodeTestCases if case.name[5:].startswith(FILES)]


CASES = {case.name: case for case in onnx_cases()}


@pytest.mark.parametrize("features", feature_levels(), ids=named)
@pytest.mark.parametrize("name", CASES)
def test_case_passes(name: str, features: str) -> None:
    case = CASES[name]
    for threads in THREADS:
        session = qrt.load(case.model, features=features, threads=threads)
        for inputs, outputs in _data(case):
            for _ in range(2):  # the second run finds the program of these values
                got = session.run(None, inputs)
                assert len(got) == len(outputs)
                for expected, array in zip(outputs, got, strict=True):
                    what = difference(expected, array)
                    assert not what, f"{threads} threads: {what}"


def test_all_of_them_are_known() -> None:
    """45 at onnx 1.23; the number only grows."""
    hosted = []
    for name, case in CASES.items():
        session = qrt.load(case.model)
        session.run(None, _data(case)[0][0])
        if any("host: onnx.reference" in row.kernels for row in session.explain()):
            hosted.append(name)
    native = [name[5:] for name in CASES if name not in hosted]
    print(f"\n{len(CASES)} quantization cases of onnx {onnx.__version__}, {len(native)} native:")
    print("  " + " ".join(native))
    assert len(CASES) >= 45 or onnx.__version__ < "1.23"
    assert len(native) >= 20


def _data(case: Any) -> list[tuple[dict[str, Array], list[Array]]]:
    """Inputs by name, and outputs in order, of each data set."""
    names = [graph_input.name for graph_input in case.model.graph.input]
    sets = []
    for inputs, outputs in case.data_sets:
        arrays = [_array(tensor) for tensor in inputs]
        sets.append((dict(zip(names, arrays, strict=True)), [_array(t) for t in outputs]))
    return sets


def _array(tensor: Any) -> Array:
    """Types that NumPy lacks come as TensorProto."""
    if isinstance(tensor, onnx.TensorProto):
        return np.asarray(numpy_helper.to_array(tensor))
    return np.asarray(tensor)
