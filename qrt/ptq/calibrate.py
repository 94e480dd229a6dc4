"""Calibration: run the float model on data while an observer looks at every tensor that matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qrt.errors import InputError, QuantizationError
from qrt.ptq.draft import Draft
from qrt.ptq.observers import OBSERVERS, Observer
from qrt.ptq.samples import Feeds

# makes a function from feeds to the model's outputs
Runner = Callable[[onnx.ModelProto], Callable[[Feeds], Sequence[Any]]]


def observe(
    draft: Draft,
    kinds: Mapping[str, str],
    feeds: Iterable[Feeds],
    runner: Runner,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Observer]:
    """An observer of each tensor in `kinds` (name to kind of observer), after all `feeds`.

    Raises InputError when there is no data, QuantizationError, naming the tensor, when a value is
    not finite.
    """
    names = list(kinds)
    run = runner(with_outputs(draft, names))
    observers = {name: OBSERVERS[kind]() for name, kind in kinds.items()}
    count = 0
    for feed in feeds:
        for name, array in zip(names, run(feed), strict=True):
            try:
                observers[name].update(np.asarray(array))
            except QuantizationError as error:
                raise QuantizationError(
                    f"tensor '{name}' in run {count} of the calibration data: {error}"
                ) from None
        count += 1
        progress(count)
    if not count:
        raise InputError("the calibration data are empty: give at least one sample")
    return observers


def with_outputs(draft: Draft, names: Sequence[str]) -> onnx.ModelProto:
    """The model as it is, with `names` (float32 tensors) as its only outputs."""
    made = draft.model(check=False)
    del made.graph.output[:]
    inputs = {value.name: value for value in made.graph.input}
    for name in names:
        kept = inputs.get(name)
        info = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        if kept is None:
            made.graph.output.append(info)
            continue
        # an input as it is: through a node, since it cannot be an output by itself
        out = draft.fresh(f"{name}_seen")
        made.graph.node.append(helper.make_node("Identity", [name], [out]))
        made.graph.output.append(helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, None))
    return made
