"""The programs of one stage: one for each set of input shapes (and fixed values) of late."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from qrt.api.progress import ProgressLine
from qrt.api.recipe import OpenRecipe, Recipe
from qrt.api.resources import Resources
from qrt.program import build_program
from qrt.vm import Executor

Array = np.ndarray[Any, Any]

MAX_PROGRAMS = 16  # input shapes whose programs and arenas are kept


class Programs:
    """Programs of `recipe`, made when their shapes are first seen. Threads may share it."""

    def __init__(self, recipe: Recipe | OpenRecipe, shared: Resources) -> None:
        self.names = tuple(value.name for value in recipe.graph.inputs)
        self.fixed = recipe.fixed_inputs
        self.latest: Executor | None = None  # what a run tries first
        self.shared = shared
        self._recipe: Recipe | OpenRecipe | None = recipe
        self._executors: OrderedDict[Hashable, Executor] = OrderedDict()
        shared.programs.add(self)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Outputs for `arrays`, in the order of the recipe's inputs."""
        executor = self.latest
        if executor is not None:
            for array, (_, dtype, shape) in zip(arrays, executor.expected):  # noqa: B905 (speed)
                if array.dtype is not dtype or array.shape != shape:
                    break
            else:
                return executor.run(arrays)
        by_name = dict(zip(self.names, arrays, strict=True))
        executor = self.executor_for(by_name)
        return executor.run([by_name[name] for name, _, _ in executor.expected])

    def executor_for(self, arrays: Mapping[str, Array]) -> Executor:
        """The executor for these inputs, all of them, in the order of `names`."""
        values = {name: arrays[name] for name in arrays if name in self.fixed}
        key = (
            tuple((array.shape, array.dtype) for array in arrays.values()),
            tuple(value.tobytes() for value in values.values()),
        )
        with self.shared.lock:
            executor = self._executors.get(key)
            if executor is None:
                executor = self._build(arrays, values)
                self._keep(key, executor)
            self._executors.move_to_end(key)
            if not self.fixed and tuple(name for name, _, _ in executor.expected) == self.names:
                self.latest = executor
            return executor

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Build the one program of inputs whose shapes are all known, and let the graph go."""
        assert self._recipe is not None and not self.fixed
        dtypes = {value.name: value.dtype for value in self._recipe.graph.inputs}
        empty = {name: np.broadcast_to(np.zeros((), dtypes[name]), shapes[name]) for name in shapes}
        self.executor_for(empty)
        self.shared.pool.forget()
        self._recipe = None

    def drop(self) -> None:
        """Forget all programs; the lock is held."""
        self._executors.clear()
        self.latest = None

    def any_executor(self) -> Executor | None:
        """That of the latest inputs."""
        with self.shared.lock:
            return next(reversed(self._executors.values()), None)

    def _build(self, arrays: Mapping[str, Array], values: Mapping[str, Array]) -> Executor:
        recipe, shared = self._recipe, self.shared
        assert recipe is not None
        if isinstance(recipe, OpenRecipe):
            recipe = recipe.of(arrays)
        shapes = {name: array.shape for name, array in arrays.items()}
        program = build_program(
            recipe.specialize(shapes, values),
            shared.features,
            shared.threads,
            shared.pool,
            ops=shared.ops,
            max_bytes=shared.max_bytes,
        )
        return Executor(
            program,
            shared.features,
            threads=shared.threads,
            budget=shared.budget,
            progress=ProgressLine(),
        )

    def _keep(self, key: Hashable, executor: Executor) -> None:
        """Add an executor; the least recently used leave when there are too many."""
        shared = self.shared
        shared.added(executor)
        self._executors[key] = executor
        while len(self._executors) > MAX_PROGRAMS:
            self._executors.popitem(last=False)
            if shared.renew():
                for programs in list(shared.programs):
                    programs.drop()
                self._executors[key] = executor  # for the run that waits for it
