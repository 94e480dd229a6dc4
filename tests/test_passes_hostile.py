"""Broken models: passes answer with a graph or with a qrt error, never with another exception."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qrt.errors import QrtError
from tests.graphs import SPELLINGS, random_graph
from tests.passes_reference import Array, machine_graph
from tests.test_passes_random import STATIC

SIZES = (-100, -2, -1, 0, 1, 2, 3, 7, 100, 2**40)
NUMBERS = (0.0, -1.0, float("nan"), float("inf"), 1e30)
OPERATORS = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool",
    "MatMul", "MaxPool", "Pad", "ReduceMean", "Relu", "Reshape", "Slice", "Softmax", "Squeeze",
    "Transpose",
)  # fmt: skip


def break_something(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """One attribute, input, constant or operator of a random node is not what it was."""
    graph = model.graph
    node = graph.node[int(rng.integers(len(graph.node)))]
    kind = int(rng.integers(6))
    if kind == 0 and node.attribute:
        del node.attribute[int(rng.integers(len(node.attribute)))]
    elif kind == 1 and node.attribute:
        break_attribute(rng, node.attribute[int(rng.integers(len(node.attribute)))])
    elif kind == 2 and node.input:
        names = [t.name for t in (*graph.initializer, *graph.input)]
        names += [name for n in graph.node for name in n.output]
        node.input[int(rng.integers(len(node.input)))] = str(rng.choice(names))
    elif kind == 3 and node.input:
        node.input[int(rng.integers(len(node.input)))] = ""
    elif kind == 4 and graph.initializer:
        break_constant(rng, graph.initializer[int(rng.integers(len(graph.initializer)))])
    elif kind == 5:
        node.op_type = str(rng.choice(OPERATORS))


def break_attribute(rng: np.random.Generator, attribute: onnx.AttributeProto) -> None:
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i = int(rng.choice(SIZES))
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = float(rng.choice(NUMBERS))
    elif attribute.ints and rng.random() < 0.3:
        del attribute.ints[-1]
    elif attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = int(rng.choice(SIZES))


def break_constant(rng: np.random.Generator, tensor: onnx.TensorProto) -> None:
    array: Array = numpy_helper.to_array(tensor).copy()
    kind = int(rng.integers(3))
    if kind == 0 and array.size:
        array.reshape(-1)[int(rng.integers(array.size))] = rng.choice((0, 3, 100))
    elif kind == 1:
        array = array.reshape(-1)[:-1]
    else:
        array = array.astype(str(rng.choice(("int8", "uint8", "int32", "int64", "float32"))))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_broken_models(spelling: str) -> None:
    outcomes = {"loaded": 0, "refused": 0}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        model, inputs = random_graph(rng, spelling, STATIC)
        for attempt in range(6):
            broken = onnx.ModelProto()
            broken.CopyFrom(model)
            break_something(rng, broken)
            if rng.random() < 0.5:
                break_something(rng, broken)
            try:
                machine_graph(broken, inputs)
                outcomes["loaded"] += 1
            except QrtError:
                outcomes["refused"] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}, attempt {attempt}") from error
    assert min(outcomes.values()) > 50, outcomes
