"""Small transformers in every form of `bench/zoo_transformer.py`: against onnx.reference, the same
bits on every level and number of threads, attention in integers, nothing on the host."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.helper import make_node
from onnx.reference import ReferenceEvaluator

import qrt
from bench.zoo_transformer import FORMS, Size, minilm
from tests.graphs.draw import Array
from tests.sessions import THREADS, Cases, differences, feature_levels, named, run

SMALL = Size(layers=2, hidden=48, heads=3, wide=80, vocabulary=50, positions=40)
# of the output's range: float32 against float32; one step of an activation beside another
CLOSE = {"float": 2e-6, "qdq": 2e-2, "dynamic": 2e-2}


def _inputs(sequence: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    mask = np.ones((1, sequence), np.int64)
    mask[0, sequence - sequence // 4 :] = 0
    return {
        "input_ids": rng.integers(0, SMALL.vocabulary, (1, sequence)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, SMALL.types, (1, sequence)),
    }


def _reference(model: onnx.ModelProto, inputs: dict[str, Array]) -> Array:
    """By onnx.reference, which has DequantizeLinear from opset 19 on."""
    newer = onnx.ModelProto()
    newer.CopyFrom(model)
    newer.opset_import[0].version = 19
    return np.asarray(ReferenceEvaluator(newer).run(None, inputs)[0])


@pytest.mark.parametrize("form", FORMS)
def test_transformers(form: str) -> None:
    cases = Cases()
    for sequence in (1, 7, 33):
        model = minilm(form, sequence, seed=sequence, size=SMALL)
        inputs = _inputs(sequence, seed=sequence)
        want = _reference(model, inputs)
        native = run(model, inputs, "", 1)
        got = native["last_hidden_state"]
        gap = np.abs(got - want).max() / np.ptp(want)
        cases.check(f"{form} {sequence}", f"{gap} apart" if gap > CLOSE[form] else None)
        for features in feature_levels():
            for threads in THREADS:
                what = differences(native, run(model, inputs, features, threads))
                cases.check(f"{form} {sequence}, {named(features)}, {threads} threads", what)
    cases.finish(f"transformers, {form}", at_least=9)


def test_attention_is_integer_for_any_shape() -> None:
    """Heads and tokens need not be known when quantization is recognised."""
    model = minilm("qdq", 8, size=SMALL)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].dim_param = "tokens"
    for sequence in (5, 19):
        session = qrt.load(model)
        inputs = _inputs(sequence, seed=3)
        session.run(None, inputs)
        products = [r for r in session.explain() if r.operator.endswith("MatMul")]
        assert len(products) == 8 * SMALL.layers
        assert all(r.operator == "qrt.MatMul" for r in products), products


def test_long_sums_of_two_activations_are_float() -> None:
    """40000 products of two codes may pass int32, which is seen when the length is known."""
    depth = 40_000
    parts = [np.float32(0.01), np.uint8(128)]
    nodes, names = [], []
    for name in "ab":
        nodes.append(make_node("QuantizeLinear", [name, "s", "z"], [f"{name}q"]))
        nodes.append(make_node("DequantizeLinear", [f"{name}q", "s", "z"], [f"{name}d"]))
        names.append(f"{name}d")
    nodes.append(make_node("MatMul", names, ["p"]))
    nodes.append(make_node("QuantizeLinear", ["p", "t", "z"], ["pq"]))
    nodes.append(make_node("DequantizeLinear", ["pq", "t", "z"], ["y"]))
    element = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "long",
        [
            onnx.helper.make_tensor_value_info("a", element, ["m", "k"]),
            onnx.helper.make_tensor_value_info("b", element, ["k", "n"]),
        ],
        [onnx.helper.make_tensor_value_info("y", element, ["m", "n"])],
        [
            onnx.numpy_helper.from_array(np.asarray(array), name)
            for name, array in (("s", parts[0]), ("z", parts[1]), ("t", np.float32(1.0)))
        ],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    rng = np.random.default_rng(0)
    inputs = {
        "a": rng.standard_normal((3, depth)).astype(np.float32),
        "b": rng.standard_normal((depth, 5)).astype(np.float32),
    }
    want = _reference(model, inputs)
    got = run(model, inputs, "", 1)["y"]
    assert np.abs(got - want).max() <= 1.0  # a step of the output
    assert np.ptp(want) > 20
