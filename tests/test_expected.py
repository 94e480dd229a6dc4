"""What BatchNormalization tells stands in for calibration data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_harness import qrt_command
from onnx.reference import ReferenceEvaluator

import qrt
from bench.hard_case import WAYS, hard_case, with_batchnorm
from bench.labelled import MODELS
from qrt.api.quantization import run_float
from qrt.errors import InputError, QuantizationError
from qrt.ptq.calibrate import with_outputs
from qrt.ptq.config import PRESETS, WEIGHTS, QuantConfig
from qrt.ptq.expected import InputRanges, expect
from qrt.ptq.prepare import prepare

Array = np.ndarray[Any, Any]
CASE = MODELS["digits_fp32"]
RANGES = InputRanges({"image": (0.0, 1.0)})
X, Y = CASE.arrays()
SEEN, UNSEEN = X[:200], X[200:]


@pytest.fixture(scope="module")
def told() -> onnx.ModelProto:
    """The digits model, hard, with BatchNormalization behind its convolutions."""
    return with_batchnorm(hard_case(CASE, 1e4), SEEN)


def _top1(model: onnx.ModelProto) -> float:
    (logits,) = qrt.load(model).run(None, {"image": UNSEEN})
    return float((logits.argmax(axis=1) == Y[200:]).mean())


def test_batchnorm_was_put_back(told: onnx.ModelProto) -> None:
    assert sum(node.op_type == "BatchNormalization" for node in told.graph.node) == 5
    (want,) = ReferenceEvaluator(onnx.load(CASE.model)).run(None, {"image": X[:20]})
    (got,) = ReferenceEvaluator(told).run(None, {"image": X[:20]})
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_means_are_nearly_those_of_data(told: onnx.ModelProto) -> None:
    draft = prepare(told)
    draft.need_opset(18)  # which keeps what is known
    found = expect(draft, RANGES)
    names = [n.input[0] for n in draft.nodes if n.op_type in ("Conv", "Gemm")][1:]
    run = run_float(with_outputs(draft, names))
    for name, array in zip(names, run({"image": SEEN}), strict=True):
        values = np.asarray(array, np.float64)
        values = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
        scale = values.std(axis=1).max()
        # neighbours in a pool are not independent, and values are not quite normal
        assert np.abs(found[name].mean - values.mean(axis=1)).max() < 0.4 * scale
        known = np.corrcoef(found[name].mean, values.mean(axis=1))[0, 1]
        assert known > 0.9
        assert (found[name].high >= np.quantile(values, 0.99, axis=1)).all()


@pytest.mark.parametrize("op", ["Relu", "Clip"])
def test_clipped_normal_distributions(op: str) -> None:
    rng = np.random.default_rng(0)
    mean, deviation = rng.standard_normal(5), rng.uniform(0.1, 2, 5)
    arrays = {"w": np.eye(5)[:, :, None, None], "g": deviation, "b": mean, "m": np.zeros(5),
              "v": np.full(5, 1 - 1e-5), "low": np.array(0), "high": np.array(1)}  # fmt: skip
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"]),
        onnx.helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        onnx.helper.make_node(op, ["n", "low", "high"] if op == "Clip" else ["n"], ["y"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 5, 1, 1])
            for n in "xy"]  # fmt: skip
    tensors = [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    found = expect(prepare(model), InputRanges({"x": (-5, 5)}))["y"]
    x = rng.standard_normal((200_000, 5, 1, 1)).astype(np.float32)
    y = ReferenceEvaluator(model).run(None, {"x": x})[0][:, :, 0, 0]
    assert np.abs(found.mean - y.mean(axis=0)).max() < 0.01
    assert np.abs(np.sqrt(found.variance) - y.std(axis=0)).max() < 0.01
    assert (found.low <= y.min(axis=0)).all()
    assert (found.high >= y.max(axis=0)).all()


def test_factors_of_a_gemm_count() -> None:
    rng = np.random.default_rng(1)
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 4] x) => (float[n, 3] y) { y = Gemm <alpha = 3.0, beta = 0.5> (x, w, b) }""")
    for name, shape in (("w", (4, 3)), ("b", (3,))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    found = expect(prepare(model), InputRanges((-1.0, 3.0)))["y"]
    x = rng.uniform(-1, 3, (100_000, 4)).astype(np.float32)
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert np.abs(found.mean - y.mean(axis=0)).max() < 0.03
    assert np.abs(np.sqrt(found.variance) / y.std(axis=0) - 1).max() < 0.02


def test_the_hard_case_without_data(told: onnx.ModelProto) -> None:
    exact = _top1(told)
    assert _top1(qrt.quantize_static(told, RANGES, WAYS["per tensor"])) < exact - 0.1
    for way in WAYS:
        if "equalized, bias correction" not in way:
            continue
        made = qrt.quantize_static(told, RANGES, WAYS[way])
        onnx.checker.check_model(made, full_check=True)
        assert _top1(made) >= exact - 0.01, way


def test_bias_correction_without_data() -> None:
    told = with_batchnorm(onnx.load(CASE.model), SEEN)
    (want,) = qrt.load(told).run(None, {"image": UNSEEN})

    def shift(corrected: bool) -> float:
        # of few bits, so that there is something to correct
        config = QuantConfig(weights=replace(WEIGHTS, bits=4), bias_correction=corrected)
        made = qrt.quantize_static(told, RANGES, config)
        (got,) = qrt.load(made).run(None, {"image": UNSEEN})
        return float(np.abs((got - want).mean(axis=0)).mean())

    assert shift(True) < 0.6 * shift(False)


def test_without_data_from_the_command_line(told: onnx.ModelProto, tmp_path: Path) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(told, before)
    options = ("--input-range", "0", "1", "--equalize", "--bias-correction")
    done = qrt_command("quantize", before, *options, "-o", after)
    assert done.code == 0, done.err
    assert _top1(onnx.load(after)) >= _top1(told) - 0.01
    wrong = qrt_command("quantize", before, *options, "--recipe", "float16", "-o", after)
    assert "--input-range is for calibrated recipes" in wrong.message


def test_what_is_not_known_is_said(told: onnx.ModelProto) -> None:
    with pytest.raises(InputError, match="'image' needs a range"):
        qrt.quantize_static(told, InputRanges({}))
    with pytest.raises(InputError, match="is no range"):
        qrt.quantize_static(told, InputRanges({"image": (1, 0)}))
    with pytest.raises(QuantizationError, match="needs calibration data"):
        qrt.quantize_static(told, RANGES, PRESETS["x86"])
    with pytest.raises(QuantizationError, match="reconstruct needs calibration data"):
        qrt.quantize_static(told, RANGES, QuantConfig(reconstruct=True))
    with pytest.raises(InputError, match="is its lowest and highest value, got 3"):
        qrt.quantize_static(told, InputRanges({"image": 3}))  # type: ignore[dict-item]
    strange = onnx.ModelProto()
    strange.CopyFrom(told)
    next(n for n in strange.graph.node if n.op_type == "Relu").op_type = "Elu"
    with pytest.raises(QuantizationError, match="nothing is known of tensor"):
        qrt.quantize_static(strange, RANGES)
