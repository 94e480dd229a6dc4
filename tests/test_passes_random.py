"""Random graphs, optimized and specialised, equal the oracle bit for bit on every reference."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from qrt.errors import UnsupportedError
from tests.contract import evaluate
from tests.graphs import OPERATORS, SPELLINGS, case, random_graph
from tests.passes_reference import Array, machine_graph, run

SEEDS = 60
# what the machine does not run yet, as its message says it
UNSUPPORTED = ("tf_crop_and_resize",)
STATIC = [name for name in OPERATORS if not name.startswith("dynamic")]


def difference(model: onnx.ModelProto, inputs: dict[str, Array]) -> str:
    """'' when all outputs are equal, else what differs; 'unsupported' for a known refusal."""
    expected = evaluate(model, inputs)
    try:
        got = run(machine_graph(model, inputs), inputs)
    except UnsupportedError as error:
        if any(reason in str(error) for reason in UNSUPPORTED):
            return "unsupported"
        raise
    for name, array in expected.items():
        if (got[name].dtype, got[name].shape) != (array.dtype, array.shape):
            return f"{name}: {got[name].dtype}{list(got[name].shape)}"
        if not np.array_equal(got[name], array, equal_nan=array.dtype.kind == "f"):
            count = int((got[name] != array).sum())
            return f"{name}: {count} of {array.size} values"
    return ""


def check(differences: dict[str, str], least: float) -> None:
    """Fail once for all; at least the share `least` must have run."""
    outcomes = Counter(differences.values())
    wrong = [
        f"{key}: {what}" for key, what in differences.items() if what not in ("", "unsupported")
    ]
    assert not wrong, f"{len(wrong)} of {len(differences)} graphs differ; first {wrong[0]}"
    assert outcomes[""] >= least * len(differences), outcomes


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", STATIC)
def test_one_operator(name: str, spelling: str) -> None:
    found = {}
    for seed in range(SEEDS):
        found[f"seed {seed}"] = difference(*case(np.random.default_rng(seed), name, spelling))
    check(found, least=0.7)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_several_operators(spelling: str) -> None:
    found = {}
    for seed in range(2 * SEEDS):
        model, inputs = random_graph(np.random.default_rng(seed), spelling, STATIC)
        found[f"seed {seed}"] = difference(model, inputs)
    check(found, least=0.7)
