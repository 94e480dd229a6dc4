"""Model-local functions become their bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, helper, numpy_helper

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.verify import verify_graph
from qrt.loader import Limits, load_graph
from tests.loader.models import make_model, node


def function(
    name: str, inputs: str, outputs: str, nodes: list[onnx.NodeProto], opset: int = 17, **more: Any
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, inputs.split(), outputs.split(), nodes, opsets, **more)


def call(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    return node(op, inputs, outputs, domain="f", **attrs)


def model_with(
    functions: list[onnx.FunctionProto], nodes: list[onnx.NodeProto], **parts: Any
) -> onnx.ModelProto:
    model = make_model(nodes, domains=["f"], ir_version=10, **parts)
    model.functions.extend(functions)
    return model


def lines(model: onnx.ModelProto) -> list[str]:
    graph = load_graph(model)
    verify_graph(graph)
    return [
        f"{n.op}({', '.join('-' if v is None else v.name for v in n.inputs)})"
        f" -> {', '.join(v.name for v in n.outputs)}"
        for n in graph.nodes
    ]


TWICE = function("Twice", "a", "b", [node("Relu", "a", "t"), node("Add", "t t", "b", name="sum")])


def test_inlined_with_names_of_their_own() -> None:
    model = model_with(
        [TWICE], [call("Twice", "x", "m", name="c1"), call("Twice", "m", "y", name="c2")]
    )
    assert lines(model) == [
        "Relu(x) -> Twice.1/t",
        "Add(Twice.1/t, Twice.1/t) -> m",
        "Relu(m) -> Twice.2/t",
        "Add(Twice.2/t, Twice.2/t) -> y",
    ]
    nodes = load_graph(model).nodes
    assert [n.index for n in nodes] == [0, 0, 1, 1]
    assert [n.origin for n in nodes] == [("c1",), ("c1",), ("c2",), ("c2",)]
    assert nodes[1].name == "Twice.1/sum"


def test_a_name_that_is_taken_gets_a_number() -> None:
    model = model_with([TWICE], [call("Twice", "x", "Twice.1/t"), node("Relu", "Twice.1/t", "y")])
    assert lines(model)[0] == "Relu(x) -> Twice.1/t~2"


def test_nested_unsorted_and_of_another_opset() -> None:
    outer = function("Outer", "a", "b", [call("Twice", "m", "b"), node("Abs", "a", "m")], opset=13)
    model = model_with([outer, TWICE], [call("Outer", "x", "y")])
    assert lines(model) == [
        "Abs(x) -> Outer.1/m",
        "Relu(Outer.1/m) -> Twice.2/t",
        "Add(Twice.2/t, Twice.2/t) -> y",
    ]
    assert [n.version for n in load_graph(model).nodes] == [13, 17, 17]


def test_attributes_are_passed_defaulted_or_left_out() -> None:
    inner = node("Softmax", "a", "b")
    inner.attribute.add(name="axis", ref_attr_name="dim", type=AttributeProto.INT)
    default = helper.make_attribute("dim", 1)
    needs = function("F", "a", "b", [inner], attributes=["dim"])
    has = function("G", "a", "b", [inner], attribute_protos=[default])
    for functions, given, want in (
        ([needs], {"dim": 0}, {"axis": 0}),
        ([needs], {}, {}),
        ([has], {}, {"axis": 1}),
        ([has], {"dim": 2}, {"axis": 2}),
    ):
        graph = load_graph(model_with(functions, [call(functions[0].name, "x", "y", **given)]))
        assert graph.nodes[0].attrs == want
    with pytest.raises(ModelError, match="'axis' must be INT, the call gives FLOAT"):
        load_graph(model_with([needs], [call("F", "x", "y", dim=1.0)]))
    with pytest.raises(ModelError, match="the function has no attribute 'other'"):
        load_graph(model_with([needs], [call("F", "x", "y", other=1)]))
    with pytest.raises(ModelError, match="there is no such attribute"):
        load_graph(model_with([function("F", "a", "b", [inner])], [call("F", "x", "y")]))


def test_constants_in_functions() -> None:
    constant = node("Constant", "", "k")
    constant.attribute.add(name="value", ref_attr_name="v", type=AttributeProto.TENSOR)
    body = [constant, node("Add", "a k", "b")]
    array = np.ones(3, np.float32)
    model = model_with(
        [function("F", "a", "b", body, attributes=["v"])],
        [call("F", "x", "y", v=numpy_helper.from_array(array))],
    )
    data = load_graph(model).nodes[0].required(1).data
    assert data is not None and np.array_equal(data, array)
    only = model_with(
        [function("F", "", "b", [node("Constant", "", "b", value_int=3)])], [call("F", "", "y")]
    )
    assert load_graph(only).outputs[0].data == 3


def test_optional_inputs_and_outputs() -> None:
    clip = function("C", "a lo hi", "b", [node("Clip", "a lo hi", "b")])
    assert lines(model_with([clip], [call("C", "x", "y")])) == ["Clip(x, -, -) -> y"]
    add = function("A", "a b", "c", [node("Add", "a b", "c", name="n")])
    with pytest.raises(ModelError, match=r"Add 'n' \(#0\): must have 2 inputs, got 1"):
        load_graph(model_with([add], [call("A", "x", "y")]))
    two = function("T", "a", "b c", [node("Relu", "a", "b"), node("Abs", "a", "c")])
    assert lines(model_with([two], [call("T", "x", "- y")])) == [
        "Relu(x) -> T.1/b",
        "Abs(x) -> y",
    ]


def test_an_input_may_be_an_output() -> None:
    same = function("S", "a", "a", [])
    assert lines(model_with([same], [call("S", "x", "y")])) == ["Identity(x) -> y"]
    with pytest.raises(ModelError, match="returns input 'a', which is left out"):
        load_graph(model_with([same], [call("S", "", "y")]))


BAD = {
    "itself": (
        [function("F", "a", "b", [call("F", "a", "b")])],
        "functions call each other in a cycle: 'F' -> 'F'",
    ),
    "each other": (
        [
            function("F", "a", "b", [call("G", "a", "b")]),
            function("G", "a", "b", [call("F", "a", "b")]),
        ],
        "cycle: 'F' -> 'G' -> 'F'",
    ),
    "too many inputs": ([function("F", "", "b", [])], "the function has 0 inputs, the call 1"),
    "too many outputs": ([function("F", "a", "", [])], "the function has 0 outputs, the call 1"),
    "no result": ([function("F", "a", "b", [])], "nothing in the function gives its output 'b'"),
    "missing tensor": ([function("F", "a", "b", [node("Relu", "q", "b")])], "'q', a missing"),
    "same inputs": ([function("F", "a a", "b", [])], "one of its inputs twice"),
    "same outputs": ([function("F", "a", "b b", [])], "one of its outputs twice"),
    "defined twice": ([function("F", "a", "a", [])] * 2, "defined twice"),
    "cycle inside": (
        [function("F", "a", "b", [node("Add", "a c", "b"), node("Relu", "b", "c")])],
        "in a cycle",
    ),
    "domain": (
        [function("F", "a", "b", [node("Relu", "a", "b", domain="other")])],
        "no opset of domain 'other'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    functions, says = BAD[name]
    with pytest.raises(ModelError, match=says):
        load_graph(model_with(functions, [call("F", "x", "y", name="c")]))


def test_opset_of_a_function() -> None:
    old = function("F", "a", "b", [node("Concat", "a a", "b")], opset=3)
    (concat,) = load_graph(model_with([old], [call("F", "x", "y")])).nodes
    assert (concat.version, concat.attrs) == (7, {"axis": 1})
    newer = function("F", "a", "b", [node("Relu", "a", "b")], opset=999)
    with pytest.raises(UnsupportedError, match=r"the function: opset may be up to .*, got 999"):
        load_graph(model_with([newer], [call("F", "x", "y")]))


def test_depth_and_growth_are_bounded() -> None:
    chain = [
        function(f"F{i}", "a", "b", [call(f"F{i + 1}", "a", "t"), call(f"F{i + 1}", "t", "b")])
        for i in range(60)
    ]
    chain.append(function("F60", "a", "b", [node("Relu", "a", "b")]))
    model = model_with(chain, [call("F0", "x", "y")])
    # 2**60 nodes if nobody counted
    with pytest.raises(ModelError, match=r"may have 5000 nodes.*inside function"):
        load_graph(model, Limits(max_nodes=5000))
    with pytest.raises(ModelError, match="may be 8 deep"):
        load_graph(model, Limits(max_depth=8))


def test_functions_that_are_empty_do_not_grow_either() -> None:
    chain = [
        function(f"F{i}", "a", "", [call(f"F{i + 1}", "a", ""), call(f"F{i + 1}", "a", "")])
        for i in range(60)
    ]
    chain.append(function("F60", "a", "", []))
    model = model_with(chain, [call("F0", "x", ""), node("Relu", "x", "y")])
    with pytest.raises(ModelError, match="may have 5000 nodes"):
        load_graph(model, Limits(max_nodes=5000))
