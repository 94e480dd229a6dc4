"""`quantize_to_target`: layers that need more than 8 bits get them, the others do not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_harness import DATA, qrt_command
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qrt
from qrt.errors import InputError, QuantizationError
from qrt.ptq import cost
from qrt.ptq.config import Grid, QuantConfig

Array = np.ndarray[Any, Any]
FLOAT = DATA / "digits_fp32.onnx"
PER_TENSOR = QuantConfig(weights=Grid(signed=True, symmetric=True))
WIDTHS = (8, 32, 32, 32, 4)


def _chain(spoiled: int, outlier: int) -> onnx.ModelProto:
    """Gemm and Relu, again and again. One weight of layer `spoiled` is far too large for 8 bits per
    tensor, behind an input that is always 0; so is what one channel of layer `outlier` gives."""
    rng = np.random.default_rng(0)
    nodes, constants, x = [], [], "x"
    for i, (k, n) in enumerate(pairwise(WIDTHS)):
        w = (rng.standard_normal((k, n)) / np.sqrt(k)).astype(np.float32)
        bias = np.zeros(n, np.float32)
        bias[-1] = -1e3 if i + 1 == spoiled else 0  # the next layer's last input is 0
        if i == spoiled:
            w[-1, 0] = 300
        if i == outlier:
            bias[0] = 300
        if i == outlier + 1:
            w[0] = 0
        constants += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]
        y = "y" if i == len(WIDTHS) - 2 else f"h{i}"
        nodes.append(helper.make_node("Gemm", [x, f"w{i}", f"b{i}"], [y], f"layer {i}"))
        x = y
        if y != "y":
            nodes.append(helper.make_node("Relu", [y], [f"r{i}"]))  # has no name
            x = f"r{i}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", width))
            for name, width in (("x", WIDTHS[0]), ("y", WIDTHS[-1]))]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


X = np.random.default_rng(1).standard_normal((60, WIDTHS[0])).astype(np.float32)


def _fidelity(model: onnx.ModelProto, tell: list[str]) -> Any:
    """A score: how close a model's outputs are to those of `model`, by ONNX's own evaluator."""
    (want,) = ReferenceEvaluator(model).run(None, {"x": X})

    def evaluate(made: onnx.ModelProto) -> float:
        onnx.checker.check_model(made, full_check=True)
        (got,) = ReferenceEvaluator(made).run(None, {"x": X})
        tell.append("scored")
        return 1 - float(((got - want) ** 2).sum() / (want**2).sum())

    return evaluate


def test_only_the_layers_that_need_it_get_more_than_8_bits() -> None:
    model = _chain(spoiled=2, outlier=0)
    told: list[str] = []
    made, report = qrt.quantize_to_target(
        model, X, 0.003, evaluate=_fidelity(model, told), config=PER_TENSOR
    )
    choice = {layer.layer: layer.choice for layer in report.layers}
    assert choice == {"x": "int8", "layer 0": "int16", "layer 1": "int8", "layer 2": "float",
                      "layer 3": "int8"}  # fmt: skip
    assert report.is_met
    assert report.int8_score < report.target <= report.score
    assert report.evaluations == len(told)
    assert report.int8_cost < report.cost < report.float_cost
    by_noise = sorted(report.layers, key=lambda e: -e.weight_sensitivity - e.output_sensitivity)
    assert {layer.layer for layer in by_noise[:2]} == {"layer 0", "layer 2"}
    (want,) = ReferenceEvaluator(made).run(None, {"x": X})
    (got,) = qrt.load(made).run(None, {"x": X})
    assert np.abs(got - want).max() < 1e-3 * np.abs(want).max()
    zero_points = {t.name: t for t in made.graph.initializer}
    wide = [n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear"
            and zero_points[n.input[2]].data_type == TensorProto.UINT16]  # fmt: skip
    assert wide == ["r0"]
    assert "% of the noise, score 0." in str(report)
    again, _ = qrt.quantize_to_target(
        model, X, 0.003, evaluate=_fidelity(model, told), config=PER_TENSOR
    )
    assert again.SerializeToString() == made.SerializeToString()


def test_int8_is_taken_where_it_is_enough_and_float_where_nothing_else_is() -> None:
    model = _chain(spoiled=2, outlier=0)
    told: list[str] = []
    evaluate = _fidelity(model, told)
    made, easy = qrt.quantize_to_target(model, X, 1.0, evaluate=evaluate, config=PER_TENSOR)
    assert {layer.choice for layer in easy.layers} == {"int8"}
    assert easy.evaluations == 2
    assert "within the drop" in easy.table()
    made, hard = qrt.quantize_to_target(
        model, X, 0, evaluate=evaluate, config=PER_TENSOR, max_evaluations=6
    )
    assert hard.is_met
    assert hard.evaluations <= 6
    assert {e.choice for e in hard.layers if e.op == "Gemm"} == {"float"}
    assert not [n for n in made.graph.node if n.op_type == "QuantizeLinear"]
    assert hard.cost == hard.float_cost


def test_labels_score_the_share_of_classes_that_are_right() -> None:
    with np.load(DATA / "digits_test.npz") as arrays:
        x = arrays["x"][:90, None].astype(np.float32) / np.float32(16)
        y = arrays["y"][:90].copy()
    y[50:55] += 1  # wrong ones count, too
    session = qrt.load(FLOAT)
    _, report = qrt.quantize_to_target(FLOAT, x[:20], 0.02, labels=(x[40:], y[40:]))
    right = session.run(None, {"image": x[40:]})[0].argmax(axis=1) == y[40:]
    assert report.float_score == float(right.mean())


def test_costs_follow_their_definition() -> None:
    work = cost.Work(macs=1000, read=10, written=20, weights=50)
    assert cost.cost(work, "int8", "int8", "int8") == 1000 + 4 * (10 + 20 + 50)
    assert cost.cost(work, "float", "float", "float") == 4000 + 4 * 4 * (10 + 20 + 50)
    # bytes apart (20), their sums written and read (2 * 2 * 20 * 4), on top of what is moved
    assert cost.cost(work, "int16", "int16", "int8") == 2000 + 4 * (20 + 20 + 50 + 20 + 320)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, QuantizationError, "give either evaluate"),
        ({"labels": (X, np.zeros(3))}, InputError, "class numbers"),
        ({"labels": (X, np.zeros(3, int))}, InputError, "3 labels for 60 samples"),
        ({"labels": (X[:3], np.zeros(60, int))}, InputError, "60 labels for 3 samples"),
        ({"evaluate": lambda m: np.nan}, QuantizationError, "finite number"),
        ({"evaluate": lambda m: "good"}, QuantizationError, "finite number, got 'good'"),
        ({"evaluate": lambda m: 1.0, "target_drop": -1}, QuantizationError, "0 or more"),
        ({"evaluate": lambda m: 1.0, "max_evaluations": 1}, QuantizationError, "at least 3"),
        ({"evaluate": lambda m: 1.0, "calibration_data": X[:0]}, InputError, "are empty"),
    ],
)
def test_what_does_not_fit_is_refused(options: Any, error: type[Exception], says: str) -> None:
    given = {"calibration_data": X, "target_drop": 0.1, **options}
    with pytest.raises(error, match=says):
        qrt.quantize_to_target(_chain(2, 0), **given)


def test_from_the_command_line(tmp_path: Path) -> None:
    model, samples = tmp_path / "m.onnx", tmp_path / "x.npy"
    labels, out = tmp_path / "labels.npz", tmp_path / "out.onnx"
    made = _chain(2, 0)
    onnx.save(made, model)
    np.save(samples, X)
    (said,) = ReferenceEvaluator(made).run(None, {"x": X})
    np.savez(labels, x=X, y=said.argmax(axis=1))
    np.savez(unlabelled := tmp_path / "only_x.npz", x=X)
    command = ("quantize", model, "--data", samples, "-o", out, "--target-drop", "5")
    done = qrt_command(*command, "--labels", labels)
    assert done.code == 0, done.err
    assert "evaluations" in done.out
    told = qrt_command(*command, "--labels", labels, "--json").json
    assert told["target"]["float_score"] == 1
    assert len(told["target"]["layers"]) == 5
    for more, says in (
        ((), "needs --labels"),
        (("--labels", unlabelled), "classes as `y`"),
        (("--labels", labels, "--form", "qoperator"), "--form qdq only"),
        (("--labels", labels, "--recipe", "dynamic"), "calibrated recipes"),
        (("--labels", labels, "--bits", "4"), "--target-drop has no --bits"),
    ):
        wrong = qrt_command(*command, *more)
        assert wrong.code == 2
        assert says in wrong.err
    assert "--labels is for --target-drop" in qrt_command(*command[:-2], "--labels", labels).err
