"""What a graph declares: initializers, inputs, outputs, and types of values between them."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto

from qrt.errors import ModelError
from qrt.ir.graph import Value
from qrt.loader.limits import Limits
from qrt.loader.names import required_name
from qrt.loader.tensors import TensorReader, tensor_name
from qrt.loader.types import read_hint, read_input


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


def read_formals(proto: GraphProto, limits: Limits) -> list[Value]:
    """Inputs of a subgraph, by position; most files leave their types out."""
    formals: dict[str, Value] = {}
    for info in proto.input:
        what = f"input '{info.name!s:.200}' of a subgraph"
        name = required_name(info.name, what, limits)
        if name in formals:
            raise ModelError(f"{what}: a value is defined once, but two inputs have the name")
        hint = read_hint(info, what, limits) or Value("")
        hint.name = name
        formals[name] = hint
    return list(formals.values())


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


def read_output_names(proto: GraphProto, limits: Limits) -> list[str]:
    """Names of what the graph gives; a subgraph may give one value twice."""
    return [
        required_name(info.name, f"output '{info.name!s:.200}'", limits) for info in proto.output
    ]
