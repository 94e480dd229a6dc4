"""Nodes of a graph, and of the functions it calls, to Graph nodes in topological order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.attrs import AttrValue
from qrt.ir.domains import ONNX_DOMAINS
from qrt.ir.graph import Graph, Node, Value
from qrt.loader.attributes import Attribute, Reference, bind_attributes, read_attributes
from qrt.loader.constants import constant_data, refuse_sparse
from qrt.loader.declarations import (
    read_formals,
    read_hints,
    read_initializers,
    read_output_names,
)
from qrt.loader.limits import Limits
from qrt.loader.names import checked_name, required_name
from qrt.loader.old_opsets import BASE, modern
from qrt.loader.opsets import normal_domain, read_opsets, version_of
from qrt.loader.order import order_nodes
from qrt.loader.runtime_names import meant
from qrt.loader.schema import check_signature
from qrt.loader.subgraphs import Captures, Declared, InnerScope, Scope
from qrt.loader.tensors import TensorReader

_SHOWN = 64  # characters of a function's and of its inner names that inlined names keep

FunctionKey = tuple[str, str, str]  # domain, name, overload


@dataclass
class Body:
    """The nodes of one graph or function: read once, used by every call.

    `subgraphs` are each node's, by attribute.
    """

    protos: list[NodeProto]
    attributes: list[dict[str, Attribute | Reference]]
    subgraphs: list[dict[str, Subgraph]]
    opsets: Mapping[str, int]

    def captured(self, i: int) -> set[str]:
        """Names that the subgraphs of node `i` read of this graph, or of those around it."""
        return {name for sub in self.subgraphs[i].values() for name in sub.declared.free}


@dataclass
class Subgraph:
    """What a subgraph declares, and its nodes."""

    declared: Declared
    body: Body


@dataclass
class Frame:
    """One walk through a body.

    `scope` grows with every node, and so does `nodes`; `results` are values of the caller that the
    body has to fill; `hints` are claimed types; `bound` are the function's attributes. `index` is
    the top-level node (-1: this is the top), `depth` how many functions and subgraphs are around.
    """

    scope: Scope
    results: Mapping[str, Value]
    nodes: list[Node] = field(default_factory=list)
    hints: Mapping[str, Value] = field(default_factory=dict)
    bound: Mapping[str, Attribute | None] | None = None
    calls: tuple[FunctionKey, ...] = ()
    prefix: str = ""
    index: int = -1
    origin: tuple[str, ...] = ()
    depth: int = 0


class BodyEmitter:
    """Turns bodies into nodes, calls of model-local functions replaced by their bodies."""

    def __init__(
        self,
        functions: Mapping[FunctionKey, FunctionProto],
        tensors: TensorReader,
        limits: Limits,
    ) -> None:
        self._functions = functions
        self._bodies: dict[FunctionKey, Body] = {}
        self._tensors = tensors
        self._limits = limits
        self._names: set[str] = set()
        self._visited = 0
        self._operands = 0
        self._inlined = 0

    def read_body(
        self, nodes: Sequence[NodeProto], opsets: Mapping[str, int], depth: int = 0
    ) -> Body:
        """Check the names of `nodes`, sort their attributes, read their subgraphs."""
        protos = list(nodes)
        for i, proto in enumerate(protos):
            where = _where(proto, i)
            for name in (proto.domain, proto.name, *proto.input, *proto.output):
                checked_name(name, where, self._limits)
            required_name(proto.op_type, f"{where}: an operator", self._limits)
        attributes = [
            read_attributes(proto.attribute, _where(proto, i), self._limits)
            for i, proto in enumerate(protos)
        ]
        subgraphs = [
            {
                name: self._read_subgraph(attribute.proto.g, opsets, _where(protos[i], i), depth)
                for name, attribute in found.items()
                if isinstance(attribute, Attribute) and attribute.kind == AttributeProto.GRAPH
            }
            for i, found in enumerate(attributes)
        ]
        return Body(protos, attributes, subgraphs, opsets)

    def emit(self, body: Body, frame: Frame) -> None:
        """Append the nodes of `body`."""
        self._count(body, frame)
        top = frame.index < 0
        if top:
            self._names.update(frame.scope)
            self._names.update(name for proto in body.protos for name in proto.output)

        def label(i: int) -> str:
            return _where(body.protos[i], i if top else frame.index)

        local, outer = frame.scope, {}
        if isinstance(frame.scope, InnerScope):
            local, outer = dict(frame.scope), frame.scope.outer
        captured = [body.captured(i) for i in range(len(body.protos))]
        for i in order_nodes(body.protos, local, label, captured, outer):
            proto = body.protos[i]
            where = label(i)
            attributes = bind_attributes(body.attributes[i], frame.bound, where)
            inputs = [frame.scope[name] if name else None for name in proto.input]
            outputs = [self._output(name, frame) for name in proto.output]
            while outputs and not outputs[-1].name:
                outputs.pop()  # trailing outputs left out are as good as never listed
            domain = normal_domain(proto.domain)
            key = (domain, proto.op_type, overload_of(proto))
            index = i if top else frame.index
            name = f"{frame.prefix}{proto.name}" if proto.name else ""
            origin = ((proto.name,) if proto.name else ()) if top else frame.origin
            if key in self._functions:
                self._call(key, inputs, outputs, attributes, where, frame, index, origin)
            else:
                version = version_of(domain, body.opsets, where)
                domain, version = meant(proto.op_type, domain, version)
                node = Node(
                    proto.op_type, inputs, outputs, {}, domain, name, index, version, origin
                )
                self._node(node, attributes, where, frame, body.subgraphs[i])
            frame.scope.update((v, o) for v, o in zip(proto.output, outputs, strict=False) if v)

    def _count(self, body: Body, frame: Frame) -> None:
        """Bound the work: functions that call functions can grow exponentially."""
        self._visited += len(body.protos)
        self._operands += sum(len(p.input) + len(p.output) for p in body.protos)
        for count, most, what in (
            (self._visited, self._limits.max_nodes, "nodes"),
            (self._operands, self._limits.max_operands, "inputs and outputs of nodes"),
        ):
            if count > most:
                inside = f", inside function '{frame.calls[-1][1]}'" if frame.calls else ""
                raise ModelError(
                    f"a model may have {most} {what} (functions inlined), got more{inside}"
                )

    def _output(self, name: str, frame: Frame) -> Value:
        """The value that a node writes as `name`; one without a name when nobody reads it."""
        if not name:
            return Value("")
        if name in frame.results:
            return frame.results[name]
        hint = frame.hints.get(name) or Value("")
        if frame.index >= 0:
            name = self._fresh(f"{frame.prefix}{name[:_SHOWN]}")
        return Value(name, hint.dtype, hint.shape, container=hint.container)

    def _fresh(self, name: str) -> str:
        """`name`, or with a number when it is taken."""
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}~{number}"
        self._names.add(unique)
        return unique

    def _node(
        self,
        node: Node,
        attributes: Mapping[str, Attribute],
        where: str,
        frame: Frame,
        subgraphs: Mapping[str, Subgraph],
    ) -> None:
        """Append one node, or fill its output when it is a Constant."""
        if node.domain in ONNX_DOMAINS:
            check_signature(
                node.op,
                node.domain,
                node.version,
                [v is not None for v in node.inputs],
                [bool(v.name) for v in node.outputs],
                attributes,
                where,
            )
        if (node.op, node.domain) == ("Constant", ""):
            refuse_sparse(attributes, where)
        attrs: dict[str, AttrValue] = {
            name: attribute.value(where, self._tensors, self._limits)
            for name, attribute in attributes.items()
            if name not in subgraphs
        }
        if (node.op, node.domain) == ("Constant", ""):
            data = constant_data(attrs, where)
            out = node.outputs[0]
            out.data, out.dtype, out.shape = data, data.dtype, data.shape
            return
        node.attrs = dict(attrs)
        captures = Captures(self._fresh)
        graphs = {}
        for name, subgraph in subgraphs.items():
            graphs[name] = self._emit_subgraph(subgraph, captures, frame, node, where)
        captures.attach(node, graphs)
        if node.domain == "" and node.version < BASE:
            frame.nodes.extend(modern(node, self._fresh))
        else:
            frame.nodes.append(node)

    def _read_subgraph(
        self, proto: GraphProto, opsets: Mapping[str, int], where: str, depth: int
    ) -> Subgraph:
        """Everything of a subgraph that does not depend on where it is emitted."""
        self._check_depth(depth + 1, where)
        if proto.sparse_initializer:
            raise UnsupportedError(f"{where}: sparse initializers are not supported")
        limits = self._limits
        formals = read_formals(proto, limits)
        constants = read_initializers(proto, self._tensors, limits)
        outputs = read_output_names(proto, limits)
        body = self.read_body(proto.node, opsets, depth + 1)
        own = {value.name for value in formals} | set(constants)
        own |= {name for node in body.protos for name in node.output}
        read = {name for node in body.protos for name in node.input if name} | set(outputs)
        read |= {name for i in range(len(body.protos)) for name in body.captured(i)}
        name = checked_name(proto.name, f"{where}: a subgraph", limits)
        hints = read_hints(proto, limits)
        return Subgraph(
            Declared(name, formals, constants, hints, outputs, frozenset(read - own)), body
        )

    def _emit_subgraph(
        self, subgraph: Subgraph, captures: Captures, frame: Frame, node: Node, where: str
    ) -> Graph:
        """A Graph with values of its own; what it reads of `frame` goes to `captures`."""
        self._check_depth(frame.depth + 1, where)
        declared = subgraph.declared
        scope = captures.scope(frame.scope)
        inputs = []
        for formal in declared.formals:
            value = Value(
                self._fresh(formal.name), formal.dtype, formal.shape, container=formal.container
            )
            scope[formal.name] = value
            inputs.append(value)
        for name, constant in declared.constants.items():
            if scope.local(name):
                continue  # an input with a default, which these operators always give
            scope[name] = Value(self._fresh(name), constant.dtype, constant.shape, constant.data)
        inner = Frame(
            scope, {}, hints=declared.hints, bound=frame.bound, calls=frame.calls,
            prefix=frame.prefix, index=node.index, origin=node.origin, depth=frame.depth + 1,
        )  # fmt: skip
        self.emit(subgraph.body, inner)
        outputs: list[Value] = []
        for name in declared.outputs:
            if name not in scope:
                raise ModelError(
                    f"{where}: output '{name}' of a subgraph is a missing tensor:"
                    " no node, input or initializer gives it"
                )
            given = scope[name]
            if given is None:
                raise ModelError(f"{where}: a subgraph returns input '{name}', which is left out")
            outputs.append(given)
        return Graph(inner.nodes, inputs, outputs, dict(subgraph.body.opsets), declared.name)

    def _check_depth(self, depth: int, where: str) -> None:
        if depth > self._limits.max_depth:
            raise ModelError(
                f"{where}: functions and subgraphs may be {self._limits.max_depth} deep"
                " (max_depth)"
            )

    def _call(
        self,
        key: FunctionKey,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value],
        attributes: Mapping[str, Attribute],
        where: str,
        frame: Frame,
        index: int,
        origin: tuple[str, ...],
    ) -> None:
        """Append the body of the function `key` in place of a call."""
        if key in frame.calls:
            loop = [*frame.calls[frame.calls.index(key) :], key]
            names = " -> ".join(f"'{name}'" for _, name, _ in loop)
            raise ModelError(f"{where}: functions call each other in a cycle: {names}")
        self._check_depth(frame.depth + 1, where)
        function = self._functions[key]
        formals, results = list(function.input), list(function.output)
        for what, given, declared in (
            ("inputs", inputs, formals),
            ("outputs", outputs, results),
        ):
            if len(given) > len(declared):
                raise ModelError(
                    f"{where}: the function has {len(declared)} {what}, the call {len(given)}"
                )
            if len(set(declared)) != len(declared):
                raise ModelError(f"{where}: the function lists one of its {what} twice")
        if key not in self._bodies:
            self._bodies[key] = self._read_function(function, where)
        scope: Scope = dict.fromkeys(formals)
        scope.update(zip(formals, inputs, strict=False))
        wanted = {name: v for name, v in zip(results, outputs, strict=False) if v.name}
        self._inlined += 1
        inner = Frame(
            scope, wanted, frame.nodes, bound=self._bind(function, attributes, where),
            calls=(*frame.calls, key), prefix=f"{key[1][:_SHOWN]}.{self._inlined}/", index=index,
            origin=origin, depth=frame.depth + 1,
        )  # fmt: skip
        self.emit(self._bodies[key], inner)
        for name, value in wanted.items():
            self._settle(inner, name, value, where)

    def _read_function(self, function: FunctionProto, where: str) -> Body:
        for name in (*function.input, *function.output, *function.attribute):
            required_name(name, f"{where}: a parameter of the function", self._limits)
        opsets = read_opsets(function.opset_import, f"{where}: the function", self._limits)
        return self.read_body(function.node, opsets)

    def _bind(
        self, function: FunctionProto, attributes: Mapping[str, Attribute], where: str
    ) -> dict[str, Attribute | None]:
        """The function's attributes: what the call gives, else the default, else left out."""
        bound: dict[str, Attribute | None] = dict.fromkeys(function.attribute)
        defaults = read_attributes(
            getattr(function, "attribute_proto", ()), f"{where}: the function", self._limits
        )
        for name, default in defaults.items():
            if isinstance(default, Attribute):
                bound[name] = default
        for name, given in attributes.items():
            if name not in bound:
                raise ModelError(f"{where}: the function has no attribute '{name}'")
            bound[name] = given
        return bound

    def _settle(self, frame: Frame, name: str, value: Value, where: str) -> None:
        """A function output that no node of the body wrote must be one of its inputs."""
        if name not in frame.scope:
            raise ModelError(f"{where}: nothing in the function gives its output '{name}'")
        source = frame.scope[name]
        if source is value:
            return
        if source is None:
            raise ModelError(f"{where}: the function returns input '{name}', which is left out")
        # any opset will do: Identity has never changed its meaning
        identity = Node("Identity", [source], [value], version=BASE, index=frame.index)
        identity.origin = frame.origin
        frame.nodes.append(identity)


def overload_of(proto: NodeProto | FunctionProto) -> str:
    """Functions of one name may differ by it, from IR 10 on."""
    return str(getattr(proto, "overload", ""))


def _where(proto: NodeProto, index: int) -> str:
    """How messages name a node that has not been built yet; as `Node.where`."""
    return Node(str(proto.op_type)[:200], [], [], name=str(proto.name)[:200], index=index).where
