"""AttributeProto to a plain Python value, its type proved on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.attrs import AttrValue
from qrt.loader.limits import Limits
from qrt.loader.names import checked_name, required_name
from qrt.loader.tensors import TensorReader
from qrt.loader.types import read_container

_FIELD_OF: dict[int, str] = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    AttributeProto.TYPE_PROTOS: "type_protos",
}
ATTRIBUTE_KINDS = tuple(_FIELD_OF)
_UNSUPPORTED: dict[int, str] = {
    AttributeProto.GRAPH: "subgraphs that a function takes as an attribute",
    AttributeProto.GRAPHS: "lists of subgraphs",
    AttributeProto.SPARSE_TENSOR: "sparse tensors",
    AttributeProto.SPARSE_TENSORS: "sparse tensors",
    AttributeProto.TYPE_PROTOS: "lists of types",
}


class Attribute:
    """One AttributeProto; converted when first asked, once for all nodes that share it."""

    def __init__(self, proto: AttributeProto, name: str, where: str) -> None:
        self.proto = proto
        self.name = name
        self.kind = attribute_type(proto, where)
        self._value: AttrValue | None = None

    def value(self, where: str, tensors: TensorReader, limits: Limits) -> AttrValue:
        """The plain Python value (`attribute_value`)."""
        if self._value is None:
            self._value = attribute_value(self, where, tensors, limits)
        return self._value


@dataclass(frozen=True)
class Reference:
    """Inside a function: the value is the function's own attribute `target`."""

    target: str
    kind: int


def read_attributes(
    protos: Iterable[AttributeProto], where: str, limits: Limits
) -> dict[str, Attribute | Reference]:
    """Attributes of one node by name, not yet converted."""
    found: dict[str, Attribute | Reference] = {}
    for proto in protos:
        name = required_name(proto.name, f"{where}: an attribute", limits)
        if name in found:
            raise ModelError(f"{where}: has attribute '{name}' twice")
        target = checked_name(proto.ref_attr_name, f"{where}: attribute '{name}'", limits)
        found[name] = Reference(target, proto.type) if target else Attribute(proto, name, where)
    return found


def bind_attributes(
    attributes: Mapping[str, Attribute | Reference],
    bound: Mapping[str, Attribute | None] | None,
    where: str,
) -> dict[str, Attribute]:
    """Replace references by what the function's call gives; `bound` is None outside functions.

    A reference to an attribute that the call leaves out leaves the attribute out (onnx.proto:
    AttributeProto.ref_attr_name).
    """
    found: dict[str, Attribute] = {}
    for name, attribute in attributes.items():
        if isinstance(attribute, Attribute):
            found[name] = attribute
            continue
        target = attribute.target
        if bound is None or target not in bound:
            raise ModelError(
                f"{where}: attribute '{name}' refers to attribute '{target}' of an enclosing"
                " function, there is no such attribute"
            )
        given = bound[target]
        if given is None:
            continue
        if attribute.kind not in (AttributeProto.UNDEFINED, given.kind):
            raise ModelError(
                f"{where}: attribute '{name}' must be {type_name(attribute.kind)},"
                f" the call gives {type_name(given.kind)}"
            )
        found[name] = given
    return found


def attribute_type(proto: AttributeProto, where: str) -> int:
    """The AttributeProto type, also of files from before types were written (IR 1)."""
    used = [kind for kind, field in _FIELD_OF.items() if _is_set(proto, field)]
    if proto.type == AttributeProto.UNDEFINED:
        if len(used) != 1:
            raise ModelError(f"{where}: attribute '{proto.name}' must say its type, it does not")
        return used[0]
    stray = [kind for kind in used if kind != proto.type]
    if stray:
        raise ModelError(
            f"{where}: attribute '{proto.name}' says it is {type_name(proto.type)},"
            f" but carries {type_name(stray[0])}"
        )
    return proto.type


def attribute_value(
    attribute: Attribute, where: str, tensors: TensorReader, limits: Limits
) -> AttrValue:
    """The value of one attribute; an absent scalar is 0 or "" (writers leave defaults out)."""
    proto, kind = attribute.proto, attribute.kind
    what = f"{where}: attribute '{attribute.name}'"
    if kind in _UNSUPPORTED:
        raise UnsupportedError(f"{what}: {_UNSUPPORTED[kind]} are not supported")
    field: Any = getattr(proto, _FIELD_OF[kind])
    if kind == AttributeProto.FLOAT:
        return float(field)
    if kind == AttributeProto.INT:
        return int(field)
    if kind == AttributeProto.STRING:
        return _text(field, what)
    if kind == AttributeProto.TYPE_PROTO:
        return read_container(field, what)
    if kind == AttributeProto.TENSOR:
        if not proto.HasField("t"):
            raise ModelError(f"{what} must be a tensor, it is empty")
        return tensors.read(field, what)
    if len(field) > limits.max_list:
        raise ModelError(f"{what} may have {limits.max_list} elements, got {len(field)}")
    if kind == AttributeProto.STRINGS:
        return [_text(item, what) for item in field]
    if kind == AttributeProto.TENSORS:
        return [tensors.read(item, what) for item in field]
    return list(field)


def type_name(kind: int) -> str:
    """FLOAT, INTS, ... for messages."""
    if kind in _FIELD_OF:
        return str(AttributeProto.AttributeType.Name(kind))
    return f"type {kind}"


def _is_set(proto: AttributeProto, field: str) -> bool:
    if field in ("f", "i", "s", "t", "g", "sparse_tensor", "tp"):
        return bool(proto.HasField(field))
    return len(getattr(proto, field)) > 0


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{what} must be UTF-8 text, got {data[:40]!r}") from None
