"""The quantization cases of ONNX's own node tests, with scales and zero points as graph inputs."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qrt
from qrt.errors import UnsupportedError
from tests.graphs.draw import Array
from tests.sessions import THREADS, difference, feature_levels, named

FILES = (
    *("convinteger", "dequantizelinear", "dynamicquantizelinear", "matmulinteger"),
    *("qlinearconv", "qlinearmatmul", "quantizelinear"),
)

# case (or beginning of its name) -> what it needs that qrt does not run yet
NOT_COVERED = {
    "convinteger": "ConvInteger (dynamic quantization)",
    "matmulinteger": "MatMulInteger (dynamic quantization)",
    "dynamicquantizelinear": "DynamicQuantizeLinear (dynamic quantization)",
    "dequantizelinear_e4m3fn": "float8",
    "dequantizelinear_e5m2": "float8",
    "quantizelinear_e4m3fn": "float8",
    "quantizelinear_e5m2": "float8",
    "dequantizelinear_float4e2m1": "float4",
    "quantizelinear_float4e2m1": "float4",
    "dequantizelinear_uint4": "4 bits",
    "dequantizelinear_int4": "4 bits",
    "quantizelinear_uint4": "4 bits",
    "quantizelinear_int4": "4 bits",
    "dequantizelinear_uint2": "2 bits",
    "dequantizelinear_int2": "2 bits",
    "quantizelinear_uint2": "2 bits",
    "quantizelinear_int2": "2 bits",
    "dequantizelinear_blocked": "block_size",
    "quantizelinear_blocked": "block_size",
}


def onnx_cases() -> list[Any]:
    """The cases that `FILES` of onnx.backend.test.case.node make when they are imported."""
    node = importlib.import_module("onnx.backend.test.case.node")
    for name in FILES:
        importlib.import_module(f"onnx.backend.test.case.node.{name}")
    return [case for case in node._NodeTestCases if case.name[5:].startswith(FILES)]


def not_covered(case: Any) -> str:
    """Why `case` is not, or nothing. Expanded into other operators it needs none of its own."""
    if case.name.endswith("_expanded"):
        return ""
    return next((why for name, why in NOT_COVERED.items() if case.name[5:].startswith(name)), "")


CASES = {case.name: case for case in onnx_cases()}


@pytest.mark.parametrize("features", feature_levels(), ids=named)
@pytest.mark.parametrize("name", [n for n, case in CASES.items() if not not_covered(case)])
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


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if not_covered(case)])
def test_what_is_not_covered_is_refused_by_name(name: str) -> None:
    """Neither a wrong answer nor some other error; a case that passes leaves the list."""
    case = CASES[name]
    inputs, _ = _data(case)[0]
    with pytest.raises(UnsupportedError) as caught:
        qrt.load(case.model).run(None, inputs)
    node = case.model.graph.node[0].op_type
    assert "#" in str(caught.value), f"{not_covered(case)}: {caught.value} names no node"
    assert node in str(caught.value) or len(case.model.graph.node) > 1


def test_all_of_them_are_known() -> None:
    """45 at onnx 1.23; the number only grows."""
    covered = [name for name, case in CASES.items() if not not_covered(case)]
    print(f"\n{len(covered)} of {len(CASES)} quantization cases of onnx {onnx.__version__} run:")
    print("  " + " ".join(name[5:] for name in covered))
    for name, case in CASES.items():
        if not_covered(case):
            print(f"  not {name[5:]}: {not_covered(case)}")
    unused = [k for k in NOT_COVERED if not any(n[5:].startswith(k) for n in CASES)]
    assert not unused or onnx.__version__ < "1.23"
    assert len(covered) >= 20


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
