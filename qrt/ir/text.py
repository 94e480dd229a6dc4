"""A Graph as text to read, and what it is made of in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.ir.graph import Deferred, Graph, Node, Shape, Value

_SHOWN = 6  # elements of a constant or list attribute that are written out


@dataclass(frozen=True)
class GraphSummary:
    """Counts of one graph; nbytes are those of the arrays in memory."""

    name: str
    opsets: dict[str, int]
    inputs: list[str]
    outputs: list[str]
    nodes: int
    ops: dict[str, int]  # operator -> nodes, most frequent first
    parameters: int  # elements of all constants
    constants: dict[str, tuple[int, int]]  # dtype -> how many constants, their nbytes

    @property
    def constants_nbytes(self) -> int:
        """Bytes of all constants."""
        return sum(nbytes for _, nbytes in self.constants.values())

    def __str__(self) -> str:
        ops = ", ".join(f"{count} {op}" for op, count in self.ops.items())
        kinds = ", ".join(f"{dtype} {nbytes:,}" for dtype, (_, nbytes) in self.constants.items())
        return "\n".join(
            (
                f"graph      {self.name or '(no name)'}",
                f"opsets     {_opsets(self.opsets)}",
                *(f"input      {line}" for line in self.inputs),
                *(f"output     {line}" for line in self.outputs),
                f"nodes      {self.nodes}: {ops or 'none'}",
                f"parameters {self.parameters:,}",
                f"constants  {self.constants_nbytes:,} bytes: {kinds or 'none'}",
            )
        )


def summarize_graph(graph: Graph) -> GraphSummary:
    """Operator counts, opsets, parameters and bytes of constants, subgraphs included."""
    nodes = list(all_nodes(graph))
    ops = Counter(op_name(node) for node in nodes)
    constants: dict[str, tuple[int, int]] = {}
    parameters = 0
    found = [value.data for value in graph.values()]
    found += [
        value.data for node in nodes for g in node.subgraphs.values() for value in g.values()
    ]
    for data in {id(data): data for data in found if data is not None}.values():
        count, nbytes = constants.get(str(data.dtype), (0, 0))
        constants[str(data.dtype)] = (count + 1, nbytes + data.nbytes)
        parameters += data.size
    return GraphSummary(
        graph.name,
        dict(graph.opsets),
        [typed_name(v) for v in graph.inputs],
        [typed_name(v) for v in graph.outputs],
        len(nodes),
        dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
        parameters,
        dict(sorted(constants.items(), key=lambda item: -item[1][1])),
    )


def all_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes, each followed by those of its subgraphs."""
    for node in graph.nodes:
        yield node
        for inner in node.subgraphs.values():
            yield from all_nodes(inner)


def format_graph(graph: Graph) -> str:
    """One line a node: operator, inputs, attributes, results with type and shape.

    Small constants are written out where they are used, others by type and shape.
    """
    lines = [f"graph '{graph.name}' ({_opsets(graph.opsets)})"]
    lines += [f"input  {typed_name(value)}" for value in graph.inputs]
    for node in graph.nodes:
        lines.append(format_node(node))
        for name, inner in node.subgraphs.items():
            lines += [f"    {name}: {line}" for line in format_graph(inner).splitlines()]
    lines += [f"output {typed_name(value)}" for value in graph.outputs]
    return "\n".join(lines) + "\n"


def format_node(node: Node) -> str:
    """#3 Conv 'conv1' (x, w: int8[8, 3, 3, 3]) {pads: [1, 1, 1, 1]} -> y: float32[1, 8, 9, 9]."""
    number = f"#{node.index} " if node.index >= 0 else ""
    label = f" '{node.name}'" if node.name else ""
    inputs = ", ".join("-" if v is None else _operand(v) for v in node.inputs)
    attrs = ", ".join(f"{name}: {_short(value)}" for name, value in sorted(node.attrs.items()))
    outputs = ", ".join(typed_name(v) for v in node.outputs)
    return (
        f"{number}{op_name(node)}{label} ({inputs}){f' {{{attrs}}}' if attrs else ''} -> {outputs}"
    )


def op_name(node: Node) -> str:
    """The operator, led by its domain unless that is ONNX's own."""
    return f"{node.domain}.{node.op}" if node.domain else node.op


def typed_name(value: Value) -> str:
    """x: uint8[batch, 3, ?, 224] @ 0 2 3 1 (the layout, when it is not row-major)."""
    if value.container:
        return f"{value.name or '-'}: {value.container}"
    layout = "" if value.layout is None else f" @ {' '.join(map(str, value.layout))}"
    return f"{value.name or '-'}: {_type(value.dtype, value.shape)}{layout}"


def _operand(value: Value) -> str:
    """A constant of few elements shows them."""
    if not value.is_constant:
        return value.name
    if isinstance(value, Deferred) or value.data is None or value.data.size > _SHOWN:
        return typed_name(value)
    return f"{value.name}={_short(value.data)}"


def _type(dtype: np.dtype[Any] | None, shape: Shape | None) -> str:
    dims = (
        "[...]" if shape is None else f"[{', '.join('?' if d is None else str(d) for d in shape)}]"
    )
    return f"{'?' if dtype is None else dtype}{dims}"


def _short(value: Any) -> str:
    """An attribute or small constant in one line."""
    if isinstance(value, np.ndarray):
        if value.size <= _SHOWN:
            return f"{_short(value.tolist())} {value.dtype}"
        return _type(value.dtype, value.shape)
    if isinstance(value, Graph):
        return f"graph '{value.name}'"
    if isinstance(value, float):
        return f"{value:.9g}"  # nine digits tell all float32 apart
    if isinstance(value, list):
        more = f", ... {len(value)} in all" if len(value) > _SHOWN else ""
        return f"[{', '.join(_short(item) for item in value[:_SHOWN])}{more}]"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _opsets(opsets: dict[str, int]) -> str:
    return ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in opsets.items())
