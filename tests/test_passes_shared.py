"""The real networks: what stays in float, and that the rest computes their stored outputs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qrt.ir import Graph, Value
from qrt.loader import load_graph
from qrt.passes import optimize, specialised_inputs, specialize
from tests.passes_reference import run

# float operators that the models themselves have outside of Q/DQ pairs; ONNX Runtime runs these in
# float too. Everything else must be integer, movement or a border.
FLOAT: dict[str, dict[str, int]] = {
    "micro_kws_qop": {"Add": 3, "Relu": 2, "Softmax": 1},
    "mnist_cnn_qdq_s8s8": {"LogSoftmax": 1},
    "mnist_cnn_qop": {"LogSoftmax": 1},
    # its residual sums are read in float by the next sum
    "mobilenetv2_qdq": {"Add": 10},
}
MOVEMENT = {"Reshape", "Transpose", "Concat", "Shape", "Gather", "Unsqueeze"}
# steps of the last quantization that end-to-end outputs may differ by
STEPS = 3


def float_operators(graph: Graph) -> Counter[str]:
    return Counter(n.op for n in graph.nodes if not n.domain and n.op not in MOVEMENT)


def borders(graph: Graph) -> set[Value]:
    """Float tensors that are a dequantized one."""
    return {n.outputs[0] for n in graph.nodes if n.op == "Dequantize"}


@pytest.mark.shared("*_qdq*", "*_qop*")
def test_recognised(shared_model: Path) -> None:
    graph = load_graph(shared_model)
    assert specialised_inputs(graph) == set()
    machine = optimize(graph)
    assert float_operators(machine) == Counter(FLOAT.get(shared_model.stem, {}))
    assert all(n.domain in ("", "qrt") for n in machine.nodes)
    # float work that meets a quantized tensor says why
    for node in machine.nodes:
        meets = any(v is not None and v in borders(machine) for v in node.inputs)
        assert node.why or node.domain or node.op in MOVEMENT or not meets, node


@pytest.mark.shared("*_qdq*", "*_qop*")
def test_computes_the_stored_output(shared_model: Path) -> None:
    stored = np.load(shared_model.with_suffix(".npz"))
    feeds = {key[3:]: stored[key] for key in stored if key.startswith("in:")}
    graph = load_graph(shared_model)
    machine = specialize(optimize(graph), {name: a.shape for name, a in feeds.items()})
    got = run(machine, feeds)
    for key in stored:
        if not key.startswith("out:"):
            continue
        expected, actual = stored[key], got[key[4:]]
        assert actual.shape == expected.shape and actual.dtype == expected.dtype
        if expected.dtype.kind in "iu":
            gap = np.abs(actual.astype(np.int64) - expected.astype(np.int64)).max()
            assert gap <= STEPS, f"{key}: {gap} steps"
        else:
            step = smallest_step(expected)
            gap = np.abs(actual - expected).max()
            assert gap <= STEPS * step + 1e-5, f"{key}: {gap} = {gap / step} steps"
        assert np.array_equal(actual.argmax(-1), expected.argmax(-1))


def smallest_step(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    """The distance between neighbouring values of a dequantized tensor, or 1 % of its range."""
    gaps = np.diff(np.unique(values.astype(np.float64)))
    coarse = gaps[gaps > 1e-6 * float(np.ptp(values))]
    return (
        max(float(coarse.min(initial=np.inf)), 0.0) if coarse.size else 0.01 * float(np.ptp(values))
    )
