"""Session: a model ready to run, with programs for each set of input shapes it has seen."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qrt.api.arguments import Argument
from qrt.api.explanation import Explanation, explain_program, explain_stages
from qrt.api.feeds import checked_feeds
from qrt.api.metadata import ModelMetadata
from qrt.api.programs import Programs
from qrt.api.recipe import Recipe
from qrt.api.resources import MAX_STEPS, Resources
from qrt.api.timing import Profile, profile_of
from qrt.errors import InputError, QrtError
from qrt.ir import Graph
from qrt.program.builder import Ops
from qrt.vm import Executor, time_rows

if TYPE_CHECKING:
    from qrt.api.runner import GraphRunner

Array = np.ndarray[Any, Any]

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    """Runs a model; made by `qrt.load`. Several threads may call `run` at once."""

    def __init__(
        self,
        model: Graph | Recipe,
        features: frozenset[str],
        *,
        threads: int = 1,
        max_bytes: int | None = None,
        max_steps: int = MAX_STEPS,
        ops: Ops | None = None,
    ) -> None:
        """`model`: a loaded graph, run stage by stage; or a recipe, which is one program."""
        self.features = features
        self.threads = threads
        self.max_bytes = max_bytes
        graph = model if isinstance(model, Graph) else model.graph
        self._inputs = tuple(Argument.of(v) for v in graph.inputs)
        self._outputs = tuple(Argument.of(v) for v in graph.outputs)
        self._output_index = {argument.name: i for i, argument in enumerate(self._outputs)}
        self._overridable = tuple(
            Argument.of(v) for v in graph.values() if v.name in graph.overridable
        )
        self._metadata = ModelMetadata(graph.name, dict(graph.opsets))
        self._shared = Resources(features, threads, max_bytes, max_steps, ops)
        self._runner: GraphRunner | None = None
        self._programs: Programs | None = None  # where they are all there is to run
        self._latest: Executor | None = None  # what `run` tries first
        _sessions.add(self)
        if isinstance(model, Graph):
            from qrt.api.runner import model_runner  # imports onnx, which programs do not need

            self._runner = model_runner(model, self._shared)
            self._programs = self._runner.only_programs()
        else:
            self._programs = Programs(model, self._shared)
        self._prepare()

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: object = None,
    ) -> list[Any]:
        """Outputs (all, or those named) for `input_feed`: name to array. Options are ignored.

        A sequence is a list of arrays, an optional a value or None, strings an array of dtype
        object. Raises InputError when a name, rank, shape, dtype or type does not fit.
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
        if self._programs is None:
            assert self._runner is not None
            return explain_stages(self._runner.plan, self._shared)
        executor = self._any_executor(self._programs)
        return explain_program(executor.program, self.features, executor.threads)

    def profile(self, inputs: Mapping[str, Any] | None = None, runs: int = 20) -> Profile:
        """Time every row over `runs` runs; without `inputs`, zeros of the latest shapes."""
        if runs < 1:
            raise InputError(f"runs must be at least 1, got {runs}")
        if self._programs is None:
            assert self._runner is not None
            given = list(self._guess().values()) if inputs is None else self._checked(inputs)
            return self._runner.profile(given, runs)
        if inputs is None:
            executor = self._any_executor(self._programs)
            arrays = [np.zeros(shape, dtype) for _, dtype, shape in executor.expected]
        else:
            by_name = self._by_name(self._checked(inputs))
            executor = self._programs.executor_for(by_name)
            arrays = [by_name[name] for name, _, _ in executor.expected]
        times = time_rows(executor, arrays, runs)
        return profile_of(executor.program, times, executor.threads)

    @property
    def nbytes(self) -> int:
        """Bytes of constants and of all arenas now."""
        return self._shared.nbytes

    def _run_checked(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        which = self._indices(names) if names else None
        values = self._checked(feeds)
        while self._programs is not None:
            by_name = self._by_name(values)
            try:
                executor = self._programs.executor_for(by_name)
            except QrtError as error:
                self._learn(error)
                continue
            self._latest = self._programs.latest
            return executor.run([by_name[name] for name, _, _ in executor.expected], which)
        assert self._runner is not None
        results = self._runner.run_once(values)
        return results if which is None else [results[i] for i in which]

    def _learn(self, error: QrtError) -> None:
        """Plan again where `error` tells something new about the model; else raise it."""
        if self._runner is None:
            raise error
        self._runner.learn(error)
        self._programs = self._runner.only_programs()
        self._latest = None

    def _checked(self, feeds: Mapping[str, Any]) -> list[Any]:
        return checked_feeds(self._inputs, feeds)

    def _by_name(self, values: Sequence[Any]) -> dict[str, Any]:
        return {a.name: value for a, value in zip(self._inputs, values, strict=True)}

    def _indices(self, names: Sequence[str]) -> list[int]:
        known = self._output_index
        if isinstance(names, str):
            raise InputError(f"output names must be a list, got the string {names!r}")
        try:
            return [known[name] for name in names]
        except (KeyError, TypeError) as error:
            listed = ", ".join(map(repr, known))
            raise InputError(f"no output is called {error}; the outputs are {listed}") from None

    def _prepare(self) -> None:
        """Plan what needs no run to be known; where that is all, let the graph go."""
        while True:
            try:
                if self._programs is None:
                    assert self._runner is not None
                    return self._runner.prepare()
                static = all(argument.is_static for argument in self._inputs)
                if static and not self._programs.fixed:
                    shapes = {a.name: tuple(a.shape) for a in self._inputs}
                    self._programs.prepare(shapes)  # type: ignore[arg-type]
                    self._latest = self._programs.latest
                    self._runner = None
                return None
            except QrtError as error:
                self._learn(error)

    def _any_executor(self, programs: Programs) -> Executor:
        executor = programs.any_executor()
        if executor is not None:
            return executor
        if programs.fixed:
            raise QrtError(
                f"the program depends on the values of {sorted(programs.fixed)}: run it first"
            )
        return programs.executor_for(self._guess())

    def _guess(self) -> dict[str, Array]:
        """Zeros of the declared shapes, unknown dimensions taken as 1."""
        guess: dict[str, Array] = {}
        for argument in self._inputs:
            if argument.dims is None or argument.dtype is None or argument.dtype.hasobject:
                raise QrtError(f"the shape of input {argument.name!r} is unknown: run it first")
            dims = [dim if isinstance(dim, int) else 1 for dim in argument.dims]
            guess[argument.name] = np.zeros(dims, argument.dtype)
        return guess

    def _forked(self) -> None:
        """In the child of a fork: whoever held a lock does not exist here."""
        self._shared.forked()
        if self._runner is not None:
            self._runner.forked()


def _after_fork() -> None:
    for session in list(_sessions):
        session._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
