"""Attributes: plain values of the right type, or an error that names node and attribute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from qrt.errors import ModelError, QrtError, UnsupportedError
from qrt.ir.verify import verify_graph
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
    "graphs": (
        {"name": "a", "type": 10, "graphs": [onnx.GraphProto()]}, UnsupportedError, "subgraphs"
    ),
    "sparse": ({"name": "a", "type": 11}, UnsupportedError, "sparse"),
    "types": ({"name": "a", "type": 14}, UnsupportedError, "lists of types"),
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


def test_subgraphs_name_what_they_capture() -> None:
    then = helper.make_graph(
        [node("Add", "x w", "s"), node("Relu", "s", "z")], "t", [], [tensor_info("z")]
    )
    inner = helper.make_graph([node("Neg", "x", "n")], "i", [], [tensor_info("n")])
    other = helper.make_graph(
        [node("If", "c", "z", then_branch=inner, else_branch=inner)], "e", [], [tensor_info("z")]
    )
    model = make_model(
        [node("If", "c", "y", name="sub", then_branch=then, else_branch=other)],
        inputs=["x", tensor_info("c", (), TensorProto.BOOL)],
        constants={"w": f32(1)},
    )
    graph = load_graph(model)
    verify_graph(graph)
    (branch,) = graph.nodes
    assert branch.inputs[0] in graph.inputs and branch.captures == 2
    assert {v.name for v in branch.inputs[1:] if v} == {"x", "c"}
    # a constant is not captured: each subgraph has it
    first = branch.attrs["then_branch"]
    assert [n.op for n in first.nodes] == ["Add", "Relu"] and first.nodes[0].inputs[1].is_constant
    (nested,) = branch.attrs["else_branch"].nodes
    assert nested.captures == 1 and set(nested.inputs) == set(branch.attrs["else_branch"].inputs)
    names = [v.name for g in (graph, first, branch.attrs["else_branch"]) for v in g.values()]
    assert len(names) == len(set(names)), "names are those of one value in the whole model"


def test_nodes_wait_for_what_their_subgraphs_capture() -> None:
    body = helper.make_graph([node("Relu", "late", "z")], "b", [], [tensor_info("z")])
    model = make_model(
        [node("If", "c", "y", then_branch=body, else_branch=body), node("Neg", "x", "late")],
        inputs=["x", tensor_info("c", (), TensorProto.BOOL)],
    )
    assert [n.op for n in load_graph(model).nodes] == ["Neg", "If"]
    model.graph.node[1].output[0] = "other"
    with pytest.raises(ModelError, match="a subgraph reads 'late', a missing tensor"):
        load_graph(model)


@pytest.mark.parametrize("depth", [5, 20])
def test_depth_of_subgraphs_is_bounded(depth: int) -> None:
    body = helper.make_graph([node("Relu", "x", "z")], "b", [], [tensor_info("z")])
    for _ in range(depth - 1):
        deeper = node("If", "c", "z", then_branch=body, else_branch=body)
        body = helper.make_graph([deeper], "b", [], [tensor_info("z")])
        if body.ByteSize() > 2**16:
            break
    model = make_model(
        [node("If", "c", "y", then_branch=body, else_branch=body)],
        inputs=["x", tensor_info("c", (), TensorProto.BOOL)],
    )
    with pytest.raises(ModelError, match=r"may be 4 deep \(max_depth\)"):
        load_graph(model, Limits(max_depth=4))
    with pytest.raises(ModelError, match="may have 3 nodes"):
        load_graph(model, Limits(max_nodes=3))
