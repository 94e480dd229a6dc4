"""Walk a model node by node."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx

from .node import Node
from .operators import OPERATORS
from .values import Array, UnsupportedError, Value, real


def evaluate(
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    intermediates: bool = False,
    outputs: Collection[str] | None = None,
) -> dict[str, Array]:
    """The graph outputs of `model` under the numeric contract, bit for bit, by name.

    Given `outputs`, those tensors instead, and only the nodes they need are evaluated. With
    `intermediates` every evaluated tensor. A float tensor between a product and its QuantizeLinear
    is shown as the float32 it would be for another consumer, which is not what the QuantizeLinear
    rounds. Raises UnsupportedError for what the contract does not cover.
    """
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    values: dict[str, Value] = {
        t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer
    }
    for graph_input in model.graph.input:
        if graph_input.name in inputs:
            values[graph_input.name] = np.asarray(inputs[graph_input.name])
        elif graph_input.name not in values:
            raise KeyError(f"input {graph_input.name} is missing")
    wanted = [o.name for o in model.graph.output] if outputs is None else list(outputs)
    for proto in _needed(model.graph.node, wanted):
        run_node(Node.from_proto(proto, opsets), values)
    if intermediates:
        wanted = list(values)
    return {name: np.asarray(real(values[name]), order="C") for name in wanted}


def run_node(node: Node, values: dict[str, Value]) -> None:
    """Evaluate `node` on the tensors in `values` and put its outputs there."""
    operator = OPERATORS.get((node.domain, node.op_type))
    if operator is None:
        raise UnsupportedError(f"operator {node.domain}:{node.op_type}")
    result = operator(node, [values[name] if name else None for name in node.inputs])
    outputs = result if isinstance(result, tuple) else (result,)
    for name, value in zip(node.outputs, outputs, strict=False):
        if name:
            values[name] = value


def _needed(nodes: Iterable[onnx.NodeProto], wanted: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes that `wanted` depend on, in their order."""
    names, needed = set(wanted), []
    for node in reversed(list(nodes)):
        if names.intersection(node.output):
            names.update(node.input)
            needed.append(node)
    return needed[::-1]
