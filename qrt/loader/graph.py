"""GraphProto to Graph: initializers, inputs, outputs; the nodes are `body`'s."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import FunctionProto, GraphProto

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.graph import Graph, Value
from qrt.loader.body import BodyEmitter, Frame, FunctionKey, Scope, overload_of
from qrt.loader.limits import Limits
from qrt.loader.names import checked_name, required_name
from qrt.loader.opsets import normal_domain, read_opsets
from qrt.loader.tensors import TensorReader, tensor_name
from qrt.loader.types import read_hint, read_input, refuse_non_tensor


def build_graph(model: onnx.ModelProto, tensors: TensorReader, limits: Limits) -> Graph:
    """Build the Graph of a model whose header has been checked."""
    proto = model.graph
    opsets = read_opsets(model.opset_import, "the model", limits)
    if proto.sparse_initializer:
        raise UnsupportedError("sparse initializers are not supported, only dense ones")
    constants = read_initializers(proto, tensors, limits)
    inputs, overridable = read_inputs(proto, constants, limits)
    scope: Scope = {**constants, **{value.name: value for value in inputs}}
    emitter = BodyEmitter(read_functions(model, limits), read_hints(proto, limits), tensors, limits)
    emitter.emit(emitter.read_body(proto.node, opsets), Frame(scope, {}))
    outputs = read_outputs(proto, scope, limits)
    name = checked_name(proto.name, "the graph", limits)
    return Graph(emitter.nodes, inputs, outputs, opsets, name, overridable)


def read_initializers(proto: GraphProto, tensors: TensorReader, limits: Limits) -> dict[str, Value]:
    """Constants by name."""
    constants: dict[str, Value] = {}
    for tensor in proto.initializer:
        what = f"initializer '{tensor_name(tensor)}'"
        name = required_name(tensor.name, what, limits)
        if name in constants:
            raise ModelError(f"{what}: a value is defined once, but two initializers have the name")
        data = tensors.read(tensor, what)
        constants[name] = Value(name, data.dtype, data.shape, data)
    return constants


def read_inputs(
    proto: GraphProto, constants: Mapping[str, Value], limits: Limits
) -> tuple[list[Value], tuple[str, ...]]:
    """Inputs a user must give, and the names of constants that are listed as inputs too.

    Files of IR 3 list every initializer as an input: a constant with the right to be overridden.
    It is treated as the constant it is.
    """
    inputs: list[Value] = []
    listed: set[str] = set()
    overridable: list[str] = []
    for info in proto.input:
        what = f"input '{info.name!s:.200}'"
        name = required_name(info.name, what, limits)
        if name in listed:
            raise ModelError(f"{what}: a value is defined once, but two inputs have the name")
        listed.add(name)
        value = read_input(info, name, what, limits)
        if name in constants:
            check_override(value, constants[name], what)
            overridable.append(name)
        else:
            inputs.append(value)
    return inputs, tuple(overridable)


def check_override(declared: Value, constant: Value, what: str) -> None:
    """An initializer must have the type and shape that the input of its name declares."""
    if declared.dtype != constant.dtype:
        raise ModelError(
            f"{what}: is declared {declared.dtype}, its initializer is {constant.dtype}"
        )
    shape, given = declared.shape, constant.shape
    assert given is not None
    if shape is None:
        return
    if len(shape) != len(given) or any(
        isinstance(d, int) and d != g for d, g in zip(shape, given, strict=True)
    ):
        raise ModelError(f"{what}: is declared {list(shape)}, its initializer is {list(given)}")


def read_hints(proto: GraphProto, limits: Limits) -> dict[str, Value]:
    """Types and shapes that the file claims for intermediate values and outputs."""
    hints: dict[str, Value] = {}
    for info in (*proto.value_info, *proto.output):
        hint = read_hint(info, f"value_info '{info.name!s:.200}'", limits)
        if hint is not None:
            hints[info.name] = hint
    return hints


def read_outputs(proto: GraphProto, scope: Scope, limits: Limits) -> list[Value]:
    """What a user gets: results, or inputs and constants passed through."""
    outputs: list[Value] = []
    seen: set[str] = set()
    for info in proto.output:
        what = f"output '{info.name!s:.200}'"
        name = required_name(info.name, what, limits)
        if name in seen:
            raise ModelError(f"{what}: is listed twice")
        seen.add(name)
        refuse_non_tensor(info, what)
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
