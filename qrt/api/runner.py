"""A graph run stage by stage: programs for tensors, single nodes in Python between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qrt.api.arguments import Argument
from qrt.api.control import CONTROL, Control, RunContext
from qrt.api.programs import Programs
from qrt.api.recipe import ModelRecipe, OpenRecipe
from qrt.api.resources import Resources
from qrt.api.timing import Profile, StageTimes, joined_profile
from qrt.errors import KernelError, OpenShapeError, QrtError
from qrt.ir import Graph, Node, Value
from qrt.ops.single import SingleFunction
from qrt.passes import Learned, SingleNode, TensorStage, plan_stages, prepare_stages
from qrt.vm import time_rows


class NotNumericError(Exception):
    """A run gave something else than a tensor of numbers where one was taken for granted."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class Step:
    """One stage. `inputs`, `outputs` are slots of the run's values (None: left out); `last` those
    that nobody reads any more."""

    stage: TensorStage | SingleNode
    call: Programs | SingleFunction | Control
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    last: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Steps over a list of values, which begins as a copy of `values` (constants in place).

    `programs` are those of the only step, where its inputs and outputs are the plan's.
    """

    steps: tuple[Step, ...]
    values: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    programs: Programs | None = None


class GraphRunner:
    """Runs a prepared graph (`passes.prepare_stages`); threads may share it.

    `known` are inputs that programs may be made for by value; `declared` those whose dtype and rank
    are as they say (the others come as they come). What a run teaches about the graph (a shape that
    only a run can tell) gives a new plan, and the run begins anew.
    """

    def __init__(
        self,
        graph: Graph,
        known: Iterable[Value],
        shared: Resources,
        declared: Iterable[Value] = (),
    ) -> None:
        self.graph = graph
        self.shared = shared
        self._known = tuple(known)
        self._declared = frozenset(declared)
        self._learned = Learned({})
        self._lock = threading.Lock()
        self.plan = self._planned()

    def run_once(self, inputs: Sequence[Any]) -> list[Any]:
        """A run of its own, with limits of its own."""
        return self.run(inputs, RunContext(self.shared.max_steps, self.shared.max_bytes))

    def run(self, inputs: Sequence[Any], context: RunContext) -> list[Any]:
        """Values of the graph's outputs for those of its inputs."""
        while True:
            plan = self.plan
            try:
                return _run(plan, inputs, context)
            except OpenShapeError as error:
                self._learn(plan, {error.output: str(error)}, (), error)
            except NotNumericError as error:
                self._learn(plan, {}, (error.name,), KernelError(f"{error.name}: no tensor"))

    def only_programs(self) -> Programs | None:
        """The programs of the only stage, when its inputs and outputs are those of the graph."""
        return self.plan.programs

    def learn(self, error: QrtError) -> None:
        """Plan again with what `error` says; raises it when that is nothing new."""
        if not isinstance(error, OpenShapeError):
            raise error
        self._learn(self.plan, {error.output: str(error)}, (), error)

    def prepare(self) -> None:
        """Make the programs whose input shapes are known already."""
        graph_inputs = set(self.graph.inputs)
        for step in self.plan.steps:
            if not isinstance(step.call, Programs) or step.call.fixed:
                continue
            inputs = step.stage.graph.inputs  # type: ignore[union-attr]
            if all(v in graph_inputs and Argument.of(v).is_static for v in inputs):
                step.call.executor_for({v.name: np.zeros(v.static_shape, v.dtype) for v in inputs})

    def forked(self) -> None:
        """In the child of a fork: whoever held a lock does not exist here."""
        self._lock = threading.Lock()
        for step in self.plan.steps:
            if isinstance(step.call, Control):
                for runner in step.call.runners.values():
                    runner.forked()

    def profile(self, inputs: Sequence[Any], runs: int) -> Profile:
        """Times of all rows, and of the nodes that run by themselves."""
        self.run_once(inputs)  # plans everything
        values = _first_values(self.plan, inputs)
        parts = []
        for step in self.plan.steps:
            given = [None if slot is None else values[slot] for slot in step.inputs]
            results, part = self._timed(step, given, runs)
            parts.append(part)
            _store(values, step, results)
        return joined_profile(parts, runs, self.shared.threads)

    def _timed(self, step: Step, given: list[Any], runs: int) -> tuple[list[Any], StageTimes]:
        call = step.call
        if isinstance(call, Programs):
            by_name = dict(zip(call.names, given, strict=True))
            executor = call.executor_for(by_name)
            arrays = [by_name[name] for name, _, _ in executor.expected]
            return executor.run(arrays), (executor.program, time_rows(executor, arrays, runs))
        node = step.stage.node  # type: ignore[union-attr]
        times = np.zeros((runs, 1), np.int64)
        results: list[Any] = []
        for i in range(runs):
            start = time.perf_counter_ns()
            if isinstance(call, Control):
                context = RunContext(self.shared.max_steps, self.shared.max_bytes)
                results = call(given, context)
            else:
                results = call(given)
            times[i] = time.perf_counter_ns() - start
        return results, ((node.name, node.op, call.kernel), times)

    def _learn(
        self, plan: Plan, nodes: dict[str, str], values: Iterable[str], error: Exception
    ) -> None:
        with self._lock:
            if self.plan is not plan:
                return  # another thread has learned something
            old = self._learned
            new = Learned({**old.nodes, **nodes}, old.values.union(values))
            if "" in nodes or new == old:
                raise error
            self._learned = new
            self.plan = self._planned()

    def _planned(self) -> Plan:
        graph = self.graph
        slots = _Slots()
        inputs = tuple(slots.of(value) for value in graph.inputs)
        steps = [
            self._step(stage, slots) for stage in plan_stages(graph, self._known, self._learned)
        ]
        outputs = tuple(slots.of(value) for value in graph.outputs)
        only = steps[0] if len(steps) == 1 else None
        same = only is not None and (only.inputs, only.outputs) == (inputs, outputs)
        programs = only.call if same and only is not None else None
        return Plan(
            _with_last(steps, {*outputs}),
            tuple(slots.values),
            inputs,
            outputs,
            programs if isinstance(programs, Programs) else None,
        )

    def _step(self, stage: TensorStage | SingleNode, slots: _Slots) -> Step:
        call: Programs | SingleFunction | Control
        if isinstance(stage, TensorStage):
            graph = stage.graph
            recipe: ModelRecipe | OpenRecipe
            if self._declared.issuperset(graph.inputs):
                recipe = ModelRecipe(graph, self.shared.features, stage.fixed)
            else:
                recipe = OpenRecipe(graph, self.shared.features, stage.fixed)
            call = Programs(recipe, self.shared)
            ins: Sequence[Value | None] = graph.inputs
            outs = graph.outputs
        else:
            node = stage.node
            call = self._single(node, stage.fixed)
            ins, outs = node.inputs, node.outputs
        return Step(
            stage,
            call,
            tuple(None if v is None else slots.of(v) for v in ins),
            tuple(slots.of(v) if v.name else None for v in outs),
        )

    def _single(self, node: Node, fixed: frozenset[Value]) -> SingleFunction | Control:
        make = CONTROL.get(node.op) if node.domain == "" else None
        if make is None:
            return SingleFunction(node, self.shared.max_bytes)
        return make(node, lambda graph, known: GraphRunner(graph, known, self.shared), fixed)


@dataclass
class _Slots:
    """Numbers for values; those of constants hold them."""

    values: list[Any] = field(default_factory=list)
    _numbers: dict[Value, int] = field(default_factory=dict)

    def of(self, value: Value) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.values)
            self.values.append(value.data)
        return number


def _with_last(steps: Sequence[Step], kept: set[int]) -> tuple[Step, ...]:
    """Steps that let go of what no later one reads."""
    seen = set(kept)
    made = []
    for step in reversed(steps):
        used = {slot for slot in (*step.inputs, *step.outputs) if slot is not None}
        made.append(Step(step.stage, step.call, step.inputs, step.outputs, tuple(used - seen)))
        seen |= used
    return tuple(made[::-1])


def _run(plan: Plan, inputs: Sequence[Any], context: RunContext) -> list[Any]:
    if plan.programs is not None:
        return _run_programs(plan.programs, inputs)
    values = _first_values(plan, inputs)
    for step in plan.steps:
        given: list[Any] = [None if slot is None else values[slot] for slot in step.inputs]
        call = step.call
        if isinstance(call, Programs):
            results = _run_programs(call, given)
        elif isinstance(call, SingleFunction):
            results = call(given)
        else:
            results = call(given, context)
        _store(values, step, results)
        for last in step.last:
            values[last] = None
    return [values[slot] for slot in plan.outputs]


def _run_programs(programs: Programs, given: Sequence[Any]) -> list[Any]:
    for i, value in enumerate(given):
        if type(value) is not np.ndarray or value.dtype.hasobject:
            raise NotNumericError(programs.names[i])
    return programs.run(given)


def _first_values(plan: Plan, inputs: Sequence[Any]) -> list[Any]:
    values = list(plan.values)
    for slot, value in zip(plan.inputs, inputs, strict=True):
        values[slot] = value
    return values


def _store(values: list[Any], step: Step, results: Sequence[Any]) -> None:
    for slot, result in zip(step.outputs, results, strict=False):
        if slot is not None:
            values[slot] = result


def model_runner(loaded: Graph, shared: Resources) -> GraphRunner:
    """The runner of a whole model, as the loader gives it."""
    graph = prepare_stages(loaded)
    return GraphRunner(graph, graph.inputs, shared, [v for v in graph.inputs if v.dtype])
