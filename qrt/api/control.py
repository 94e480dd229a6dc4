"""If, Loop, Scan and SequenceMap: nodes that run subgraphs.

A subgraph is run stage by stage like a whole model, with programs of its own that all its runs
share; nothing is unrolled. Sources: ONNX If 25, Loop 25, Scan 8 and 25, SequenceMap 17.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from qrt.errors import KernelError, MemoryLimitError, ModelError, StepLimitError
from qrt.ir import Graph, Node, Value
from qrt.passes import prepare_stages

Array = np.ndarray[Any, Any]


class RunContext:
    """What one run of a session has used of its limits."""

    __slots__ = ("max_bytes", "max_steps", "nbytes", "steps")

    def __init__(self, max_steps: int, max_bytes: int | None) -> None:
        self.max_steps, self.max_bytes = max_steps, max_bytes
        self.steps = self.nbytes = 0

    def step(self, where: str) -> None:
        """Count one step of a loop; StepLimitError beyond `max_steps`."""
        self.steps += 1
        if self.steps > self.max_steps:
            raise StepLimitError(
                f"{where}: the loops of one run may take {self.max_steps} steps (max_steps)"
            )

    def collect(self, values: Iterable[Any], where: str) -> None:
        """Count what a loop keeps of a step; MemoryLimitError beyond `max_bytes`."""
        self.nbytes += sum(v.nbytes for v in values if isinstance(v, np.ndarray))
        if self.max_bytes is not None and self.nbytes > self.max_bytes:
            raise MemoryLimitError(
                f"{where}: the results of loops need more than the {self.max_bytes} bytes that"
                " max_bytes allows"
            )


class Runner(Protocol):
    """Runs one subgraph."""

    graph: Graph

    def run(self, inputs: Sequence[Any], context: RunContext) -> list[Any]:
        """Values of the outputs for those of the inputs."""
        ...

    def forked(self) -> None:
        """In the child of a fork."""
        ...


MakeRunner = Callable[[Graph, Iterable[Value]], Runner]


class Control:
    """A node with subgraphs. `runners` by attribute; a call maps values of inputs to outputs."""

    kernel = "stages"

    def __init__(self, node: Node, make: MakeRunner, fixed: frozenset[Value]) -> None:
        self.node = node
        self.where = node.where
        self.own = len(node.inputs) - node.captures
        self.runners: dict[str, Runner] = {}
        for name, graph in node.subgraphs.items():
            inner = prepare_stages(graph)
            first = len(inner.inputs) - node.captures
            pairs = zip(inner.inputs[first:], node.inputs[self.own :], strict=True)
            self.runners[name] = make(inner, [value for value, outer in pairs if outer in fixed])
        self.check()

    def check(self) -> None:
        """Raise ModelError when the subgraphs do not fit the node."""

    def require(self, name: str, what: str, got: int, wanted: int) -> None:
        """Refuse a subgraph with another number of inputs or outputs."""
        if got != wanted:
            raise ModelError(f"{self.where}: {name} must have {wanted} {what}, got {got}")

    def __call__(self, values: Sequence[Any], context: RunContext) -> list[Any]:
        raise NotImplementedError

    def condition(self, value: Any) -> bool:
        """One boolean, in a tensor of one element."""
        array = np.asarray(value)
        if array.size != 1 or array.dtype != np.bool_:
            raise KernelError(
                f"{self.where}: a condition must be one bool, got {array.dtype}{list(array.shape)}"
            )
        return bool(array.item())


class Branch(Control):
    """If: the branch that the condition chooses."""

    def check(self) -> None:
        for name, runner in self.runners.items():
            self.require(name, "inputs", len(runner.graph.inputs), self.node.captures)
            self.require(name, "outputs", len(runner.graph.outputs), len(self.node.outputs))

    def __call__(self, values: Sequence[Any], context: RunContext) -> list[Any]:
        chosen = "then_branch" if self.condition(values[0]) else "else_branch"
        return self.runners[chosen].run(values[1:], context)


class Loop(Control):
    """Loop: body(i, condition, carried...) -> condition, carried..., what is stacked."""

    def check(self) -> None:
        graph = self.runners["body"].graph
        self.require("body", "inputs", len(graph.inputs), self.own + self.node.captures)
        self.carried = self.own - 2
        self.stacked = len(graph.outputs) - 1 - self.carried
        if self.stacked < 0:
            self.require("body", "outputs", len(graph.outputs), 1 + self.carried)

    def __call__(self, values: Sequence[Any], context: RunContext) -> list[Any]:
        body = self.runners["body"]
        trips = None if values[0] is None else _count(values[0], self.where)
        on = True if values[1] is None else self.condition(values[1])
        state = list(values[2 : self.own])
        captured = values[self.own :]
        stacks: list[list[Any]] = [[] for _ in range(self.stacked)]
        i = 0
        while on and (trips is None or i < trips):
            context.step(self.where)
            results = body.run([np.array(i, np.int64), np.array(on), *state, *captured], context)
            on = self.condition(results[0])
            state = results[1 : 1 + self.carried]
            for stack, result in zip(stacks, results[1 + self.carried :], strict=True):
                stack.append(result)
            context.collect(results[1 + self.carried :], self.where)
            i += 1
        outputs = body.graph.outputs[1 + self.carried :]
        return [*state, *(self._stack(s, v) for s, v in zip(stacks, outputs, strict=True))]

    def _stack(self, parts: list[Any], declared: Value) -> Array:
        return stack(parts, declared, 0, self.where)


class Scan(Control):
    """Scan of opset 9 on: body(states..., one slice of each sequence) -> states..., slices."""

    def check(self) -> None:
        graph, attrs = self.runners["body"].graph, self.node.attrs
        self.require("body", "inputs", len(graph.inputs), self.own + self.node.captures)
        self.sequences = int(attrs["num_scan_inputs"])
        if not 1 <= self.sequences <= self.own:
            raise ModelError(
                f"{self.where}: num_scan_inputs must be 1 to {self.own}, got {self.sequences}"
            )
        self.states = self.own - self.sequences
        self.stacked = len(graph.outputs) - self.states
        self.require("body", "outputs", len(graph.outputs), len(self.node.outputs))
        if self.stacked < 0:
            self.require("body", "outputs", len(graph.outputs), self.states)
        self.input_axes = self._ints("scan_input_axes", self.sequences)
        self.input_directions = self._ints("scan_input_directions", self.sequences)
        self.output_axes = self._ints("scan_output_axes", self.stacked)
        self.output_directions = self._ints("scan_output_directions", self.stacked)

    def _ints(self, name: str, count: int) -> list[int]:
        values = list(self.node.attrs.get(name, [0] * count))
        if len(values) != count:
            raise ModelError(f"{self.where}: {name} must have {count} values, got {len(values)}")
        return values

    def __call__(self, values: Sequence[Any], context: RunContext) -> list[Any]:
        states = list(values[: self.states])
        sequences = values[self.states : self.own]
        axes = [
            _axis(axis, x.ndim, self.where)
            for axis, x in zip(self.input_axes, sequences, strict=True)
        ]
        lengths = {x.shape[axis] for axis, x in zip(axes, sequences, strict=True)}
        if len(lengths) != 1:
            raise KernelError(f"{self.where}: sequences must be of one length, got {lengths}")
        views = [
            np.moveaxis(x, axis, 0)[:: -1 if reverse else 1]
            for x, axis, reverse in zip(sequences, axes, self.input_directions, strict=True)
        ]
        states, stacks = self.walk(states, views, lengths.pop(), values[self.own :], context)
        declared = self.runners["body"].graph.outputs[self.states :]
        stacked = []
        for parts, value, axis, reverse in zip(
            stacks, declared, self.output_axes, self.output_directions, strict=True
        ):
            stacked.append(stack(parts[:: -1 if reverse else 1], value, axis, self.where))
        return [*states, *stacked]

    def walk(
        self,
        states: list[Any],
        views: Sequence[Array],
        length: int,
        captured: Sequence[Any],
        context: RunContext,
    ) -> tuple[list[Any], list[list[Any]]]:
        """The states after `length` steps over the first axis of `views`, and what they gave."""
        body = self.runners["body"]
        stacks: list[list[Any]] = [[] for _ in range(self.stacked)]
        for i in range(length):
            context.step(self.where)
            results = body.run([*states, *(view[i] for view in views), *captured], context)
            states = results[: self.states]
            for parts, result in zip(stacks, results[self.states :], strict=True):
                parts.append(result)
            context.collect(results[self.states :], self.where)
        return states, stacks


class BatchScan(Scan):
    """Scan of opset 8: a batch of sequences along axis 1, each as long as sequence_lens says."""

    def check(self) -> None:
        self.own -= 1  # sequence_lens, which the body does not see
        super().check()
        self.input_directions = self._ints("directions", self.sequences)

    def __call__(self, values: Sequence[Any], context: RunContext) -> list[Any]:
        lens, values = values[0], values[1:]
        states = values[: self.states]
        sequences = values[self.states : self.own]
        batches = {x.shape[0] for x in (*states, *sequences)}
        lengths = {x.shape[1] for x in sequences}
        if len(batches) != 1 or len(lengths) != 1:
            raise KernelError(
                f"{self.where}: batches and lengths must be the same, got {batches}, {lengths}"
            )
        batch, longest = batches.pop(), lengths.pop()
        limits = [longest] * batch if lens is None else [int(n) for n in lens]
        if len(limits) != batch or not all(0 <= n <= longest for n in limits):
            raise KernelError(f"{self.where}: sequence_lens must be {batch} of 0 to {longest}")
        rows = []
        for b, length in enumerate(limits):
            views = [
                x[b][:length][:: -1 if reverse else 1]
                for x, reverse in zip(sequences, self.input_directions, strict=True)
            ]
            own = [x[b] for x in states]
            after, stacks = self.walk(own, views, length, values[self.own :], context)
            declared = self.runners["body"].graph.outputs[self.states :]
            made = [stack(p, v, 0, self.where) for p, v in zip(stacks, declared, strict=True)]
            padded = [np.pad(a, [(0, longest - length)] + [(0, 0)] * (a.ndim - 1)) for a in made]
            rows.append([*after, *padded])
        return [np.stack(column) for column in zip(*rows, strict=True)]


class SequenceMap(Control):
    """SequenceMap: body on each element of the first sequence; tensors go to every run."""

    def check(self) -> None:
        graph = self.runners["body"].graph
        self.require("body", "inputs", len(graph.inputs), self.own + self.node.captures)
        self.require("body", "outputs", len(graph.outputs), len(self.node.outputs))

    def __call__(self, values: Sequence[Any], context: RunContext) -> list[Any]:
        body = self.runners["body"]
        own, captured = values[: self.own], values[self.own :]
        length = len(own[0])
        for i, value in enumerate(own):
            if isinstance(value, list) and len(value) != length:
                raise KernelError(
                    f"{self.where}: sequence {i} must have {length} elements, got {len(value)}"
                )
        results: list[list[Any]] = [[] for _ in self.node.outputs]
        for i in range(length):
            context.step(self.where)
            given = [value[i] if isinstance(value, list) else value for value in own]
            made = body.run([*given, *captured], context)
            context.collect(made, self.where)
            for sequence, value in zip(results, made, strict=True):
                sequence.append(value)
        return list(results)


def _scan(node: Node, make: MakeRunner, fixed: frozenset[Value]) -> Control:
    return (BatchScan if node.version < 9 else Scan)(node, make, fixed)


# operator -> what runs it
CONTROL: dict[str, Callable[[Node, MakeRunner, frozenset[Value]], Control]] = {
    "If": Branch,
    "Loop": Loop,
    "Scan": _scan,
    "SequenceMap": SequenceMap,
}


def stack(parts: Sequence[Any], declared: Value, axis: int, where: str) -> Array:
    """Arrays of one shape along a new axis; of no steps what the body's output declares."""
    if not parts:
        dims = [dim if isinstance(dim, int) else 0 for dim in declared.shape or ()]
        dims.insert(_axis(axis, len(dims) + 1, where), 0)
        return np.zeros(dims, declared.dtype or np.float32)
    shapes = {np.shape(part) for part in parts}
    if len(shapes) != 1:
        raise KernelError(f"{where}: what is stacked must have one shape, got {sorted(shapes)[:4]}")
    return np.stack(parts, _axis(axis, np.ndim(parts[0]) + 1, where))


def _axis(axis: int, rank: int, where: str) -> int:
    if not -rank <= axis < rank:
        raise KernelError(f"{where}: an axis must be {-rank} to {rank - 1}, got {axis}")
    return axis % rank


def _count(value: Any, where: str) -> int:
    array = np.asarray(value)
    if array.size != 1:
        raise KernelError(f"{where}: the trip count must be one integer, got {list(array.shape)}")
    return int(array.item())
