"""Random graphs of quantized operators, bit for bit the numeric contract (tests/contract).

Both spellings, every level of features this CPU runs, one and two threads. QRT_TEST_SEEDS=10 tries
ten times as many. `random_graph(np.random.default_rng((seed, 11)), spelling)` makes the graph of a
failure again, `case(np.random.default_rng((seed, 12)), name, spelling)` that of an operator.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest

from qrt.errors import UnsupportedError
from qrt.passes import found_ranges
from tests.contract import evaluate
from tests.graphs import DYNAMIC, OPERATORS, SPELLINGS, Case, case, random_graph
from tests.sessions import THREADS, Cases, differences, feature_levels, named, run

MORE = int(os.environ.get("QRT_TEST_SEEDS", "1"))
GRAPHS = {"": 200 * MORE}  # graphs of one spelling on the native level
FEWER = 60 * MORE  # on the others
PER_OPERATOR = 12 * MORE

# valid models that qrt refuses by name; all else must run
REFUSED = (
    "windows over 3 spatial axes are not supported",
    "tf_crop_and_resize that reaches outside of the input",
)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("features", feature_levels(), ids=named)
def test_random_graphs_equal_the_contract(features: str, spelling: str) -> None:
    cases = Cases()
    count = GRAPHS.get(features, FEWER)
    refused = 0
    for seed in range(count):
        found = random_graph(np.random.default_rng((seed, 11)), spelling)
        refused += not _check(cases, f"seed {seed}", found, [features])
    title = f"random graphs, {spelling}, {named(features)}, seeds 0..{count - 1}"
    print(f"\n{title}: {refused} refused")
    cases.finish(title, at_least=2 * (count - refused))
    assert refused <= count * 0.15


def test_random_graphs_with_dynamic_operators_equal_the_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Among all others, so that floats of one are the input of the next, however few they are."""
    monkeypatch.setattr(found_ranges, "SPILLS", 0)
    cases = Cases()
    refused = 0
    for seed in range(FEWER):
        found = random_graph(np.random.default_rng((seed, 13)), "qdq", [*OPERATORS, *3 * DYNAMIC])
        refused += not _check(cases, f"seed {seed}", found, [""])
    cases.finish(f"random graphs with dynamic operators, {refused} refused", at_least=FEWER)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_equal_the_contract(
    name: str, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found_ranges, "SPILLS", 0)
    cases = Cases()
    refused = 0
    # kernels that only pairs use are compiled for each level in test_found_ranges
    levels = [""] if name == "dynamic_conv_pair" else feature_levels()
    for seed in range(PER_OPERATOR):
        found = case(np.random.default_rng((seed, 12)), name, spelling)
        refused += not _check(cases, f"seed {seed}", found, levels)
    cases.finish(f"{name}, {spelling}, seeds 0..{PER_OPERATOR - 1}, {refused} refused", at_least=12)


def _check(cases: Cases, label: str, found: Case, levels: list[str]) -> bool:
    """Compare a graph on `levels` and `THREADS`; False when it is one that qrt refuses."""
    model, inputs = found
    expected = evaluate(model, inputs)
    for features in levels:
        for threads in THREADS:
            try:
                what = differences(expected, run(model, inputs, features, threads))
            except Exception as error:
                if _is_refusal(error):
                    return False
                what = f"{type(error).__name__}: {error}"
            where = f"{label}, {named(features)}, {threads} threads, {_operators(model)}"
            cases.check(where, what)
    return True


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, UnsupportedError) and any(text in str(error) for text in REFUSED)


def _operators(model: onnx.ModelProto) -> str:
    linear = ("QuantizeLinear", "DequantizeLinear")
    ops = [node.op_type for node in model.graph.node]
    return "+".join([op for op in ops if op not in linear] or ops)
