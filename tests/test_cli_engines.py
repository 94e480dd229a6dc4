"""`qrt engines`, and that nothing is quantized for an engine in vain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_harness import DATA, qrt_command

import qrt
from qrt.errors import QuantizationError
from qrt.ptq.backends import BACKENDS
from qrt.ptq.config import PRESETS, Grid, QuantConfig, Rule
from qrt.simd.features import active_features, levels

FLOAT = DATA / "digits_fp32.onnx"
with np.load(DATA / "digits_test.npz") as _arrays:
    X = _arrays["x"][:30, None].astype(np.float32) / np.float32(16)
BLOCKS = Grid(signed=True, symmetric=True, granularity="per_block")


def test_engines_are_listed_and_one_is_the_best() -> None:
    done = qrt_command("engines")
    assert done.code == 0, done.err
    report = qrt_command("engines", "--json").json
    listed = {engine["name"]: engine for engine in report["engines"]}
    assert {f"qrt {level}" for level in levels()} <= listed.keys()
    assert {engine["backend"] for engine in listed.values()} == BACKENDS.keys()
    for name, engine in listed.items():
        assert name in done.out
        if engine["backend"] == "qrt":
            assert engine["runs"] == (set(engine["features"]) <= active_features())
    runs = [name for name, e in listed.items() if e["backend"] == "qrt" and e["runs"]]
    assert [name for name, engine in listed.items() if engine["best"]] == runs[-1:]
    assert report["best"] == runs[-1]
    assert report["preset"] in PRESETS
    assert f"qrt quantize --recipe {report['preset']}" in done.out


def test_the_best_engine_heeds_the_features_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRT_FEATURES", "portable")
    report = qrt_command("engines", "--json").json
    assert report["best"] == "qrt portable"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (QuantConfig(activations=Grid(bits=16), backend="onnxruntime"),
         "activations: onnxruntime multiplies in integers with activations of 8 bits, got 16"),
        (QuantConfig(activations=Grid(bits=4)), "with activations of 8 or 16 bits, got 4"),
        (QuantConfig(weights=Grid(bits=16)), "weights: qrt multiplies in integers with weights"),
        (QuantConfig(weights=BLOCKS), "got per_block; quantize_weights has blocks"),
        (QuantConfig(op_rules={"Conv": Rule(weights=BLOCKS)}), "weights of Conv: qrt multiplies"),
        (QuantConfig(activations=BLOCKS), "activations: one scale per tensor, got per_block"),
        (QuantConfig(op_rules={"ReduceMean": Rule(activations=Grid())}, backend="onnxruntime"),
         "grids for ReduceMean, which onnxruntime does not run in integers"),
        (QuantConfig(op_types=("Conv", "Einsum")), "qrt does not run Einsum in integers"),
        (QuantConfig(backend="abacus"), "an engine is one of qrt, onnxruntime"),
    ],
)  # fmt: skip
def test_what_an_engine_would_compute_in_float_is_refused(config: QuantConfig, says: str) -> None:
    with pytest.raises(QuantizationError) as raised:
        qrt.quantize_static(FLOAT, X, config)
    assert says in str(raised.value)


def float_products(backend: str, model: onnx.ModelProto, folder: Path) -> list[str]:
    """What the engine computes in float that is a product."""
    if backend == "qrt":
        rows = qrt.load(model).explain().rows
        return [k for row in rows for k in row.kernels if k.startswith("gemm_f32")]
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(model.SerializeToString(), options)
    products = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return [node.op_type for node in nodes if node.op_type in products]


def made_for(backend: str, signed: bool) -> onnx.ModelProto:
    """The digits model for an engine."""
    grid = Grid(signed=signed, symmetric=signed)
    config = QuantConfig(activations=grid, backend=backend, quantize_outputs=True)
    return qrt.quantize_static(FLOAT, X, config)


@pytest.mark.parametrize(
    ("backend", "signed"), [("qrt", False), ("qrt", True), ("onnxruntime", False)]
)
def test_what_is_quantized_runs_in_integers(backend: str, signed: bool, tmp_path: Path) -> None:
    assert not float_products(backend, made_for(backend, signed), tmp_path)


def test_onnxruntime_needs_a_pair_before_a_signed_clamp(tmp_path: Path) -> None:
    # the one that is left reads a MaxPool, whose pair its rewrite of int8 to uint8 breaks
    assert len(float_products("onnxruntime", made_for("onnxruntime", True), tmp_path)) <= 1
    assert len(float_products("onnxruntime", made_for("qrt", True), tmp_path)) >= 4
