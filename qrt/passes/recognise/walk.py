"""The walk over an ONNX graph that turns it into machine operators; see `views`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qrt.ir import Deferred, Graph, Node, QParams, Value
from qrt.ir.graph import Source
from qrt.passes.recognise.views import Blocked, Codes, Fixed, Kept, Mapped, Plain, View
from qrt.quant.affine import S8, U8, Array, flip
from qrt.quant.tables import CODES, is_identity

# a recogniser gives a view of each output, or says why the node stays what it is
Outcome = View | list[View] | str
Recogniser = Callable[["Walk", Node, "list[View | None]"], Outcome]


EDGES = ("Lookup", "Dequantize")


class Walk:
    """State of one walk: a view of every value so far, and the nodes emitted so far.

    Nodes are emitted when something needs them, after everything that they read.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.node: Node | None = None  # the ONNX node being looked at
        self.absorbed: list[Node] = []  # nodes that the one emitted next stands for too
        self._views: dict[Value, View] = {}
        self._reals: dict[View, Value] = {}
        self._quantized: dict[tuple[Any, ...], Codes] = {}
        self._lookups: dict[tuple[Value, bytes, str], Value] = {}
        self._flipped: dict[Value, Value] = {}
        self._names = {v.name for v in graph.values()}
        self._results: set[Value] = set(graph.inputs)
        # how many inputs of nodes, and outputs of the graph, each ONNX value is
        reads = (v for n in graph.nodes for v in n.inputs if v is not None)
        self.uses: Counter[Value] = Counter((*reads, *graph.outputs))
        # what products made of constants that are not dequantized: shared weights stay shared
        self.weights: dict[tuple[Value, bytes, int], Any] = {}
        # codes, scale and zero point that DynamicQuantizeLinear makes of a tensor
        self.dynamic: dict[Value, list[Value]] = {}

    # reading -------------------------------------------------------------------------------

    def view(self, value: Value) -> View:
        """What is known of an ONNX value."""
        if value not in self._views:
            self._views[value] = Plain(value)
        return self._views[value]

    def set_view(self, value: Value, view: View) -> None:
        """What `value`, an output of the node being looked at, is."""
        self._views[value] = view

    def array(self, value: Value | None) -> Array | None:
        """The elements of a constant, else None."""
        if value is None:
            return None
        view = self.view(value)
        if isinstance(view, (Fixed, Blocked, Kept)):
            return view.floats()
        return view.value.data if isinstance(view, Plain) else None

    def as_codes(self, view: View, like: Value) -> Codes | None:
        """An 8-bit tensor as codes; None when it is something else."""
        if isinstance(view, Codes):
            return view
        if not isinstance(view, Plain) or view.value.dtype not in (U8, S8):
            return None
        if view.value.dtype == U8:
            return Codes(view.value)
        if view.value not in self._flipped:
            if view.value.data is not None:
                flipped = self.constant(flip(view.value.data), like)
            else:
                # an int8 tensor is looked up by its byte: the sign bit is flipped
                flipped = self.lookup(view.value, CODES ^ np.uint8(128), like)
            self._flipped[view.value] = flipped
        return Codes(self._flipped[view.value], dtype=S8)

    def quantized(self, view: View | None, like: Value) -> tuple[Codes, QParams] | None:
        """Codes and per_tensor parameters of which `view` is the DequantizeLinear, or None."""
        if isinstance(view, Mapped):
            return view.quantized()
        return view.quantized(self, like) if isinstance(view, Fixed) else None

    # asking for tensors --------------------------------------------------------------------

    def real(self, view: View, like: Value) -> Value:
        """The ONNX tensor that `view` stands for; emitted once."""
        if view not in self._reals:
            self._reals[view] = view.real(self, like)
        return self._reals[view]

    def reals(self, node: Node, start: int = 0) -> list[Value | None]:
        """The inputs of an ONNX node as tensors, from input `start` on."""
        return [None if v is None else self.real(self.view(v), v) for v in node.inputs[start:]]

    def quantize(
        self, view: View, y: QParams, like: Value, qmin: int = 0, qmax: int = 255
    ) -> Codes:
        """The codes of `view` under `y` (per_tensor uint8); the same question is asked once."""
        key = (view, y.scale.tobytes(), int(y.zero_point), qmin, qmax)
        if key not in self._quantized:
            self._quantized[key] = view.quantize(self, y, like, qmin, qmax)
        return self._quantized[key]

    def codes(self, codes: Codes, like: Value) -> Value:
        """The uint8 tensor of `codes`."""
        if codes.table is None:
            return codes.root
        return self.lookup(codes.root, codes.table, like, codes.node)

    # emitting ------------------------------------------------------------------------------

    def lookup(self, root: Value, table: Array, like: Value, node: Node | None = None) -> Value:
        """table[root], standing for `node`; a constant when `root` is one."""
        if root.dtype == U8 and is_identity(table):
            return root
        key = (root, table.tobytes(), table.dtype.str)
        if key not in self._lookups:
            if root.data is not None:
                self._lookups[key] = self.constant(table[root.data], like)
            else:
                out = self.result(like, table.dtype)
                self._lookups[key] = self.emit("Lookup", [root], {"table": table}, out, node)
        return self._lookups[key]

    def has_lookup(self, codes: Codes) -> bool:
        """True when the tensor of `codes` exists already."""
        table = codes.table
        return table is None or (codes.root, table.tobytes(), table.dtype.str) in self._lookups

    def constant(self, data: Array, like: Value) -> Value:
        """A new constant, named after `like`."""
        data = np.ascontiguousarray(data).reshape(data.shape)
        return Value(self.fresh_name(like.name), data.dtype, data.shape, data)

    def deferred(self, source: Source, like: Value) -> Value:
        """A new constant that stays what it is made from."""
        return Deferred(self.fresh_name(like.name), source)

    def result(self, like: Value, dtype: np.dtype[Any], shape: Any = ...) -> Value:
        """A value to emit into: `like` itself where that is possible, else one named after it."""
        free = like not in self._results and not like.is_constant
        if free and like.dtype in (dtype, None) and shape in (..., like.shape):
            like.dtype = dtype
            return like
        return Value(self.fresh_name(like.name), dtype, like.shape if shape is ... else shape)

    def stand_in(self, view: View | None, like: Value) -> Value:
        """A float32 value of the walk alone, which `view` stands for: DQ(like) of a QOperator."""
        value = Value(self.fresh_name(like.name), np.dtype(np.float32), like.shape)
        if view is not None:
            self.set_view(value, view)
        return value

    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: dict[str, Any],
        out: Value,
        node: Node | None = None,
        domain: str = "qrt",
        version: int = 1,
    ) -> Value:
        """Append a node that stands for `node` (default: the one being looked at)."""
        node = node or self.node
        assert node is not None
        origin: tuple[str, ...] = (_label(node),)
        if op not in EDGES:  # those are made on the way to an operand of the node in question
            nodes = (node, *self.absorbed[::-1])
            origin = tuple({n.name or n.index: _label(n) for n in nodes}.values())
            self.absorbed = []
        self.append(
            Node(
                op,
                list(inputs),
                [out],
                attrs,
                domain,
                node.name,
                node.index,
                version,
                origin,
                onnx_op=node.onnx_op or node.op,
            )
        )
        return out

    def emit_onnx(
        self, node: Node, inputs: Sequence[Value | None], like: Sequence[Value], why: str = ""
    ) -> list[Value]:
        """Append an ONNX node as it is, reading `inputs`; its float or other ONNX outputs."""
        outs = [v if v not in self._results else self.result(v, v.dtype or U8) for v in like]
        self.append(
            Node(
                node.op,
                list(inputs),
                outs,
                dict(node.attrs),
                node.domain,
                node.name,
                node.index,
                node.version,
                (_label(node),),
                why,
                node.onnx_op,
                node.captures,
            )
        )
        return outs

    def fresh_name(self, name: str) -> str:
        """A name that no value has, made from `name`."""
        i, candidate = 1, f"{name}/q"
        while candidate in self._names:
            i, candidate = i + 1, f"{name}/q{i}"
        self._names.add(candidate)
        return candidate

    def append(self, node: Node) -> None:
        self._results.update(node.outputs)
        self.nodes.append(node)

    # the end -------------------------------------------------------------------------------

    def finish(self) -> Graph:
        """The new graph; every output of the old one is a value with the name it had."""
        graph, outputs = self.graph, []
        kept = {v for v in graph.outputs if self.real(self.view(v), v) is v}
        for value in graph.outputs:
            have = self.real(self.view(value), value)
            if have is not value:
                if value in self._results:  # it is something else here: the codes of the output
                    value.name, name = self.fresh_name(value.name), value.name
                else:
                    name = value.name
                owned = have in graph.inputs or have.is_constant or have in kept or have in outputs
                if owned:
                    like = Value(name, have.dtype, have.shape)
                    self.append(Node("Identity", [have], [like], version=13))
                    have = like
                else:
                    have.name = name
            outputs.append(have)
        return Graph(self.nodes, graph.inputs, outputs, graph.opsets, graph.name, graph.overridable)


def _label(node: Node) -> str:
    return node.name or f"{node.op}#{node.index}"
