"""Compare two models of one network, tensor by tensor: where quantization costs, and why.

A layer gives a tensor that both models have by one name; in the quantized one what counts is what
comes out of the pair behind it, if there is one. Accumulated error: both models run as they are.
Local error: the second one is cut at every such tensor and reads the first one's values there, so
that each layer starts from what it should have had (one run tells of all layers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qrt.errors import InputError, ModelError
from qrt.ptq import causes
from qrt.ptq.calibrate import Runner
from qrt.ptq.comparison import Comparison, LayerError
from qrt.ptq.draft import Draft, Model
from qrt.ptq.prepare import constants_to_arrays
from qrt.ptq.samples import Feeds, Samples
from qrt.quant.affine import Array


@dataclass
class Sums:
    """Squares of a tensor and of its differences, over all samples."""

    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0

    def add(self, want: Array, got: Array) -> None:
        """One more pair of arrays."""
        with np.errstate(invalid="ignore"):  # equal infinities, of masks
            gap = np.where(got == want, 0, got.astype(np.float64) - want)
        self.signal += float((want[np.isfinite(want)].astype(np.float64) ** 2).sum())
        self.noise += float((gap**2).sum())
        self.largest = max(self.largest, float(np.abs(gap).max(initial=0)))

    @property
    def sqnr(self) -> float:
        """dB; infinite where nothing differs."""
        if self.noise == 0:
            return float("inf")
        return 10 * float(np.log10(self.signal / self.noise)) if self.signal else float("-inf")


def compare_models(first: Model, second: Model, data: Any, runner: Runner) -> Comparison:
    """`second` (quantized) against `first` (float) on `data` (see `Samples`).

    Raises ModelError when their inputs or shapes differ or they share no tensor, InputError without
    data and for such that are not finite.
    """
    a, b = Draft.of(first), Draft.of(second)
    for draft in (a, b):
        constants_to_arrays(draft)
    names = [value.name for value in a.inputs]
    if names != [value.name for value in b.inputs]:
        raise ModelError(
            f"the models must have the same inputs, got {names} and"
            f" {[value.name for value in b.inputs]}"
        )
    zeros = causes.take_zero_scales(b)
    made_by_b = b.producers()
    floats = a.floats() & b.floats()
    shared = [
        name for node in a.nodes for name in node.output if name in made_by_b and name in floats
    ]
    if not shared:
        raise ModelError("the models share no tensor: was one made from the other?")
    real = _real_forms(b, [*(name for name in names if name in floats), *shared])
    # an input counts where it is rounded
    real = {name: forms for name, forms in real.items() if name not in names or forms != [name]}
    cut = _cut(b, real)
    read = {value.name for value in cut.graph.input}
    alone = runner(cut)

    def run_alone(feed: Feeds, want: Mapping[str, Array]) -> Sequence[Any]:
        exact = {form: want[name] for name, forms in real.items() for form in forms}
        return alone({name: x for name, x in {**feed, **exact}.items() if name in read})

    exactly = runner(_with_outputs(a, shared))

    def run_first(feed: Feeds) -> dict[str, Array]:
        return {**feed, **dict(zip(shared, exactly(feed), strict=True))}

    run_second = runner(_with_outputs(b, [forms[0] for forms in real.values()]))
    feeds = Samples(data, a.inputs)
    return _measured(run_first, run_second, run_alone, list(real), a, b, zeros, feeds)


def _measured(
    run_first: Callable[[Feeds], Mapping[str, Array]],
    run_second: Callable[[Feeds], Sequence[Any]],
    run_alone: Callable[[Feeds, Mapping[str, Array]], Sequence[Any]],
    names: Sequence[str],
    a: Draft,
    b: Draft,
    zeros: dict[str, str],
    feeds: Iterable[Feeds],
) -> Comparison:
    local = {name: Sums() for name in names}
    accumulated = {name: Sums() for name in names}
    grids = causes.grids(b)
    seen = {name: causes.Seen(grids.get(name)) for name in names}
    count = 0
    for feed in feeds:
        _check_finite(feed, count)
        want = run_first(feed)
        for name, got in zip(names, run_second(feed), strict=True):
            if got.shape != want[name].shape:
                raise ModelError(
                    f"tensor '{name}' has shape {want[name].shape} in the first model and"
                    f" {got.shape} in the second: was one made from the other?"
                )
            accumulated[name].add(want[name], got)
        for name, got in zip(names, run_alone(feed, want), strict=True):
            local[name].add(want[name], got)
        for name in names:
            seen[name].add(want[name])
        count += 1
    if not count:
        raise InputError("the data are empty: give at least one sample")
    makers = a.producers()
    layers = [
        LayerError(
            name,
            makers[name].op_type if name in makers else "input",
            position,
            local[name].sqnr,
            accumulated[name].sqnr,
            accumulated[name].largest,
            causes.cause(name, local[name].sqnr, seen[name], a, b, zeros),
        )
        for position, name in enumerate(names)
    ]
    layers.sort(key=lambda layer: (layer.local_sqnr, layer.accumulated_sqnr))
    outputs = [v.name for v in a.graph.output if v.name in accumulated]
    return Comparison(
        tuple(layers), tuple((name, accumulated[name].sqnr) for name in outputs), count
    )


def _check_finite(feed: Feeds, run: int) -> None:
    """Raise InputError for NaN and infinities, which leave nothing to compare."""
    for name, x in feed.items():
        bad = int((~np.isfinite(x)).sum()) if x.dtype.kind == "f" else 0
        if bad:
            raise InputError(
                f"input '{name}' in run {run} of the data: {bad} of {x.size} values are not finite;"
                " leave such samples out"
            )


def _real_forms(draft: Draft, names: Sequence[str]) -> dict[str, list[str]]:
    """Under which names the values of each tensor are read: its own, or behind its pair."""
    consumers, outputs = draft.consumers(), draft.outputs
    found = {}
    for name in names:
        forms = [name]
        users = consumers.get(name, [])
        is_pair = len(users) == 1 and users[0].op_type == causes.QUANTIZE
        if is_pair and name not in outputs and users[0].input[0] == name:
            behind = consumers.get(users[0].output[0], [])
            if behind and all(node.op_type == causes.DEQUANTIZE for node in behind):
                forms = [node.output[0] for node in behind]
        found[name] = forms
    return found


def _with_outputs(draft: Draft, names: Sequence[str]) -> onnx.ModelProto:
    """The model with `names` as outputs, as it is otherwise."""
    made = draft.model(check=False)
    del made.graph.output[:]
    made.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return made


def _cut(draft: Draft, real: Mapping[str, Sequence[str]]) -> onnx.ModelProto:
    """The model cut at the forms of each tensor: inputs to what reads them, outputs of what makes
    them (of several forms, all the same, the first)."""
    made = draft.model(check=False)
    forms = [form for several in real.values() for form in several]
    renamed = {form: draft.fresh(f"{form}_made") for form in forms}
    for node in made.graph.node:
        node.output[:] = [renamed.get(name, name) for name in node.output]
    shapes = {
        v.name: v
        for v in onnx.shape_inference.infer_shapes(draft.model(check=False)).graph.value_info
    }
    shapes |= {v.name: v for v in draft.graph.output}
    read = {name for node in made.graph.node for name in node.input}
    for form in forms:
        if form in read:
            made.graph.input.append(
                shapes.get(form)
                or helper.make_tensor_value_info(form, onnx.TensorProto.FLOAT, None)
            )
    del made.graph.output[:]
    made.graph.output.extend(
        helper.make_tensor_value_info(renamed[several[0]], onnx.TensorProto.FLOAT, None)
        for several in real.values()
    )
    return made
