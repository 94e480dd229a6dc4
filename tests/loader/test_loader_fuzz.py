"""Damaged files: the answer is a Graph or a qrt error, never another exception, never a hang."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qrt.errors import QrtError
from qrt.ir.text import format_graph, summarize_graph
from qrt.ir.verify import verify_graph
from qrt.loader import load_graph
from tests.loader.models import make_model, node, small_cnn, tensor_info

SECONDS = 5.0  # of one load; a few milliseconds are normal


def with_functions() -> onnx.ModelProto:
    """A network that calls functions and keeps a tensor in another file."""
    inner = node("Softmax", "a", "b")
    inner.attribute.add(name="axis", ref_attr_name="dim", type=onnx.AttributeProto.INT)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    first = helper.make_function("f", "F", ["a"], ["b"], [inner], opsets, ["dim"])
    second = helper.make_function(
        "f", "G", ["a"], ["c"],
        [node("F", "a", "b", domain="f", dim=1), node("Relu", "b", "c")], opsets,
    )  # fmt: skip
    model = make_model(
        [node("G", "x", "g", domain="f"), node("Add", "g w", "y")],
        domains=["f"],
        ir_version=10,
        constants={"w": np.ones((2, 3), np.float32)},
        inputs=[tensor_info("x", (2, "n")), tensor_info("w", (2, 3))],
    )
    model.functions.extend([first, second])
    tensor = model.graph.initializer.add(name="e", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return model


def outcome(data: bytes, folder: Path | None = None) -> str:
    """Load; "ok" or the name of the qrt error. Whatever loads must obey the rules of a graph."""
    begin = time.perf_counter()
    try:
        graph = load_graph(data, base_dir=folder)
    except QrtError as error:
        assert str(error)
        result = type(error).__name__
    else:
        verify_graph(graph)
        format_graph(graph)
        str(summarize_graph(graph))
        result = "ok"
    assert time.perf_counter() - begin < SECONDS
    return result


@pytest.fixture(params=["cnn", "functions"])
def model_bytes(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    (tmp_path / "w.bin").write_bytes(bytes(8))
    model = small_cnn() if request.param == "cnn" else with_functions()
    data: bytes = model.SerializeToString()
    assert outcome(data, tmp_path) == "ok"
    return data


def test_truncated_anywhere(model_bytes: bytes, tmp_path: Path) -> None:
    ends = np.unique(np.linspace(0, len(model_bytes) - 1, 200).astype(int))
    got = Counter(outcome(model_bytes[:end], tmp_path) for end in ends)
    # opset_import and the functions come last and a cut between them may leave a whole model
    assert got["ModelError"] >= 0.9 * len(ends), got


@pytest.mark.parametrize("seed", range(4))
def test_bytes_flipped(model_bytes: bytes, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(500):
        data = bytearray(model_bytes)
        for position in rng.integers(len(data), size=rng.integers(1, 5)):
            data[position] = rng.integers(256)
        try:
            outcome(bytes(data), tmp_path)
        except Exception:
            (tmp_path / "bad.onnx").write_bytes(data)
            print(f"seed {seed}: kept as {tmp_path / 'bad.onnx'}")
            raise


@pytest.mark.parametrize("seed", range(4))
def test_pieces_cut_repeated_and_swapped(model_bytes: bytes, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(200):
        a, b, c, d = np.sort(rng.integers(len(model_bytes) + 1, size=4))
        first, second = model_bytes[a:b], model_bytes[c:d]
        for middle in (first * 2 + second, second + first, second):
            outcome(model_bytes[:a] + middle + model_bytes[d:], tmp_path)


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes(data: bytes) -> None:
    assert outcome(data) != "ok"


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_fields_changed(data: st.DataObject) -> None:
    """Valid protobuf with absurd contents: the flips above seldom get this far."""
    model = small_cnn() if data.draw(st.booleans()) else with_functions()
    for _ in range(data.draw(st.integers(1, 4))):
        change_a_field(model, data)
    outcome(model.SerializeToString())


def change_a_field(message: object, data: st.DataObject) -> None:
    """Walk down to a random field that is set, and change, drop or repeat what is there."""
    fields = message.ListFields()  # type: ignore[attr-defined]
    if not fields:
        return
    field, value = data.draw(st.sampled_from(fields))
    repeated = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
    if data.draw(st.integers(0, 9)) == 0:
        message.ClearField(field.name)  # type: ignore[attr-defined]
    elif field.message_type is not None:
        if not repeated:
            change_a_field(value, data)
            return
        index = data.draw(st.integers(0, len(value) - 1))
        if data.draw(st.integers(0, 4)) == 0:
            value.append(value[index])
        else:
            change_a_field(value[index], data)
    else:
        try:
            if repeated:
                value[data.draw(st.integers(0, len(value) - 1))] = data.draw(scalars(value[0]))
            else:
                setattr(message, field.name, data.draw(scalars(value)))
        except ValueError:
            pass  # not a value of that field: an enum or a 32-bit integer


def scalars(like: object) -> st.SearchStrategy[object]:
    """Values of the type of `like`, and names that mean something in these models."""
    if isinstance(like, str):
        return st.sampled_from(["", "x", "y", "w", "s", "b", "F", "G", "../w.bin", "w.bin", "Relu"])
    if isinstance(like, bytes):
        return st.binary(max_size=8)
    if isinstance(like, float):
        return st.floats(width=32)
    edges = [-1, 0, 1, 2, 3, 7, 16, 22, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
    return st.sampled_from(edges)
