"""Lower a machine graph to rows: the `Lowering` that operators see, and `build_program`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from qrt import knobs
from qrt.errors import (
    MemoryLimitError,
    OpenShapeError,
    ProgramError,
    QrtError,
    UnsupportedError,
    at_node,
)
from qrt.ir import Graph, Node, Value
from qrt.ir.domains import ONNX_DOMAINS, is_host, onnx_domain
from qrt.jit.declare import HEADER, Kernel
from qrt.ops import host
from qrt.ops.spec import Field, HostFunction, Lowering, Mark, OpSpec
from qrt.program.barriers import jump_targets, needed_barriers
from qrt.program.constants import ConstantPool
from qrt.program.host import OWN, REFERENCE
from qrt.program.memory import check_plan, plan_memory
from qrt.program.places import SLACK, ArenaPlace, Buffer, ConstantPlace, Place
from qrt.program.program import BARRIER, Binding, HostCall, NodeLabel, Program
from qrt.program.touches import touches
from qrt.program.verify import verify

Array = np.ndarray[Any, Any]
Ops = Mapping[tuple[str, str], OpSpec]


class ProgramBuilder:
    """Collects rows with symbolic operands; implements `qrt.ops.spec.Lowering`."""

    def __init__(
        self,
        features: frozenset[str],
        threads: int = 1,
        pool: ConstantPool | None = None,
        ops: Ops | None = None,
    ) -> None:
        self.features = features
        self._ops: Ops = ops if ops is not None else {}
        self.pool = pool if pool is not None else ConstantPool()
        self._threads = threads
        self._places: dict[Value, Place] = {}
        self._buffers: list[Buffer] = []
        self._rows: list[tuple[Kernel, int, dict[str, Any]]] = []
        self._hosts: list[tuple[HostFunction, list[Value | None], list[Value]]] = []
        self._node = 0
        self._nodes: list[Node] = []  # those lowered so far, those of subgraphs after their node
        self._notes: dict[int, list[str]] = {}

    def operand(self, value: Value) -> Place:
        """Where `value` lives; a constant is stored in its layout, a new result gets a buffer."""
        place = self._places.get(value)
        if place is None:
            place = self._constant_value(value) if value.is_constant else self._buffer_for(value)
            self._places[value] = place
        return place

    def constant(self, array: Array) -> ConstantPlace:
        """A place in the constants that holds `array` (C order); equal arrays share one."""
        return self.pool.add(array)

    def packed(self, key: Hashable, make: Callable[[], Array]) -> ConstantPlace:
        """Like `constant(make())`, but made once per session for equal keys."""
        return self.pool.packed(key, make)

    def scratch(self, nbytes: int) -> ArenaPlace:
        """Arena bytes that live during the rows that name them."""
        return ArenaPlace(self._new_buffer(nbytes, f"scratch of row {len(self._rows)}"))

    def threads(self) -> int:
        """The largest number of threads that will walk the rows."""
        return self._threads

    def alias(self, value: Value, of: Value) -> None:
        """`value` is the same bytes as `of`: no row needed."""
        assert value.nbytes == of.nbytes, f"{value} cannot be the bytes of {of}"
        assert value not in self._places, f"{value} has a place already"
        self._places[value] = self.operand(of)

    def note(self, text: str) -> None:
        """Let `explain` say `text` about the node; the same words once."""
        notes = self._notes.setdefault(self._node, [])
        if text not in notes:
            notes.append(text)

    def lower(self, graph: Graph) -> None:
        """The rows of all nodes of a machine graph; its inputs have places."""
        for node in graph.nodes:
            self._node = len(self._nodes)
            self._nodes.append(node)
            try:
                _lower(self._ops, node, self)
            except QrtError as error:
                at_node(error, node.where)

    def nested(self, graph: Graph, inputs: Sequence[Value | None], name: str) -> None:
        """The rows of a subgraph of the present node, whose inputs are the values `inputs`."""
        outer = self._node
        for inner, value in zip(graph.inputs, inputs, strict=True):
            assert value is not None
            self._places[inner] = self.operand(value)
        first = len(self._nodes)
        try:
            self.lower(graph)
        except MemoryLimitError:
            raise
        except QrtError as error:  # a branch that may never be chosen
            output = self._nodes[outer].outputs[0].name
            raise OpenShapeError(f"{name}: {error}", output) from error
        for i in range(first, len(self._nodes)):
            self._node = i
            self.note(f"in {name} of {self._nodes[outer].where}")
        self._node = outer

    def mark(self) -> Mark:
        """A row that is still to come."""
        return Mark()

    def place(self, mark: Mark) -> None:
        """`mark` is the next row."""
        mark.row = len(self._rows)

    def emit(self, kernel: Kernel, **fields: Field) -> None:
        """Append a row; every field of `kernel` by name, floats are stored as float32 bits."""
        assert set(fields) == set(kernel.fields), (
            f"{kernel} takes {kernel.fields}, got {tuple(fields)}"
        )
        for value in fields.values():
            if isinstance(value, ArenaPlace):
                value.buffer.touch(len(self._rows))
        self._rows.append((kernel, self._node, fields))

    def host(
        self,
        function: HostFunction,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value],
        own: bool = False,
    ) -> None:
        """Append a row that Python runs on arrays over the operands."""
        for value in (*inputs, *outputs):
            place = None if value is None else self.operand(value)
            if isinstance(place, ArenaPlace):
                place.buffer.touch(len(self._rows))
        row = OWN if own else REFERENCE
        self._rows.append((row, self._node, {"call": len(self._hosts)}))
        self._hosts.append((function, list(inputs), list(outputs)))

    def lowered(self, lower: Callable[[Node, Lowering], None], node: Node) -> None:
        """Let `lower` emit the rows of `node`; of an operator that is refused none remains."""
        count = len(self._rows)
        try:
            lower(node, self)
        except UnsupportedError:
            del self._rows[count:]
            self._notes.pop(self._node, None)
            for value in node.outputs:
                self._places.pop(value, None)
            raise

    def bind_inputs(self, values: list[Value]) -> None:
        """Give the graph's inputs buffers that are live before the first row."""
        for value in values:
            place = self._places[value] = self._buffer_for(value)
            place.buffer.touch(-1)

    def build(self, graph: Graph) -> Program:
        """Plan memory, place barriers and make the Program. Not yet verified."""
        for value in graph.outputs:
            if value not in self._places and not value.is_constant and value.nbytes:
                raise ProgramError(f"output {value.name!r} is not computed by any node")
            place = self.operand(value)
            if isinstance(place, ArenaPlace):
                place.buffer.touch(len(self._rows))
        # what leaves its operand must not land in the next one, where that may be allowed
        apart = SLACK if knobs.BOUNDS.get() == "check" else 0
        arena_nbytes = plan_memory(self._buffers, apart)
        check_plan(self._buffers, arena_nbytes)
        kernels = tuple(
            dict.fromkeys(
                k.name
                for kernel, _, fields in self._rows
                for k in (kernel, *(fields[name] for name in kernel.calls))
                if k is not None
            )
        )
        hosts = tuple(self._host_call(*made) for made in self._hosts)
        return Program(
            rows=self._encoded_rows(kernels, hosts),
            kernels=kernels,
            constants=self.pool,
            arena_nbytes=arena_nbytes,
            inputs=tuple(self._binding(v) for v in graph.inputs),
            outputs=tuple(self._binding(v) for v in graph.outputs),
            nodes=tuple(
                _label(node, "; ".join(self._notes.get(i, ())))
                for i, node in enumerate(self._nodes)
            ),
            threads=self._threads,
            hosts=hosts,
        )

    def _constant_value(self, value: Value) -> ConstantPlace:
        layout = value.layout

        def elements() -> Array:
            assert value.data is not None
            return value.data if layout is None else np.transpose(value.data, layout)

        return self.pool.packed(("value", value.identity, layout), elements)

    def _buffer_for(self, value: Value) -> ArenaPlace:
        if value.dtype is None or value.dtype.hasobject:
            raise UnsupportedError(f"tensor {value.name!r} of {value.dtype} has no native form")
        return ArenaPlace(self._new_buffer(value.nbytes, value.name))

    def _new_buffer(self, nbytes: int, label: str) -> Buffer:
        self._buffers.append(Buffer(nbytes, label))
        return self._buffers[-1]

    def _binding(self, value: Value) -> Binding:
        assert value.dtype is not None
        offset = self.operand(value).encoded
        return Binding(value.name, value.dtype, value.static_shape, offset, value.layout)

    def _host_call(
        self, function: HostFunction, inputs: list[Value | None], outputs: list[Value]
    ) -> HostCall:
        return HostCall(
            function,
            tuple(None if v is None else self._binding(v) for v in inputs),
            tuple(self._binding(v) for v in outputs),
        )

    def _encoded_rows(self, kernels: tuple[str, ...], hosts: tuple[HostCall, ...]) -> Array:
        width = len(HEADER) + max((len(k.fields) for k, _, _ in self._rows), default=0)
        rows = np.zeros((len(self._rows), width), np.int64)
        index = {name: i for i, name in enumerate(kernels)}
        for row, (kernel, node, fields) in zip(rows, self._rows, strict=True):
            named = {name: _number(fields[name], index) for name in kernel.calls}
            slots = [_encoded((fields | named)[name]) for name in kernel.fields]
            row[: len(HEADER) + len(slots)] = [index[kernel.name], node, 0, *slots]
        touched = []
        for (kernel, _, fields), values in zip(self._rows, rows.tolist(), strict=True):
            touched.append(touches(kernel, values, hosts))
            covered = {touch.field for touch in touched[-1]}
            for name, value in fields.items():
                # what extents leave out neither barriers nor verification would see
                assert name in covered or not _is_place(value), f"{kernel}: no extent for {name!r}"
        targets = jump_targets([kernel for kernel, _, _ in self._rows], rows.tolist())
        rows[:, BARRIER] = needed_barriers(touched, set(targets.values()))
        return rows


def build_program(
    graph: Graph,
    features: frozenset[str],
    threads: int = 1,
    pool: ConstantPool | None = None,
    *,
    ops: Ops | None = None,
    max_bytes: int | None = None,
) -> Program:
    """Lower a machine graph (static shapes, layouts set) and verify the result.

    `ops` defaults to `qrt.ops.OPS`. Raises UnsupportedError for an operator without rows, what the
    operator's `lower` raises (led by the node), MemoryLimitError when constants and arena need more
    than `max_bytes`.
    """
    if ops is None:
        from qrt.ops import OPS

        ops = OPS
    if max_bytes is not None:
        _check_results(graph, max_bytes)
    builder = ProgramBuilder(features, threads, pool, ops)
    builder.pool.hold(graph)
    builder.bind_inputs(graph.inputs)
    builder.lower(graph)
    program = builder.build(graph)
    if max_bytes is not None and program.nbytes > max_bytes:
        raise MemoryLimitError(
            f"the model needs {program.nbytes} bytes (constants {program.constants.nbytes}, arena"
            f" {program.arena_nbytes}), max_bytes allows {max_bytes}"
        )
    verify(program)
    return program


def _check_results(graph: Graph, max_bytes: int) -> None:
    """Raise MemoryLimitError for a result that is too large, before tables as long are made."""
    for node in graph.nodes:
        for value in node.outputs:
            if value.nbytes > max_bytes:
                raise MemoryLimitError(
                    f"{value.name!r} alone needs {value.nbytes} bytes, max_bytes allows {max_bytes}"
                )
        for inner in node.subgraphs.values():
            _check_results(inner, max_bytes)


def _lower(ops: Ops, node: Node, builder: ProgramBuilder) -> None:
    if is_host(node):
        host.lower(node, builder)
        return
    spec = ops.get((node.domain, node.op))
    try:
        if spec is None or spec.lower is None:
            domain = f"{node.domain}." if node.domain else ""
            raise UnsupportedError(f"operator {domain}{node.op} has no native kernel")
        builder.lowered(spec.lower, node)
    except UnsupportedError as error:
        if node.domain not in ONNX_DOMAINS:
            raise
        host.lower_refused(node, builder, error)


def _label(node: Node, note: str) -> NodeLabel:
    out = node.outputs[0] if node.outputs else None
    domain = onnx_domain(node)
    layout = "" if out is None or out.layout is None else _layout_name(out.layout)
    return NodeLabel(
        where=node.where,
        op=f"{domain}.{node.op}" if domain else node.op,
        name=node.name,
        index=node.index,
        origin=node.origin,
        dtype="" if out is None else str(out.dtype),
        layout=layout,
        why=node.why,
        note=note,
    )


def _layout_name(layout: tuple[int, ...]) -> str:
    if layout == (0, *range(2, len(layout)), 1):
        return {3: "NWC", 4: "NHWC", 5: "NDHWC"}.get(len(layout), "channels_last")
    return ",".join(map(str, layout))


def _number(kernel: Kernel | None, index: Mapping[str, int]) -> int:
    return -1 if kernel is None else index[kernel.name]


def _is_place(value: object) -> bool:
    return isinstance(value, (ArenaPlace, ConstantPlace))


def _encoded(value: int | float | np.float32 | Place | Mark) -> int:
    if isinstance(value, (ArenaPlace, ConstantPlace)):
        return value.encoded
    if isinstance(value, Mark):
        assert value.row >= 0, "a row jumps to one that was not emitted"
        return value.row
    if isinstance(value, (float, np.floating)):
        return int(np.float32(value).view(np.int32))
    return int(value)
