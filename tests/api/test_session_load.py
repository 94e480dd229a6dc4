"""`qrt.load` and `qrt.InferenceSession` on small ONNX models: every way in, every option."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qrt

ROOT = Path(__file__).resolve().parents[2]
SCALE, ZERO = np.float32(0.1), np.uint8(100)


def model(shape: tuple[Any, ...] = ("N", 4), scale_is_input: bool = False) -> onnx.ModelProto:
    """x -> QuantizeLinear -> y; the scale a constant or an input."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    constants = [numpy_helper.from_array(np.array(ZERO), "zero_point")]
    if scale_is_input:
        inputs.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, ()))
    else:
        constants.append(numpy_helper.from_array(np.array(SCALE), "scale"))
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["y"], name="q")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)]
    graph = helper.make_graph(nodes, "one", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def quantized(x: np.ndarray[Any, Any], scale: np.float32 = SCALE) -> np.ndarray[Any, Any]:
    return np.clip(np.rint(x / scale) + int(ZERO), 0, 255).astype(np.uint8)


X = np.linspace(-20, 20, 8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "m.onnx"
    onnx.save(model(), target)
    return target


def test_every_way_in(path: Path) -> None:
    for source in (path, str(path), path.read_bytes(), model()):
        for session in (qrt.load(source), qrt.InferenceSession(source)):
            assert isinstance(session, qrt.Session)
            (y,) = session.run(None, {"x": X})
            np.testing.assert_array_equal(y, quantized(X))
            assert y.dtype == np.uint8


def test_any_batch_the_model_leaves_open() -> None:
    session = qrt.load(model())
    for n in (1, 3, 0, 2, 50):
        x = np.random.default_rng(n).normal(0, 9, (n, 4)).astype(np.float32)
        np.testing.assert_array_equal(session(x), quantized(x))


def test_static_models_run_from_their_only_program() -> None:
    session = qrt.load(model((2, 4)))
    assert session._programs._recipe is None
    np.testing.assert_array_equal(session(X), quantized(X))
    with pytest.raises(qrt.InputError, match="dimension 0 must be 2, got 1"):
        session(X[:1])


def test_a_scale_that_is_an_input_is_part_of_the_program() -> None:
    session = qrt.load(model(scale_is_input=True))
    for scale in (np.float32(0.5), np.float32(2), np.float32(0.5)):
        np.testing.assert_array_equal(session(X, scale), quantized(X, scale))
    assert len(session._programs._executors) == 2
    with pytest.raises(qrt.QrtError, match="scale"):
        session(X, np.float32(0))


def test_features_and_threads() -> None:
    for features in ("portable", None):
        session = qrt.load(model(), features=features, threads=0)
        np.testing.assert_array_equal(session(X), quantized(X))
    assert qrt.load(model(), features="portable").explain().features == ()
    with pytest.raises(qrt.QrtError, match="nonsense"):
        qrt.load(model(), features="nonsense")
    with pytest.raises(qrt.QrtError, match="threads"):
        qrt.load(model(), threads=-3)
    with pytest.raises(qrt.QrtError, match="max_bytes"):
        qrt.load(model(), max_bytes="1 GB")  # type: ignore[arg-type]


def test_max_bytes_refuses_early() -> None:
    with pytest.raises(qrt.MemoryLimitError, match="max_bytes allows 100000"):
        qrt.load(model((1000, 1000)), max_bytes=100_000)


def test_explain_names_the_node() -> None:
    (row,) = qrt.load(model((2, 4))).explain()
    assert (row.index, row.origin, row.dtype) == (0, ("q",), "uint8")
    assert row.kernels and row.kernels[0].startswith("quantize")


def test_what_onnx_runtime_takes() -> None:
    data = model((2, 4)).SerializeToString()
    options = qrt.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = 99  # type: ignore[attr-defined]
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = qrt.InferenceSession(data, options, ["CPUExecutionProvider"], [{}])
        qrt.InferenceSession(data, sess_options=options, providers=[("CPUExecutionProvider", {})])
        qrt.InferenceSession(data, disabled_optimizers=["x"])
    assert session.get_providers() == qrt.get_available_providers() == ["CPUExecutionProvider"]
    assert session.get_session_options() is options
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.shape, x.type, y.type) == ("x", [2, 4], "tensor(float)", "tensor(uint8)")
    assert session.get_modelmeta().graph_name == "one"
    np.testing.assert_array_equal(session.run(["y"], {"x": X}, None)[0], quantized(X))
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        qrt.InferenceSession(data, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_threads_of_session_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrt.vm.cpus.usable_threads", lambda: 2)
    monkeypatch.delenv("QRT_THREADS", raising=False)
    data = model((200, 400)).SerializeToString()
    for asked, expected in ((0, 1), (1, 1), (2, 2), (7, 2)):
        session = qrt.InferenceSession(data, SimpleNamespace(intra_op_num_threads=asked))
        assert session.threads == expected
    x = np.random.default_rng(0).normal(0, 9, (200, 400)).astype(np.float32)
    np.testing.assert_array_equal(session(x), quantized(x))
    assert session.explain().threads == 2


def test_bad_models_are_refused_with_our_errors(tmp_path: Path) -> None:
    for source in (b"", b"not onnx", str(tmp_path / "missing.onnx"), 5, None):
        with pytest.raises((qrt.QrtError, OSError)):
            qrt.load(source)  # type: ignore[arg-type]


def test_importing_and_running_need_no_numba() -> None:
    code = (
        "import sys, qrt\n"
        "assert not {'numba', 'onnx', 'llvmlite.binding'} & set(sys.modules), 'import qrt'\n"
        "from tests.api.test_session_load import *\n"
        "qrt.load(model())(X)\n"
        "assert 'numba' not in sys.modules and 'onnxruntime' not in sys.modules, 'run'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
