"""Nodes of a graph, and of the functions it calls, to Graph nodes in topological order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import FunctionProto, NodeProto

from qrt.errors import ModelError
from qrt.ir.attrs import AttrValue
from qrt.ir.domains import ONNX_DOMAINS
from qrt.ir.graph import Node, Value
from qrt.loader.attributes import Attribute, Reference, bind_attributes, read_attributes
from qrt.loader.constants import constant_data, refuse_sparse
from qrt.loader.limits import Limits
from qrt.loader.names import checked_name, required_name
from qrt.loader.old_opsets import BASE, modern
from qrt.loader.opsets import normal_domain, read_opsets, version_of
from qrt.loader.order import order_nodes
from qrt.loader.schema import check_signature
from qrt.loader.tensors import TensorReader

_SHOWN = 64  # characters of a function's and of its inner names that inlined names keep

# a value a node can read; None stands for an optional function input that the call leaves out
Scope = dict[str, Value | None]
FunctionKey = tuple[str, str, str]  # domain, name, overload


@dataclass
class Body:
    """The nodes of one graph or function: read once, used by every call."""

    protos: list[NodeProto]
    attributes: list[dict[str, Attribute | Reference]]
    opsets: Mapping[str, int]


@dataclass
class Frame:
    """One walk through a body.

    `scope` grows with every node; `results` are values of the caller that the body has to fill;
    `bound` are the function's attributes. `index` is the top-level node (-1: this is the top).
    """

    scope: Scope
    results: Mapping[str, Value]
    bound: Mapping[str, Attribute | None] | None = None
    calls: tuple[FunctionKey, ...] = ()
    prefix: str = ""
    index: int = -1
    origin: tuple[str, ...] = ()


class BodyEmitter:
    """Turns bodies into `nodes`, calls of model-local functions replaced by their bodies."""

    def __init__(
        self,
        functions: Mapping[FunctionKey, FunctionProto],
        hints: Mapping[str, Value],
        tensors: TensorReader,
        limits: Limits,
    ) -> None:
        self.nodes: list[Node] = []
        self._functions = functions
        self._bodies: dict[FunctionKey, Body] = {}
        self._hints = hints
        self._tensors = tensors
        self._limits = limits
        self._names: set[str] = set()
        self._visited = 0
        self._operands = 0
        self._inlined = 0

    def read_body(self, nodes: Sequence[NodeProto], opsets: Mapping[str, int]) -> Body:
        """Check the names of `nodes` and sort their attributes."""
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
        return Body(protos, attributes, opsets)

    def emit(self, body: Body, frame: Frame) -> None:
        """Append the nodes of `body`."""
        self._count(body, frame)
        top = frame.index < 0
        if top:
            self._names.update(frame.scope)
            self._names.update(name for proto in body.protos for name in proto.output)

        def label(i: int) -> str:
            return _where(body.protos[i], i if top else frame.index)

        for i in order_nodes(body.protos, frame.scope, label):
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
                node = Node(
                    proto.op_type, inputs, outputs, {}, domain, name, index, version, origin
                )
                self._node(node, attributes, where)
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
        if frame.index >= 0:
            return Value(self._fresh(f"{frame.prefix}{name[:_SHOWN]}"))
        hint = self._hints.get(name)
        return Value(name, hint.dtype, hint.shape) if hint else Value(name)

    def _fresh(self, name: str) -> str:
        """`name`, or with a number when it is taken."""
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}~{number}"
        self._names.add(unique)
        return unique

    def _node(self, node: Node, attributes: Mapping[str, Attribute], where: str) -> None:
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
        }
        if (node.op, node.domain) == ("Constant", ""):
            data = constant_data(attrs, where)
            out = node.outputs[0]
            out.data, out.dtype, out.shape = data, data.dtype, data.shape
            return
        node.attrs = dict(attrs)
        if node.domain == "" and node.version < BASE:
            self.nodes.extend(modern(node, self._fresh))
        else:
            self.nodes.append(node)

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
        if len(frame.calls) >= self._limits.max_depth:
            raise ModelError(f"{where}: functions may be {self._limits.max_depth} calls deep")
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
            scope,
            wanted,
            self._bind(function, attributes, where),
            (*frame.calls, key),
            f"{key[1][:_SHOWN]}.{self._inlined}/",
            index,
            origin,
        )
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
        self.nodes.append(identity)


def overload_of(proto: NodeProto | FunctionProto) -> str:
    """Functions of one name may differ by it, from IR 10 on."""
    return str(getattr(proto, "overload", ""))


def _where(proto: NodeProto, index: int) -> str:
    """How messages name a node that has not been built yet; as `Node.where`."""
    return Node(str(proto.op_type)[:200], [], [], name=str(proto.name)[:200], index=index).where
