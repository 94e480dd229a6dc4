"""Nodes and subgraphs back as ONNX protos, for `onnx.reference` and ONNX's shape inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Graph, Node, Value
from qrt.ir.domains import ONNX_DOMAINS, onnx_domain

if TYPE_CHECKING:
    import onnx


def attribute_protos(node: Node, version: int) -> list[Any]:
    """The node's attributes in opset `version`; the schema says of which type, since [] and 1 do
    not."""
    from onnx import defs, helper, numpy_helper

    schema = defs.get_schema(node.op, version, onnx_domain(node))
    made = []
    for name, value in node.attrs.items():
        if name not in schema.attributes:  # a tool's private note
            continue
        if isinstance(value, np.ndarray):
            value = numpy_helper.from_array(value)
        elif isinstance(value, Graph):
            value = graph_proto(value)
        kind: Any = schema.attributes[name].type
        made.append(helper.make_attribute(name, value, attr_type=int(kind.value)))
    return made


def graph_proto(graph: Graph) -> onnx.GraphProto:
    """A subgraph that captures nothing of the graph around it."""
    from onnx import helper, numpy_helper

    nodes = []
    for node in graph.nodes:
        if node.domain not in ONNX_DOMAINS or node.captures:
            raise UnsupportedError(f"{node.where}: a subgraph with it cannot be run on the host")
        names = ["" if value is None else value.name for value in node.inputs]
        outputs = [value.name for value in node.outputs]
        made = helper.make_node(node.op, names, outputs, node.name, domain=node.domain)
        made.attribute.extend(attribute_protos(node, node.version))
        nodes.append(made)
    constants = [v for v in graph.values() if v.data is not None]
    return helper.make_graph(
        nodes,
        graph.name or "subgraph",
        [_info(value) for value in graph.inputs],
        [_info(value) for value in graph.outputs],
        [numpy_helper.from_array(np.asarray(v.data), v.name) for v in constants],
    )


def _info(value: Value) -> Any:
    from onnx import ValueInfoProto, helper

    if value.dtype is None:
        return ValueInfoProto(name=value.name)
    element = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(value.name, element, value.shape)
