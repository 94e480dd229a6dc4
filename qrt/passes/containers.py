"""Which values are no tensors of numbers: sequences, optionals, strings; as far as it can be told.

ONNX's schemas say it: a result has the type of the input that shares its type variable. What stays
unknown is taken for a tensor of numbers until a run shows that it is not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, defs

from qrt.ir import Graph, Node, Value
from qrt.ir.domains import ONNX_DOMAINS
from qrt.ir.types import inner_type

STRINGS = np.dtype(object)


def infer_containers(graph: Graph) -> Graph:
    """Set `container`, or the dtype of strings, of every value that is known to be such."""
    for node in graph.nodes:
        if node.subgraphs:
            _control(node)
        elif node.domain in ONNX_DOMAINS:
            rule = RULES.get(node.op, _by_schema)
            for i, value in enumerate(node.outputs):
                if value.is_numeric and value.dtype is None:
                    _set(value, rule(node, i))
    return graph


def _set(value: Value, kind: str) -> None:
    if kind == "tensor(string)":
        value.dtype = STRINGS
    elif kind and not kind.startswith("tensor("):
        value.container = kind


def type_of(value: Value | None) -> str:
    """The type as text; empty for a tensor of numbers, and where it is not known."""
    if value is None or value.is_numeric:
        return ""
    return value.container or "tensor(string)"


def _by_schema(node: Node, i: int) -> str:
    try:
        schema = defs.get_schema(node.op, node.version, node.domain)
    except defs.SchemaError:
        return ""
    if not schema.outputs:
        return ""
    formal = schema.outputs[min(i, len(schema.outputs) - 1)]
    for j, value in enumerate(node.inputs):
        if j < len(schema.inputs) and schema.inputs[j].type_str == formal.type_str:
            return type_of(value)
    if "(" in formal.type_str:
        return str(formal.type_str)
    kinds = {kind.partition("(")[0] for kind in formal.types}
    if len(kinds) == 1 and kinds != {"tensor"}:
        return f"{kinds.pop()}(tensor())"
    return ""


def _element(node: Node, i: int) -> str:
    """What a sequence or an optional holds."""
    kind = type_of(node.input(0))
    return inner_type(kind)[1] if kind.startswith(("seq(", "optional(")) else kind


def _sequence(node: Node, i: int) -> str:
    return f"seq({type_of(node.input(0)) or 'tensor()'})"


RULES: dict[str, Callable[[Node, int], str]] = {
    "Cast": lambda n, i: "tensor(string)" if n.attrs.get("to") == TensorProto.STRING else "",
    "ConcatFromSequence": _element,
    "Optional": lambda n, i: f"optional({type_of(n.input(0)) or n.attrs.get('type', 'tensor()')})",
    "OptionalGetElement": _element,
    "SequenceAt": _element,
    "SequenceConstruct": _sequence,
    "SplitToSequence": _sequence,
}


def _control(node: Node) -> None:
    """Types go into subgraphs with what they capture and carry, and come out with their results."""
    own = node.inputs[: len(node.inputs) - node.captures]
    carried = 2 if node.op == "Loop" else len(node.inputs)
    for inner in node.subgraphs.values():
        given: list[Value | None] = [None] * (len(inner.inputs) - node.captures)
        for i in range(carried, min(len(own), len(given))):
            given[i] = own[i]
        if node.op == "SequenceMap":
            given = own[: len(given)]
        captured = node.inputs[len(own) :]
        for value, source in zip(inner.inputs, [*given, *captured], strict=False):
            if value.is_numeric:
                kind = type_of(source)
                if node.op == "SequenceMap" and source in own and kind.startswith("seq("):
                    kind = inner_type(kind)[1]
                _set(value, kind)
        infer_containers(inner)
        results = inner.outputs[1:] if node.op == "Loop" else inner.outputs
        for out, result in zip(node.outputs, results, strict=False):
            if not out.is_numeric:
                continue
            if node.op == "SequenceMap":
                out.container = f"seq({type_of(result) or 'tensor()'})"
            else:
                _set(out, type_of(result))
