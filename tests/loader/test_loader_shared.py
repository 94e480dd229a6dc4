"""The real networks of ../shared/models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qrt.ir.text import all_nodes, format_graph, summarize_graph
from qrt.ir.verify import verify_graph
from qrt.loader import load_graph


def test_loads(shared_model: Path) -> None:
    graph = load_graph(shared_model)
    verify_graph(graph)
    model = onnx.load(shared_model)
    constants = {t.name for t in model.graph.initializer}
    assert [v.name for v in graph.inputs] == [
        i.name for i in model.graph.input if i.name not in constants
    ]
    assert [v.name for v in graph.outputs] == [o.name for o in model.graph.output]
    assert [n.index for n in graph.nodes] == [
        i for i, n in enumerate(model.graph.node) if n.op_type != "Constant"
    ]
    tensors = {t.name: t for t in model.graph.initializer}
    for value in graph.values():
        if value.data is None:
            continue
        assert value.data.flags.c_contiguous and value.data.flags.aligned
        if value.name in tensors:
            want = numpy_helper.to_array(tensors[value.name])
            assert (value.dtype, value.shape) == (want.dtype, want.shape)
            assert value.data.tobytes() == want.tobytes()
    for node in graph.nodes:
        protos = model.graph.node[node.index].attribute
        plain = [a for a in protos if not a.HasField("t") and not a.HasField("g")]
        assert [node.attrs[a.name] for a in plain] == [
            text_of(helper.get_attribute_value(a)) for a in plain
        ]
        assert set(node.subgraphs) == {a.name for a in protos if a.HasField("g")}
    assert len(format_graph(graph).splitlines()) > len(graph.nodes)
    assert summarize_graph(graph).nodes == len(list(all_nodes(graph)))


def text_of(value: Any) -> Any:
    """onnx gives strings as bytes, and lists in a container of its own."""
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, (int, float)) else [text_of(item) for item in value]


def test_inputs_fit_what_came_with_the_model(shared_model: Path) -> None:
    graph = load_graph(shared_model)
    arrays = np.load(shared_model.with_suffix(".npz"))
    for value in graph.inputs:
        array = arrays[f"in:{value.name}"]
        assert array.dtype == value.dtype
        assert value.shape is not None and len(value.shape) == array.ndim
        for dim, length in zip(value.shape, array.shape, strict=True):
            assert not isinstance(dim, int) or dim == length


@pytest.mark.shared("ultraface*")
def test_initializers_that_are_inputs(shared_model: Path) -> None:
    graph = load_graph(shared_model)
    assert [v.name for v in graph.inputs] == ["input"]
    assert graph.overridable
