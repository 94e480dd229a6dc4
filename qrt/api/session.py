"""Session: a model ready to run, with a program for each set of input shapes it has seen."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from qrt.api.arguments import Argument
from qrt.api.explanation import Explanation, explain_program
from qrt.api.feeds import checked_feeds
from qrt.api.metadata import ModelMetadata
from qrt.api.progress import ProgressLine
from qrt.api.recipe import Recipe
from qrt.api.timing import Profile, profile_of
from qrt.errors import InputError, QrtError
from qrt.program import ConstantPool, build_program
from qrt.program.builder import Ops
from qrt.vm import ArenaBudget, Executor, time_rows

Array = np.ndarray[Any, Any]

MAX_PROGRAMS = 16  # input shapes whose programs and arenas are kept

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    """Runs a model; made by `qrt.load`. Several threads may call `run` at once."""

    def __init__(
        self,
        recipe: Recipe,
        features: frozenset[str],
        *,
        threads: int = 1,
        max_bytes: int | None = None,
        ops: Ops | None = None,
    ) -> None:
        self.features = features
        self.threads = threads
        self.max_bytes = max_bytes
        self._recipe: Recipe | None = recipe
        self._ops = ops
        self._inputs = tuple(Argument.of(v) for v in recipe.graph.inputs)
        self._outputs = tuple(Argument.of(v) for v in recipe.graph.outputs)
        self._output_index = {argument.name: i for i, argument in enumerate(self._outputs)}
        self._overridable = tuple(
            Argument.of(v) for v in recipe.graph.values() if v.name in recipe.graph.overridable
        )
        self._fixed = recipe.fixed_inputs
        self._metadata = ModelMetadata(recipe.graph.name, dict(recipe.graph.opsets))
        self._pool = ConstantPool()
        self._budget = ArenaBudget(max_bytes)
        self._lock = threading.Lock()
        self._executors: OrderedDict[Hashable, Executor] = OrderedDict()
        self._latest: Executor | None = None  # what `run` tries first
        _sessions.add(self)
        if not self._fixed and all(argument.is_static for argument in self._inputs):
            self._prepare_only_program()

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: object = None,
    ) -> list[Array]:
        """Outputs (all, or those named) for `input_feed`: name to array. Options are ignored.

        Raises InputError when a name, rank, shape or dtype does not fit.
        """
        executor = self._latest
        if executor is None or not isinstance(input_feed, dict):
            return self._run_checked(output_names, input_feed)
        arrays = []
        for name, dtype, shape in executor.expected:
            array = input_feed.get(name)
            if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
                return self._run_checked(output_names, input_feed)
            arrays.append(array)
        if len(input_feed) != len(arrays):
            return self._run_checked(output_names, input_feed)
        return executor.run(arrays, self._indices(output_names) if output_names else None)

    def __call__(self, /, *args: Any, **inputs: Any) -> Any:
        """Run on arrays in the order of the inputs, or by name; one output alone, else a list."""
        if len(args) > len(self._inputs):
            raise InputError(f"the model has {len(self._inputs)} inputs, got {len(args)}")
        feed = {argument.name: value for argument, value in zip(self._inputs, args, strict=False)}
        twice = feed.keys() & inputs.keys()
        if twice:
            raise InputError(f"input {sorted(twice)[0]!r} was given twice")
        outputs = self.run(None, {**feed, **inputs})
        return outputs[0] if len(outputs) == 1 else outputs

    def get_inputs(self) -> list[Argument]:
        """Name, shape and type of each input."""
        return list(self._inputs)

    def get_outputs(self) -> list[Argument]:
        """Name, shape and type of each output."""
        return list(self._outputs)

    def get_overridable_initializers(self) -> list[Argument]:
        """Constants that the file lists as inputs too; `run` does not take them (packed)."""
        return list(self._overridable)

    def get_providers(self) -> list[str]:
        """Always the CPU."""
        return ["CPUExecutionProvider"]

    def get_modelmeta(self) -> ModelMetadata:
        """Names that the model carries."""
        return self._metadata

    def explain(self) -> Explanation:
        """Per node: the kernels that run it, its dtype and layout, or why it stayed float.

        Tells of the latest input shapes; before the first run unknown dimensions are taken as 1.
        """
        executor = self._any_executor()
        return explain_program(executor.program, self.features, executor.threads)

    def profile(self, inputs: Mapping[str, Any] | None = None, runs: int = 20) -> Profile:
        """Time every row over `runs` runs; without `inputs`, zeros of the latest shapes."""
        if runs < 1:
            raise InputError(f"runs must be at least 1, got {runs}")
        if inputs is None:
            executor = self._any_executor()
            arrays = [np.zeros(shape, dtype) for _, dtype, shape in executor.expected]
        else:
            executor, arrays = self._bind(inputs)
        times = time_rows(executor, arrays, runs)
        return profile_of(executor.program, times, executor.threads)

    @property
    def nbytes(self) -> int:
        """Bytes of constants and of all arenas now."""
        return self._pool.nbytes + self._budget.taken

    def _run_checked(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Array]:
        which = self._indices(names) if names else None
        executor, arrays = self._bind(feeds)
        return executor.run(arrays, which)

    def _indices(self, names: Sequence[str]) -> list[int]:
        known = self._output_index
        if isinstance(names, str):
            raise InputError(f"output names must be a list, got the string {names!r}")
        try:
            return [known[name] for name in names]
        except (KeyError, TypeError) as error:
            listed = ", ".join(map(repr, known))
            raise InputError(f"no output is called {error}; the outputs are {listed}") from None

    def _bind(self, feeds: Mapping[str, Any]) -> tuple[Executor, list[Array]]:
        """The executor for `feeds`, and its inputs in its program's order."""
        arrays = checked_feeds(self._inputs, feeds)
        by_name = {a.name: array for a, array in zip(self._inputs, arrays, strict=True)}
        executor = self._executor_for(by_name)
        return executor, [by_name[name] for name, _, _ in executor.expected]

    def _executor_for(self, arrays: Mapping[str, Array]) -> Executor:
        values = {name: arrays[name] for name in arrays if name in self._fixed}
        shapes = {name: array.shape for name, array in arrays.items()}
        key = (tuple(shapes.values()), tuple(v.tobytes() for v in values.values()))
        with self._lock:
            executor = self._executors.get(key)
            if executor is None:
                executor = self._build(shapes, values)
                self._keep(key, executor)
            self._executors.move_to_end(key)
            if not self._fixed:
                self._latest = executor
            return executor

    def _build(
        self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Array]
    ) -> Executor:
        assert self._recipe is not None
        graph = self._recipe.specialize(shapes, values)
        program = build_program(
            graph,
            self.features,
            self.threads,
            self._pool,
            ops=self._ops,
            max_bytes=self.max_bytes,
        )
        return Executor(
            program,
            self.features,
            threads=self.threads,
            budget=self._budget,
            progress=ProgressLine(),
        )

    def _keep(self, key: Hashable, executor: Executor) -> None:
        """Add an executor; the least recently used leave when there are too many."""
        for other in self._executors.values():
            other.rebase()  # the new program may have added constants
        if self.max_bytes is not None:
            self._budget.limit = max(0, self.max_bytes - self._pool.nbytes)
        self._executors[key] = executor
        while len(self._executors) > MAX_PROGRAMS:
            self._executors.popitem(last=False)

    def _prepare_only_program(self) -> None:
        """Build the one program of a model whose shapes are all known, and let the graph go."""
        shapes = {argument.name: tuple(argument.shape) for argument in self._inputs}
        executor = self._build(shapes, {})  # type: ignore[arg-type]
        self._keep((tuple(shapes.values()), ()), executor)
        self._latest = executor
        self._pool.forget()
        self._recipe = None

    def _any_executor(self) -> Executor:
        with self._lock:
            if self._executors:
                return next(reversed(self._executors.values()))
        if self._fixed:
            raise QrtError(
                f"the program depends on the values of {sorted(self._fixed)}: run it first"
            )
        guess: dict[str, Array] = {}
        for argument in self._inputs:
            if argument.dims is None or argument.dtype is None:
                raise QrtError(f"the shape of input {argument.name!r} is unknown: run it first")
            dims = [dim if isinstance(dim, int) else 1 for dim in argument.dims]
            guess[argument.name] = np.zeros(dims, argument.dtype)
        return self._executor_for(guess)

    def _forked(self) -> None:
        """In the child of a fork: whoever held a lock does not exist here."""
        self._lock = threading.Lock()
        self._budget.forked()


def _after_fork() -> None:
    for session in list(_sessions):
        session._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
