"""Attributes: plain values of the right type, or an error that names node and attribute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from qrt.errors import ModelError, QrtError, UnsupportedError
from qrt.loader import Limits, load_graph
from tests.loader.models import f32, make_model, node, scalar, tensor_info


def custom(**attrs: Any) -> onnx.ModelProto:
    """One node of a domain without schemas."""
    return make_model([node("Thing", "x", "y", name="n", domain="my", **attrs)], domains=["my"])


def test_every_kind() -> None:
    array = f32(1, 2)
    attrs = load_graph(
        custom(
            i=-3, f=0.1, s="téxt", ints=[1, 2], floats=[0.5, 0.25], strings=["a", "b"],
            t=numpy_helper.from_array(array), ts=[numpy_helper.from_array(array)],
        )
    ).nodes[0].attrs  # fmt: skip
    tensors = attrs.pop("ts")
    assert np.array_equal(attrs.pop("t"), array) and np.array_equal(tensors[0], array)
    assert attrs == {
        "i": -3, "f": float(np.float32(0.1)), "s": "téxt",
        "ints": [1, 2], "floats": [0.5, 0.25], "strings": ["a", "b"],
    }  # fmt: skip
    assert {type(v) for v in attrs.values()} == {int, float, str, list}


def attribute(**fields: Any) -> onnx.ModelProto:
    """The node with one attribute, built field by field."""
    model = custom()
    model.graph.node[0].attribute.add(**fields)
    return model


def test_absent_scalars_are_zero() -> None:
    # proto3 writers leave out what is zero
    for kind, want in (("INT", 0), ("FLOAT", 0.0), ("STRING", ""), ("INTS", []), ("FLOATS", [])):
        model = attribute(name="a", type=AttributeProto.AttributeType.Value(kind))
        assert load_graph(model).nodes[0].attrs == {"a": want}


def test_types_not_written_are_inferred() -> None:
    # IR 1 had no types
    assert load_graph(attribute(name="a", ints=[1])).nodes[0].attrs == {"a": [1]}
    assert load_graph(attribute(name="a", f=1.5)).nodes[0].attrs == {"a": 1.5}


OUTSIDE = TensorProto(data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
BAD: dict[str, tuple[dict[str, Any], type[QrtError], str]] = {
    "no type": ({"name": "a"}, ModelError, "'a' must say its type"),
    "no type, two values": ({"name": "a", "i": 1, "f": 1.0}, ModelError, "must say its type"),
    "no name": ({"type": 2, "i": 1}, ModelError, "must have a name"),
    "another value": ({"name": "a", "type": 2, "f": 1.0}, ModelError, "says it is INT.*FLOAT"),
    "two values": ({"name": "a", "type": 2, "i": 1, "ints": [1]}, ModelError, "carries INTS"),
    "no tensor": ({"name": "a", "type": 4}, ModelError, "'a' must be a tensor"),
    "not text": ({"name": "a", "type": 3, "s": b"\xff"}, ModelError, "UTF-8"),
    "not texts": ({"name": "a", "type": 8, "strings": [b"a", b"\xff"]}, ModelError, "UTF-8"),
    "reference": ({"name": "a", "type": 2, "ref_attr_name": "b"}, ModelError, "refers to"),
    "bad tensor": (
        {"name": "a", "type": 4, "t": TensorProto(data_type=1, dims=[2])},
        ModelError, "needs 8 bytes",
    ),
    "external tensor": (
        {"name": "a", "type": 4, "t": OUTSIDE},
        ModelError, "another file",
    ),
    "graph": ({"name": "a", "type": 5, "g": onnx.GraphProto()}, UnsupportedError, "subgraphs"),
    "sparse": ({"name": "a", "type": 11}, UnsupportedError, "sparse"),
    "type": ({"name": "a", "type": 13}, UnsupportedError, "type attributes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    fields, error, says = BAD[name]
    with pytest.raises(error, match=says) as caught:
        load_graph(attribute(**fields))
    assert str(caught.value).startswith("Thing 'n' (#0)")
    assert type(caught.value) is error


def test_twice() -> None:
    model = attribute(name="a", type=2, i=1)
    model.graph.node[0].attribute.add(name="a", type=2, i=1)
    with pytest.raises(ModelError, match="'a' twice"):
        load_graph(model)


def test_long_lists() -> None:
    with pytest.raises(ModelError, match="may have 4 elements, got 5"):
        load_graph(custom(a=[1] * 5), Limits(max_list=4))


def test_schema_knows_names_and_types() -> None:
    for attrs, says in (
        ({"axis": 1.0}, "'axis' must be INT, got FLOAT"),
        ({"axis": [1]}, "'axis' must be INT, got INTS"),
        ({"axes": 1}, "Softmax of opset 17 has no attribute 'axes', only axis"),
    ):
        with pytest.raises(ModelError, match=says) as caught:
            load_graph(make_model([node("Softmax", "x", "y", name="s", **attrs)]))
        assert str(caught.value).startswith("Softmax 's' (#0): ")
    with pytest.raises(ModelError, match="'to' is required"):
        load_graph(make_model([node("Cast", "x", "y")]))
    with pytest.raises(ModelError, match="no attributes"):
        load_graph(make_model([node("Relu", "x", "y", axis=1)]))
    private = load_graph(make_model([node("Relu", "x", "y", __note=1)]))
    assert private.nodes[0].attrs == {"__note": 1}


CONSTANTS: dict[str, tuple[dict[str, Any], np.ndarray[Any, Any]]] = {
    "value": ({"value": numpy_helper.from_array(f32(1, 2))}, f32(1, 2)),
    "value_float": ({"value_float": 0.5}, scalar(0.5)),
    "value_floats": ({"value_floats": [1.0, 2.0]}, f32(1, 2)),
    "value_int": ({"value_int": 2**40}, scalar(2**40, np.int64)),
    "value_ints": ({"value_ints": [1, -(2**63)]}, np.array([1, -(2**63)], np.int64)),
    "value_string": ({"value_string": "a"}, np.array("a", object)),
    "value_strings": ({"value_strings": ["a", "bc"]}, np.array(["a", "bc"], object)),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant_nodes(name: str) -> None:
    attrs, want = CONSTANTS[name]
    model = make_model([node("Constant", "", "k", **attrs), node("Identity", "k", "y")])
    graph = load_graph(model)
    assert [n.op for n in graph.nodes] == ["Identity"]
    value = graph.nodes[0].required(0)
    assert value.data is not None and value.dtype == want.dtype and value.shape == want.shape
    assert value.data.tolist() == want.tolist() and not value.data.flags.writeable


def test_empty_constant_lists() -> None:
    model = make_model([node("Constant", "", "k"), node("Identity", "k", "y")])
    model.graph.node[0].attribute.add(name="value_ints", type=AttributeProto.INTS)
    data = load_graph(model).nodes[0].required(0).data
    assert data is not None and data.shape == (0,) and data.dtype == np.int64


def test_constants_refused() -> None:
    for attrs, says in (
        ({}, "got none"),
        ({"value_int": 1, "value_float": 1.0}, "got value_float and value_int"),
    ):
        with pytest.raises(ModelError, match=says):
            load_graph(make_model([node("Constant", "", "y", **attrs)]))
    with pytest.raises(ModelError, match="no attribute 'value_int'"):
        load_graph(make_model([node("Constant", "", "y", value_int=1)], opset=11))
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(f32(1)), numpy_helper.from_array(np.array([0], np.int64)), [3]
    )
    with pytest.raises(UnsupportedError, match="sparse_value"):
        load_graph(make_model([node("Constant", "", "y", sparse_value=sparse)]))


def test_a_constant_may_be_an_output() -> None:
    graph = load_graph(make_model([node("Constant", "", "y", value_int=7)]))
    assert graph.nodes == [] and graph.outputs[0].data == 7


@pytest.mark.parametrize("op", ["If", "Loop", "Scan"])
def test_subgraphs_are_refused_by_name(op: str) -> None:
    body = helper.make_graph([node("Identity", "x", "z")], "b", [], [tensor_info("z")])
    by_op: dict[str, dict[str, Any]] = {
        "If": {"then_branch": body, "else_branch": body},
        "Loop": {"body": body},
        "Scan": {"body": body, "num_scan_inputs": 1},
    }
    inputs = {"If": "c", "Loop": "- c x", "Scan": "x"}[op]
    model = make_model(
        [node(op, inputs, "y", name="sub", **by_op[op])],
        inputs=["x", tensor_info("c", (), TensorProto.BOOL)],
    )
    with pytest.raises(UnsupportedError, match=f"{op} 'sub'.*: subgraphs are not supported"):
        load_graph(model)
