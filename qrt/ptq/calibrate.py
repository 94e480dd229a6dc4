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
    names, inputs = list(kinds), {value.name for value in draft.inputs}
    run = runner(with_outputs(draft, names))
    observers = {name: OBSERVERS[kind]() for name, kind in kinds.items()}
    count = 0
    constants: dict[str, float | None] = {}  # the value of inputs that had one only
    for feed in feeds:
        for name, x in feed.items():
            same = x.size and bool((x == x.flat[0]).all())
            value = constants.get(name, x.flat[0]) if same else None
            constants[name] = value if same and value == x.flat[0] else None
        for name, array in zip(names, run(feed), strict=True):
            try:
                observers[name].update(np.asarray(array))
            except QuantizationError as error:
                cause = "leave such samples out" if name in inputs else "the float model overflows"
                raise QuantizationError(
                    f"tensor '{name}' in run {count} of the calibration data: {error}; {cause}"
                ) from None
        count += 1
        progress(count)
    if not count:
        raise InputError("the calibration data are empty: give at least one sample")
    if constants.keys() == inputs and None not in constants.values():
        name, value = next(iter(constants.items()))
        raise InputError(
            f"input '{name}' is {value:g} everywhere in the calibration data: give samples as the"
            " model will see them"
        )
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
