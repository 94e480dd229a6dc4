"""Names, order, inputs, outputs, opsets and signatures."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.verify import verify_graph
from qrt.loader import Limits, load_graph
from tests.loader.models import f32, make_model, node, small_cnn, tensor_info


def test_values_nodes_and_hints() -> None:
    graph = load_graph(small_cnn())
    verify_graph(graph)
    assert [v.name for v in graph.inputs] == ["x"]
    assert graph.inputs[0].shape == ("batch", 3, 5, 5)
    assert graph.inputs[0].dtype == np.float32
    assert graph.outputs[0].shape == ("batch", 4)
    by_op = {n.op: n for n in graph.nodes}
    add = by_op["QLinearAdd"]
    assert (add.domain, add.version, add.index) == ("com.microsoft", 1, 2)
    assert add.where == "QLinearAdd 'add' (#2)" and add.origin == ("add",)
    conv = by_op["QLinearConv"]
    assert conv.version == 17 and conv.attrs == {"pads": [1, 1, 1, 1]}
    assert conv.required(1) is conv.required(6), "one Value for one name"
    assert by_op["DequantizeLinear"].index == 5, "the index counts Constant nodes too"
    assert by_op["DequantizeLinear"].outputs[0].shape == ("batch", 4, 5, 5), "value_info"
    assert conv.outputs[0].shape is None and conv.outputs[0].dtype is None
    assert graph.opsets == {"": 17, "com.microsoft": 1}


def test_dims() -> None:
    info = tensor_info("x", (0, "n", None, 4))
    info.type.tensor_type.shape.dim.add(dim_param="")
    graph = load_graph(make_model([node("Relu", "x", "y")], inputs=[info]))
    assert graph.inputs[0].shape == (0, "n", None, 4, None)
    graph = load_graph(make_model([node("Relu", "x", "y")], inputs=[tensor_info("x", None)]))
    assert graph.inputs[0].shape is None
    with pytest.raises(ModelError, match="input 'x': dimensions must not be negative, got -1"):
        load_graph(make_model([node("Relu", "x", "y")], inputs=[tensor_info("x", (-1, 3))]))
    with pytest.raises(ModelError, match="32 dimensions, got 33"):
        load_graph(make_model([node("Relu", "x", "y")], inputs=[tensor_info("x", (1,) * 33)]))


def test_left_out_inputs_and_outputs() -> None:
    lstm = node("LSTM", "x w r - - h", "- last -", hidden_size=2)
    graph = load_graph(make_model([lstm], inputs=["x", "w", "r", "h"], outputs=["last"]))
    made = graph.nodes[0]
    assert [v and v.name for v in made.inputs] == ["x", "w", "r", None, None, "h"]
    assert [v.name for v in made.outputs] == ["", "last"]
    verify_graph(graph)


def test_unsorted_nodes_are_sorted() -> None:
    nodes = [node("Relu", "b", "y"), node("Relu", "a", "b"), node("Relu", "x", "a")]
    graph = load_graph(make_model(nodes))
    assert [n.index for n in graph.nodes] == [2, 1, 0]
    verify_graph(graph)


def test_sorted_nodes_stay() -> None:
    nodes = [node("Relu", "x", "a"), node("Relu", "x", "b"), node("Add", "b a", "y")]
    assert [n.index for n in load_graph(make_model(nodes)).nodes] == [0, 1, 2]


def test_cycles() -> None:
    nodes = [
        node("Relu", "x", "a", name="first"),
        node("Add", "a c", "b", name="one"),
        node("Relu", "b", "c", name="two"),
        node("Relu", "c", "y", name="after"),
    ]
    with pytest.raises(ModelError, match="cycle") as caught:
        load_graph(make_model(nodes))
    text = str(caught.value)
    assert "'one' (#1)" in text and "'two' (#2)" in text
    assert "first" not in text and "after" not in text
    with pytest.raises(ModelError, match=r"cycle: Add 's' \(#0\) -> Add 's' \(#0\)"):
        load_graph(make_model([node("Add", "x y", "y", name="s")]))


def test_a_long_cycle_is_named_shortly() -> None:
    count = 20_000
    nodes = [node("Relu", f"v{i}", f"v{(i + 1) % count}") for i in range(count)]
    with pytest.raises(ModelError, match=r"\(20000 nodes in all\)") as caught:
        load_graph(make_model(nodes, outputs=["v0"]))
    assert len(str(caught.value)) < 500


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing tensor": (
        {"nodes": [node("Add", "x w", "y", name="a")]},
        r"Add 'a' \(#0\): input 1 is 'w', a missing tensor",
    ),
    "written twice": (
        {"nodes": [node("Relu", "x", "y", name="a"), node("Relu", "x", "y", name="b")]},
        r"Relu 'b' \(#1\): a value is produced once, but 'y' comes from Relu 'a' \(#0\) too",
    ),
    "twice by one node": (
        {"nodes": [node("Dropout", "x", "y y")]}, "a value is produced once",
    ),
    "writes an input": (
        {"nodes": [node("Relu", "x", "x")], "outputs": ["x"]}, "'x' is an input or initializer",
    ),
    "writes a constant": (
        {"nodes": [node("Relu", "x", "w")], "outputs": ["w"], "constants": {"w": f32(1)}},
        "'w' is an input or initializer",
    ),
    "two inputs": ({"nodes": [node("Relu", "x", "y")], "inputs": ["x", "x"]}, "two inputs"),
    "two outputs": ({"nodes": [node("Relu", "x", "y")], "outputs": ["y", "y"]}, "listed twice"),
    "missing output": (
        {"nodes": [node("Relu", "x", "z")]}, "output 'y': a missing tensor",
    ),
    "no inputs": ({"nodes": [node("Relu", "", "y")]}, "must have 1 inputs, got 0"),
    "empty input": ({"nodes": [node("Relu", "-", "y")]}, "must have 1 inputs, got 0"),
    "too many inputs": ({"nodes": [node("Relu", "x x", "y")]}, "must have 1 inputs, got 2"),
    "too many outputs": ({"nodes": [node("Relu", "x", "y z")]}, "must have 1 outputs, got 2"),
    "no outputs": (
        {"nodes": [node("Relu", "x", ""), node("Relu", "x", "y")]}, "1 outputs, got 0",
    ),
    "range of inputs": ({"nodes": [node("Conv", "x", "y")]}, "must have 2 to 3 inputs, got 1"),
    "open range": ({"nodes": [node("Concat", "", "y", axis=0)]}, "must have 1 or more inputs"),
    "required input left out": (
        {"nodes": [node("Conv", "- x", "y", name="c")]}, r"Conv 'c' \(#0\): input 0 \(X\) is requ",
    ),
    "hole in a list": (
        {"nodes": [node("Concat", "x - x", "y", axis=0)]}, r"input 1 \(inputs\) is required",
    ),
    "domain not imported": (
        {"nodes": [node("QGemm", "x", "y", domain="com.microsoft")]},
        "no opset of domain 'com.microsoft' is imported, only of 'ai.onnx'",
    ),
    "input without a name": ({"nodes": [node("Relu", "x", "y")], "inputs": [""]}, "have a name"),
    "operator without a name": ({"nodes": [node("", "x", "y")]}, "an operator: must have a name"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    parts, says = BAD[name]
    with pytest.raises(ModelError, match=says):
        load_graph(make_model(**parts))


def test_initializers() -> None:
    model = make_model([node("Add", "x w", "y")], constants={"w": f32(1, 2, 3)})
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
    with pytest.raises(ModelError, match=r"initializer 'w'.*two"):
        load_graph(model)
    model = make_model([node("Add", "x w", "y")], constants={"w": f32(1)})
    model.graph.initializer[0].name = ""
    with pytest.raises(ModelError, match="must have a name"):
        load_graph(model)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(f32(1), "s"), numpy_helper.from_array(np.array([0], np.int64)), [3]
    )
    with pytest.raises(UnsupportedError, match="sparse initializers"):
        load_graph(make_model([node("Relu", "x", "y")], sparse_initializer=[sparse]))


def test_initializers_listed_as_inputs_are_constants() -> None:
    model = make_model(
        [node("Add", "x w", "y")],
        inputs=["w", "x"],
        constants={"w": np.ones((2, 3), np.float32)},
        ir_version=3,
    )
    graph = load_graph(model)
    assert [v.name for v in graph.inputs] == ["x"]
    assert graph.overridable == ("w",) and graph.copy().overridable == ("w",)
    assert graph.nodes[0].required(1).is_constant
    for info, says in (
        (tensor_info("w", (2, 3), TensorProto.DOUBLE), "declared float64, its .* float32"),
        (tensor_info("w", (2, 4)), r"declared \[2, 4\], its initializer is \[2, 3\]"),
        (tensor_info("w", (2, 3, 1)), "declared"),
    ):
        model.graph.input[0].CopyFrom(info)
        with pytest.raises(ModelError, match=says):
            load_graph(model)
    model.graph.input[0].CopyFrom(tensor_info("w", ("n", 3)))
    load_graph(model)


def test_inputs_and_constants_may_be_outputs() -> None:
    graph = load_graph(make_model([], outputs=["x", "w"], constants={"w": f32(1)}))
    assert graph.outputs[0] is graph.inputs[0] and graph.outputs[1].is_constant
    verify_graph(graph)


def test_inputs_must_be_tensors_sequences_or_optionals() -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    graph = load_graph(make_model([node("Identity", "x", "y")], inputs=[sequence]))
    assert graph.inputs[0].container == "seq(tensor(float))" and graph.inputs[0].dtype is None
    wrapped = helper.make_value_info("x", helper.make_optional_type_proto(sequence.type))
    graph = load_graph(make_model([node("Identity", "x", "y")], inputs=[wrapped]))
    assert graph.inputs[0].container == "optional(seq(tensor(float)))"
    element = helper.make_tensor_type_proto(TensorProto.INT64, None)
    table = helper.make_value_info("x", helper.make_map_type_proto(TensorProto.INT64, element))
    with pytest.raises(UnsupportedError, match=r"input 'x': must be a tensor, .* got map"):
        load_graph(make_model([node("Identity", "x", "y")], inputs=[table]))
    with pytest.raises(ModelError, match="input 'x': must say its type"):
        load_graph(make_model([node("Relu", "x", "y")], inputs=[onnx.ValueInfoProto(name="x")]))
    for kind in (0, 77):
        with pytest.raises(ModelError, match=f"unknown element type {kind}"):
            load_graph(make_model([node("Relu", "x", "y")], inputs=[tensor_info("x", (1,), kind)]))
    untyped = make_model([node("Relu", "x", "y")], outputs=[onnx.ValueInfoProto(name="y")])
    assert load_graph(untyped).outputs[0].dtype is None


def test_opsets() -> None:
    newest = onnx.defs.onnx_opset_version()
    for version in range(1, newest + 1):
        graph = load_graph(make_model([node("Relu", "x", "y")], opset=version))
        assert graph.nodes[0].version == max(version, 7)
    for version, error, says in (
        (0, ModelError, "1 or more, got 0"),
        (-3, ModelError, "1 or more, got -3"),
        (newest + 1, UnsupportedError, f"up to {newest}.*newer onnx"),
    ):
        with pytest.raises(error, match=says):
            load_graph(make_model([node("Relu", "x", "y")], opset=version))
    model = make_model([node("Relu", "x", "y", domain="ai.onnx")])
    model.opset_import[0].domain = "ai.onnx"
    assert load_graph(model).nodes[0].domain == ""
    model.opset_import.add(domain="", version=16)
    with pytest.raises(ModelError, match=r"imports opset 17 and 16 of 'ai\.onnx'"):
        load_graph(model)


def test_operators_by_opset() -> None:
    for op, opset, says in (
        ("Nonsense", 17, "Nonsense 'n' .*: 'Nonsense' is not an ONNX operator of opset 17"),
        ("Gelu", 17, "'Gelu' is not an ONNX operator of opset 17, it came later"),
        ("Upsample", 11, "Upsample is deprecated since opset 10"),
    ):
        with pytest.raises(UnsupportedError, match=says):
            load_graph(make_model([node(op, "x", "y", name="n")], opset=opset))
    legacy = node("Upsample", "x s", "y", mode="nearest")
    model = make_model([legacy], constants={"s": f32(1, 2)}, opset=9)
    assert load_graph(model).nodes[0].op == "Upsample"
    other = make_model([node("Nonsense", "x", "y", domain="my", a=1)], domains=["my"])
    assert load_graph(other).nodes[0].domain == "my", "refused later, by name"


def test_limits() -> None:
    nodes = [node("Relu", "x", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]
    load_graph(make_model(nodes), Limits(max_nodes=3, max_operands=6))
    with pytest.raises(ModelError, match="may have 2 nodes"):
        load_graph(make_model(nodes), Limits(max_nodes=2))
    with pytest.raises(ModelError, match="may have 5 inputs and outputs"):
        load_graph(make_model(nodes), Limits(max_operands=5))


def test_many_nodes_take_linear_time() -> None:
    count = 20_000
    chain = [node("Relu", f"v{i}", f"v{i + 1}") for i in range(count)]
    graph = load_graph(make_model(chain[::-1], inputs=["v0"], outputs=[f"v{count}"]))
    assert len(graph.nodes) == count
