"""Calibration: run the float model on data while an observer looks at every tensor that matters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qrt.errors import InputError, QuantizationError
from qrt.ptq.draft import Draft
from qrt.ptq.observers import OBSERVERS, Observer
from qrt.quant.affine import Array

Feeds = Mapping[str, Array]
# makes a function from feeds to the model's outputs
Runner = Callable[[onnx.ModelProto], Callable[[Feeds], Sequence[Any]]]


def feeds_of(data: Any, inputs: Sequence[onnx.ValueInfoProto]) -> Iterator[dict[str, Array]]:
    """Feeds for single runs from what users have.

    `data` is an array whose first axis counts samples (for a model of one input), a dict of such
    arrays, an .npy or .npz file of samples, a folder of .npz files (one run each; arrays named by
    inputs), or an iterable of feeds (dict) or of arrays for one run. Raises InputError for
    anything else.
    """
    names = [value.name for value in inputs]
    if isinstance(data, (str, os.PathLike)):
        data = read_samples(data)
    if isinstance(data, np.ndarray):
        data = {_only(names): data}
    if isinstance(data, Mapping):
        arrays = _named(data, names)
        counts = {len(a) for a in arrays.values()}
        if len(counts) != 1:
            raise InputError(f"arrays of samples must be equally many, got {sorted(counts)}")
        for i in range(counts.pop()):
            yield {name: a[i : i + 1] for name, a in arrays.items()}
        return
    if not isinstance(data, Iterable):
        raise InputError(
            "calibration data are arrays, a dict of arrays, an .npz file, a folder of them, or an"
            f" iterable of these, got {type(data).__name__}"
        )
    for item in data:
        if isinstance(item, Mapping):
            yield _named(item, names)
        else:
            yield {_only(names): np.asarray(item)}


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


def read_samples(path: str | os.PathLike[str]) -> Iterator[dict[str, Array] | Array]:
    """Single runs from a file of samples or a folder of runs; see `feeds_of`.

    Raises InputError for what is neither, or cannot be read.
    """
    place = Path(path)
    if place.is_dir():
        found = sorted(place.glob("*.npz"))
        if not found:
            raise InputError(f"'{path}' holds no .npz file")
        return (_arrays(file) for file in found)
    if place.suffix == ".npy" and place.is_file():
        array = _loaded(place)
        return (array[i : i + 1] for i in range(len(array)))
    if place.suffix == ".npz" and place.is_file():
        arrays = _arrays(place)
        count = min((len(a) for a in arrays.values()), default=0)
        return ({k: a[i : i + 1] for k, a in arrays.items()} for i in range(count))
    raise InputError(f"'{path}' is neither a folder nor an .npy or .npz file")


def _arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file; an `in:` before a name is left out."""
    loaded = _loaded(path)
    with loaded:
        try:
            return {k.removeprefix("in:"): loaded[k] for k in loaded.files}
        except (ValueError, OSError) as error:
            raise InputError(f"'{path}' cannot be read: {error}") from None


def _loaded(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"'{path}' cannot be read: {error}") from None


def _only(names: Sequence[str]) -> str:
    if len(names) != 1:
        raise InputError(
            f"the model has {len(names)} inputs ({', '.join(names)}): name the arrays in a dict"
        )
    return names[0]


def _named(arrays: Mapping[str, Any], names: Sequence[str]) -> dict[str, Array]:
    """Only the inputs, all of them."""
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(
            f"the calibration data have no input '{missing[0]}', only"
            f" {', '.join(map(str, arrays)) or 'nothing'}"
        )
    return {name: np.asarray(arrays[name]) for name in names}
