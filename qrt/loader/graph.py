"""GraphProto to Graph: initializers, inputs, outputs; the nodes are `body`'s."""

from __future__ import annotations

import onnx
from onnx import FunctionProto, GraphProto

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.graph import Graph, Value
from qrt.loader.body import BodyEmitter, Frame, FunctionKey, overload_of
from qrt.loader.declarations import (
    read_hints,
    read_initializers,
    read_inputs,
    read_output_names,
)
from qrt.loader.limits import Limits
from qrt.loader.names import checked_name, required_name
from qrt.loader.opsets import normal_domain, read_opsets
from qrt.loader.subgraphs import Scope
from qrt.loader.tensors import TensorReader


def build_graph(model: onnx.ModelProto, tensors: TensorReader, limits: Limits) -> Graph:
    """Build the Graph of a model whose header has been checked."""
    proto = model.graph
    opsets = read_opsets(model.opset_import, "the model", limits)
    if proto.sparse_initializer:
        raise UnsupportedError("sparse initializers are not supported, only dense ones")
    constants = read_initializers(proto, tensors, limits)
    inputs, overridable = read_inputs(proto, constants, limits)
    scope: Scope = {**constants, **{value.name: value for value in inputs}}
    emitter = BodyEmitter(read_functions(model, limits), tensors, limits)
    frame = Frame(scope, {}, hints=read_hints(proto, limits))
    emitter.emit(emitter.read_body(proto.node, opsets), frame)
    outputs = read_outputs(proto, scope, limits)
    name = checked_name(proto.name, "the graph", limits)
    return Graph(frame.nodes, inputs, outputs, opsets, name, overridable)


def read_outputs(proto: GraphProto, scope: Scope, limits: Limits) -> list[Value]:
    """What a user gets: results, or inputs and constants passed through."""
    outputs: list[Value] = []
    seen: set[str] = set()
    for name in read_output_names(proto, limits):
        what = f"output '{name:.200}'"
        if name in seen:
            raise ModelError(f"{what}: is listed twice")
        seen.add(name)
        value = scope.get(name)
        if value is None:
            raise ModelError(f"{what}: a missing tensor: no node, input or initializer gives it")
        outputs.append(value)
    return outputs


def read_functions(model: onnx.ModelProto, limits: Limits) -> dict[FunctionKey, FunctionProto]:
    """Model-local functions by what a call says: domain, name, overload."""
    functions: dict[FunctionKey, FunctionProto] = {}
    for function in model.functions:
        name = required_name(function.name, "a function", limits)
        domain = normal_domain(checked_name(function.domain, f"function '{name}'", limits))
        key = (domain, name, overload_of(function))
        if key in functions:
            raise ModelError(f"function '{name}' of domain '{domain}' is defined twice")
        functions[key] = function
    return functions
