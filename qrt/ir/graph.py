"""Graph, Node, Value: the NumPy-based form of a model that every pass rewrites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Dim = int | str | None
Shape = tuple[Dim, ...]


@dataclass(eq=False)
class Value:
    """One tensor: produced by a node, a graph input, or a constant (`data`).

    `shape` is the logical ONNX shape (None: rank unknown; a str or None dim is not known yet).
    `layout` is the physical order of the logical axes in memory, outermost first; None means
    row-major. Only machine operators look at it. `container` is ONNX's type of a value that is no
    tensor, in ONNX Runtime's spelling ("seq(tensor(float))"); dtype and shape are None then.
    """

    name: str
    dtype: np.dtype[Any] | None = None
    shape: Shape | None = None
    data: np.ndarray[Any, Any] | None = None
    layout: tuple[int, ...] | None = None
    container: str = ""
    # the shape that `static_shape` has looked at: it is asked for a thousand times per program
    _static: tuple[int, ...] | None = field(default=None, init=False, repr=False)

    @property
    def is_numeric(self) -> bool:
        """False when it is known to be no tensor of numbers: a sequence, an optional, strings."""
        return not self.container and not (self.dtype is not None and self.dtype.hasobject)

    @property
    def is_constant(self) -> bool:
        """True when the elements are known before the first run."""
        return self.data is not None

    @property
    def identity(self) -> int:
        """Of a constant's elements, which copies of the graph share."""
        return id(self.data)

    def twin(self) -> Value:
        """Another value with all that this one has."""
        return Value(self.name, self.dtype, self.shape, self.data, self.layout, self.container)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as integers; only after shapes are bound."""
        static = self._static
        if static is None or static is not self.shape:
            assert self.shape is not None and all(isinstance(d, int) for d in self.shape), self
            static = tuple(int(d) for d in self.shape)  # type: ignore[arg-type]
            self._static = self.shape = static
        return static

    @property
    def physical_shape(self) -> tuple[int, ...]:
        """Shape in the order of memory, outermost first."""
        shape = self.static_shape
        return shape if self.layout is None else tuple(shape[a] for a in self.layout)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, only after shapes are bound."""
        assert self.dtype is not None
        return int(np.prod(self.static_shape, dtype=np.int64)) * self.dtype.itemsize

    def __repr__(self) -> str:
        kind = "const " if self.is_constant else ""
        shape = "?" if self.shape is None else list(self.shape)
        return f"<{kind}{self.name}: {self.dtype}{shape}>"


class Source(Protocol):
    """What the elements of a constant are made from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the elements."""
        ...

    def floats(self) -> np.ndarray[Any, Any]:
        """The elements, float32."""
        ...


class Deferred(Value):
    """A float32 constant that stays what it is made from, until somebody asks for `data`."""

    def __init__(self, name: str, source: Source, layout: tuple[int, ...] | None = None) -> None:
        self.source = source
        super().__init__(name, np.dtype(np.float32), source.shape, None, layout)

    @property  # type: ignore[override]
    def data(self) -> np.ndarray[Any, Any]:
        """The elements."""
        return self.source.floats()

    @data.setter
    def data(self, elements: np.ndarray[Any, Any] | None) -> None:
        assert elements is None, f"{self.name} has a source"

    @property
    def is_constant(self) -> bool:
        """Known before the first run, whether made already or not."""
        return True

    @property
    def identity(self) -> int:
        """That of the source."""
        return id(self.source)

    def twin(self) -> Deferred:
        """Another value with the same source."""
        return Deferred(self.name, self.source, self.layout)


@dataclass(eq=False)
class Node:
    """One operator. `inputs` holds None for an omitted optional input.

    `domain` is "" for ONNX, "com.microsoft", or "qrt" for machine operators; `index` is the
    position in the ONNX file that messages show (fused nodes keep the index of their root).

    An attribute may be a Graph (If, Loop, Scan, SequenceMap). What its nodes read of the graph
    around it are the last `captures` inputs of this node, and as many last inputs of that Graph, in
    the same order.
    """

    op: str
    inputs: list[Value | None]
    outputs: list[Value]
    attrs: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    name: str = ""
    index: int = -1
    version: int = 0
    # names of the ONNX nodes that this node stands for; `explain` shows them
    origin: tuple[str, ...] = ()
    # why it has no integer form, where a quantized model might be expected to have one
    why: str = ""
    # the ONNX operator that a machine node stands for; messages name it
    onnx_op: str = ""
    captures: int = 0

    @property
    def subgraphs(self) -> dict[str, Graph]:
        """The attributes that are graphs, by name."""
        return {name: value for name, value in self.attrs.items() if isinstance(value, Graph)}

    @property
    def where(self) -> str:
        """How messages name this node: QLinearConv 'conv1' (#12)."""
        label = f" '{self.name}'" if self.name else ""
        number = f" (#{self.index})" if self.index >= 0 else ""
        return f"{self.onnx_op or self.op}{label}{number}"

    def input(self, i: int) -> Value | None:
        """Input `i`, or None when it is omitted or beyond the list."""
        return self.inputs[i] if i < len(self.inputs) else None

    def required(self, i: int) -> Value:
        """Input `i`, which the loader has proved to be there."""
        value = self.inputs[i]
        assert value is not None, f"{self.where}: input {i} is missing"
        return value

    def __repr__(self) -> str:
        ins = ", ".join(v.name if v else "-" for v in self.inputs)
        return f"{self.where}({ins}) -> {', '.join(v.name for v in self.outputs)}"


@dataclass(eq=False)
class Graph:
    """Nodes in topological order, with the inputs and outputs a user sees."""

    nodes: list[Node]
    inputs: list[Value]
    outputs: list[Value]
    opsets: dict[str, int] = field(default_factory=dict)
    name: str = ""
    # constants that the file lists as inputs too (IR 3), by name
    overridable: tuple[str, ...] = ()

    def producers(self) -> dict[Value, Node]:
        """The node that computes each value."""
        return {out: node for node in self.nodes for out in node.outputs}

    def consumers(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, once per use, in order."""
        uses: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    uses.setdefault(value, []).append(node)
        return uses

    def values(self) -> Iterator[Value]:
        """Every value once: inputs, constants and results."""
        seen: set[int] = set()
        for value in (
            *self.inputs,
            *(v for n in self.nodes for v in (*n.inputs, *n.outputs) if v is not None),
            *self.outputs,
        ):
            if id(value) not in seen:
                seen.add(id(value))
                yield value

    def copy(self) -> Graph:
        """A graph with nodes and values of its own; constant arrays are shared."""
        twin: dict[int, Value] = {}

        def twin_of(v: Value) -> Value:
            if id(v) not in twin:
                twin[id(v)] = v.twin()
            return twin[id(v)]

        def own(attr: Any) -> Any:
            return attr.copy() if isinstance(attr, Graph) else attr

        inputs = [twin_of(v) for v in self.inputs]
        nodes = [
            Node(
                n.op,
                [None if v is None else twin_of(v) for v in n.inputs],
                [twin_of(v) for v in n.outputs],
                {name: own(attr) for name, attr in n.attrs.items()},
                n.domain,
                n.name,
                n.index,
                n.version,
                n.origin,
                n.why,
                n.onnx_op,
                n.captures,
            )
            for n in self.nodes
        ]
        outputs = [twin_of(v) for v in self.outputs]
        return Graph(nodes, inputs, outputs, dict(self.opsets), self.name, self.overridable)
