"""The cheapest mix of int8, 16-bit activations and float that loses no more than it may.

All in int8 first: where that is good enough, nothing else is tried. Otherwise every rounding's
noise is measured by itself (`sensitivity`), and steps (wider activations behind a layer, or a layer
in float) are lined up by the noise that they take away for what they cost (`cost`), best first.
Bisection finds how many of them the score needs; then each is taken back, the least useful first,
and left out where the score does not miss it. The number of evaluations is bounded; the same
model, data and score give the same mix.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qrt.errors import InputError, QuantizationError
from qrt.ptq import cost
from qrt.ptq.calibrate import Runner
from qrt.ptq.config import Grid, QuantConfig, Rule, config_of
from qrt.ptq.draft import Model
from qrt.ptq.plan import make_plan
from qrt.ptq.prepare import copied, prepare
from qrt.ptq.samples import Samples, read_arrays
from qrt.ptq.sensitivity import Layer, layers_of, measure
from qrt.ptq.static import OPSET, quantize_static
from qrt.quant.affine import Array

WIDE = 16  # bits of wider activations
EVALUATIONS = 40
EXACT = 1e-9  # scores are floats
Evaluate = Callable[[onnx.ModelProto], float]
Step = tuple[str, int]  # INT16 or FLOAT, and the layer it is for


@dataclass(frozen=True)
class LayerChoice:
    """What became of a layer, and why.

    Sensitivities are shares of the outputs' power: what rounding its weights and what it writes to
    8 bits adds alone. `cost` is in multiply-adds of 8 bits (`qrt.ptq.cost`).
    """

    layer: str
    op: str
    choice: str
    reason: str
    weight_sensitivity: float
    output_sensitivity: float
    cost: float


@dataclass(frozen=True)
class TargetReport:
    """The scores and costs of the whole, and every layer's choice in the order of the graph."""

    float_score: float
    int8_score: float
    score: float
    target: float
    evaluations: int
    int8_cost: float
    float_cost: float
    cost: float
    layers: tuple[LayerChoice, ...] = field(default=())

    @property
    def is_met(self) -> bool:
        """True where the score is within the drop."""
        return self.score >= self.target - EXACT

    def table(self) -> str:
        """Text: a line per layer, the whole below."""
        rows = [("layer", "weights dB", "output dB", "choice", "cost", "reason")]
        for layer in self.layers:
            rows.append(
                (
                    f"{layer.op} {layer.layer}",
                    _decibels(layer.weight_sensitivity),
                    _decibels(layer.output_sensitivity),
                    layer.choice,
                    f"{100 * layer.cost / max(self.cost, 1e-9):.1f} %",
                    layer.reason,
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(
                [f"{row[0]:<{widths[0]}}", f"{row[1]:>{widths[1]}}", f"{row[2]:>{widths[2]}}",
                 f"{row[3]:<{widths[3]}}", f"{row[4]:>{widths[4]}}", row[5]]
            )
            for row in rows
        ]  # fmt: skip
        lines.append(
            f"score {self.score:.4f} (float {self.float_score:.4f}, int8 {self.int8_score:.4f},"
            f" target {self.target:.4f}: {'met' if self.is_met else 'missed'}),"
            f" cost {self.cost / self.int8_cost:.2f} of int8 and"
            f" {self.cost / self.float_cost:.2f} of float, {self.evaluations} evaluations"
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def quantize_to_target(
    model: Model,
    data: Any,
    target_drop: float,
    *,
    evaluate: Evaluate | None,
    labels: tuple[Any, Any] | None,
    config: QuantConfig | str | None,
    max_evaluations: int,
    runner: Runner,
    progress: Callable[[str], None],
) -> tuple[onnx.ModelProto, TargetReport]:
    """See `qrt.quantize_to_target`."""
    if not target_drop >= 0:
        raise QuantizationError(
            f"target_drop is 0 or more, in units of the score, got {target_drop}"
        )
    if (evaluate is None) == (labels is None):
        raise QuantizationError("give either evaluate, a function of a model, or labels=(x, y)")
    if max_evaluations < 3:
        raise QuantizationError(f"at least 3 evaluations are needed, got {max_evaluations}")
    draft = prepare(model)
    draft.need_opset(OPSET)
    if evaluate is None:
        assert labels is not None
        evaluate = top1(*labels, draft.inputs, runner)
    search = _Search(
        copied(draft).model(), Samples(data, draft.inputs, keep=True), config_of(config), evaluate,
        max_evaluations, runner, progress,
    )  # fmt: skip
    return search.result(target_drop)


def top1(x: Any, y: Any, inputs: Sequence[onnx.ValueInfoProto], runner: Runner) -> Evaluate:
    """A function from a model to the share of samples whose class, `y`, its first output says.

    Raises InputError when x and y do not fit together.
    """
    classes = np.asarray(y).reshape(-1)
    if classes.dtype.kind not in "iu" or not classes.size:
        raise InputError(f"labels are class numbers, one per sample, got {classes.dtype}")
    samples = Samples(x, inputs, keep=True)

    def evaluate(model: onnx.ModelProto) -> float:
        run = runner(model)
        said: list[Array] = []
        for feed in samples:
            rows = np.asarray(run(feed)[0])
            many = len(next(iter(feed.values())))
            said.append(rows.reshape(many, -1).argmax(axis=1))
        found = np.concatenate(said) if said else np.zeros(0, np.int64)
        # what does not fill a batch is not fed
        if not said or not 0 <= len(classes) - len(found) < len(said[-1]):
            raise InputError(f"there are {len(classes)} labels for {len(found)} samples")
        return float((found == classes[: len(found)]).mean())

    return evaluate


def read_labelled(path: str | os.PathLike[str]) -> tuple[Any, Array]:
    """(samples, classes) of an .npz file: classes are its `y`, what else it has are inputs.

    Raises InputError when there is no such array, or the file cannot be read.
    """
    arrays = read_arrays(Path(path))
    if "y" not in arrays or len(arrays) < 2:
        raise InputError(f"'{path}' must have classes as `y`, and samples beside it")
    classes = arrays.pop("y")
    return (next(iter(arrays.values())) if len(arrays) == 1 else arrays), classes


class _Search:
    """One search: the layers, the scores so far, and the best mix that they allow."""

    def __init__(
        self, model: onnx.ModelProto, samples: Samples, config: QuantConfig, evaluate: Evaluate,
        most: int, runner: Runner, progress: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._model, self._samples, self._config = model, samples, config
        self._evaluate, self._runner, self._progress = evaluate, runner, progress
        self._most, self._count = most, 0
        self._draft = prepare(model)
        self._plan = make_plan(self._draft, config)
        self._layers: list[Layer] = []
        self._scores: dict[frozenset[Step], float] = {}
        self._kept = model  # that of the best mix: the last one that reached the target
        self._in_float = self._target = math.inf

    def result(self, drop: float) -> tuple[onnx.ModelProto, TargetReport]:
        """The model and why it is what it is."""
        in_float = self._in_float = self._evaluated(self._model, "float")
        self._target = in_float - drop
        int8 = best = frozenset[Step]()
        in_int8 = self._score(int8)
        self._layers = layers_of(self._draft, self._plan, self._samples, self._runner)
        kept: dict[Step, str] = {}
        is_mixed = in_int8 < self._target - EXACT
        if is_mixed:
            self._progress("measuring sensitivities")
            measure(
                self._layers, self._draft, self._plan, self._config, self._samples, self._runner
            )
            path = self._path()
            best, kept = self._lowered(self._bisect(path), path)
        report = TargetReport(
            in_float, in_int8, self._score(best), self._target, self._count,
            sum(self._costs(int8)), sum(self._costs(frozenset(self._every()))),
            sum(self._costs(best)), self._choices(best, kept, is_mixed),
        )  # fmt: skip
        return self._kept, report

    # scores

    def _evaluated(self, model: onnx.ModelProto, what: str) -> float:
        self._count += 1
        said = self._evaluate(model)
        try:
            score = float(said)
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            raise QuantizationError(f"evaluate must return a finite number, got {said!r}")
        self._progress(f"{what}: {score:.4f}")
        return score

    def _score(self, steps: frozenset[Step]) -> float:
        """The score of a mix."""
        if steps not in self._scores and not self._in_integers(steps):
            self._scores[steps] = self._in_float
        if steps not in self._scores:
            counts = {kind: sum(s[0] == kind for s in steps) for kind in (cost.INT16, cost.FLOAT)}
            what = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
            config = self._config_of(steps)
            made = quantize_static(self._model, self._samples, config, self._runner)
            score = self._scores[steps] = self._evaluated(made, what or "int8")
            if self._reaches(score):
                self._kept = made
        return self._scores[steps]

    def _in_integers(self, steps: frozenset[Step]) -> bool:
        """False where every product is in float: nothing is quantized then."""
        products = {(cost.FLOAT, i) for i, layer in enumerate(self._layers) if layer.is_product}
        return not products or not products <= steps

    def _reaches(self, score: float) -> bool:
        return score >= self._target - EXACT

    def _config_of(self, steps: frozenset[Step]) -> QuantConfig:
        base = self._config
        rules: dict[str, Rule] = dict(base.name_rules)
        tensors: dict[str, Grid] = dict(base.tensors)
        for kind, index in sorted(steps):
            layer = self._layers[index]
            if kind == cost.FLOAT:
                rules |= {escape(name): Rule(skip=True) for name in layer.nodes[:1]}
            else:
                grid = self._plan.grids[layer.tensor]
                tensors |= {name: replace(grid, bits=WIDE) for name in layer.tensors}
        mix = replace(base, name_rules=rules, tensors=tensors)
        if not steps:
            return mix
        rounded = make_plan(self._draft, mix).grids  # of these, what only float layers touch is not
        return replace(mix, tensors={name: g for name, g in tensors.items() if name in rounded})

    # what steps are worth

    def _every(self) -> list[Step]:
        """All steps there are. A layer without a product only writes: wider is enough for it."""
        steps: list[Step] = []
        for index, layer in enumerate(self._layers):
            if layer.tensor and self._plan.grids[layer.tensor].bits < WIDE:
                steps.append((cost.INT16, index))
            if layer.is_product:
                steps.append((cost.FLOAT, index))
        return steps

    def _noise(self, step: Step) -> float:
        layer = self._layers[step[1]]
        return layer.output_noise if step[0] == cost.INT16 else layer.weight_noise

    def _costs(self, steps: frozenset[Step]) -> list[float]:
        """Cost of every layer in a mix. What only float layers write and read is not rounded."""
        in_float: list[bool] = []
        for index, layer in enumerate(self._layers):
            reads_float = bool(layer.reads) and all(in_float[i] for i in layer.reads)
            is_input = not layer.nodes
            follows = reads_float and not layer.is_product
            in_float.append(is_input or follows or (cost.FLOAT, index) in steps)
        read_in_integers = {
            i for index, layer in enumerate(self._layers) if not in_float[index]
            for i in layer.reads
        }  # fmt: skip

        def written(index: int) -> str:
            if in_float[index] and index not in read_in_integers:
                return cost.FLOAT
            return cost.INT16 if (cost.INT16, index) in steps else cost.INT8

        found = []
        for index, layer in enumerate(self._layers):
            kinds = {written(i) for i in layer.reads}
            read = next((k for k in (cost.INT16, cost.FLOAT) if k in kinds), cost.INT8)
            precision = cost.INT8
            if in_float[index]:
                precision = cost.FLOAT
            elif layer.work.macs:
                precision = cost.INT16 if read == cost.INT16 else cost.INT8
            elif cost.INT16 in (read, written(index)):
                precision = cost.FLOAT  # only products compute with 16 bits in integers
            work = cost.cost(layer.work, precision, read, written(index))
            found.append(work if layer.nodes else 0.0)
        return found

    # the search

    def _path(self) -> list[Step]:
        """Steps, the one that takes away most noise for its cost first."""
        left, path = self._every(), []
        steps = frozenset[Step]()
        while left:
            now = sum(self._costs(steps))
            # what costs nothing, or less than nothing, counts as next to nothing
            extra = {step: max(sum(self._costs(steps | {step})) - now, 1.0) for step in left}
            step = max(left, key=lambda s: (self._noise(s) / extra[s], -s[1], s[0]))
            left.remove(step)
            path.append(step)
            steps |= {step}
        return path

    def _bisect(self, path: list[Step]) -> frozenset[Step]:
        """The shortest part of the path, from its start, that was seen to reach the target.

        All of it, which is the float model, where none did that costs less than float.
        """
        most = sum(self._costs(frozenset(path)))

        def is_dear(count: int) -> bool:
            return sum(self._costs(frozenset(path[:count]))) >= most

        low, high = 0, len(path)
        found = high
        while high - low > 1 and self._count < self._most:
            middle = (low + high) // 2
            if is_dear(middle):
                high = middle
            elif self._reaches(self._score(frozenset(path[:middle]))):
                high = found = middle
            else:
                low = middle
        return frozenset(path[:found])

    def _lowered(
        self, best: frozenset[Step], path: Sequence[Step]
    ) -> tuple[frozenset[Step], dict[Step, str]]:
        """Without the steps that the score does not miss; of the others, what keeps them."""
        kept: dict[Step, str] = {}
        for step in reversed([s for s in path if s in best]):
            less = best - {step}
            costs, now = self._costs(less), self._costs(best)
            if costs == now:
                # nothing rounds this tensor: only float layers touch it
                best, self._scores[less] = less, self._score(best)
            elif sum(costs) >= sum(now):
                kept[step] = "integers would cost more between such neighbours"
            elif self._count < self._most:
                score = self._score(less)
                if self._reaches(score):
                    best = less
                else:
                    kept[step] = f"score {score:.4f}"
        return best, kept

    # the report

    def _choices(
        self, best: frozenset[Step], kept: Mapping[Step, str], is_mixed: bool
    ) -> tuple[LayerChoice, ...]:
        noise = sum(layer.weight_noise + layer.output_noise for layer in self._layers) or 1.0
        rows = []
        for index, (layer, layer_cost) in enumerate(
            zip(self._layers, self._costs(best), strict=True)
        ):
            taken = [step for kind in (cost.FLOAT, cost.INT16) if (step := (kind, index)) in best]
            if taken:
                reason = "; ".join(self._why(step, noise, kept) for step in taken)
            elif is_mixed:
                share = 100 * (layer.weight_noise + layer.output_noise) / noise
                reason = f"{share:.1f} % of the noise, which the score can bear"
            else:
                reason = "all of the model in int8 is within the drop"
            choice = taken[0][0] if taken else cost.INT8
            rows.append(
                LayerChoice(layer.name, layer.op, choice, reason, layer.weight_noise,
                            layer.output_noise, layer_cost)
            )  # fmt: skip
        rows += [
            LayerChoice(name, "", cost.FLOAT, why, 0.0, 0.0, 0.0)
            for name, why in self._plan.notes.items()
        ]
        return tuple(rows)

    def _why(self, step: Step, noise: float, kept: Mapping[Step, str]) -> str:
        what = "output" if step[0] == cost.INT16 else "weights"
        text = f"{what} in 8 bits: {100 * self._noise(step) / noise:.1f} % of the noise"
        return f"{text}, {kept.get(step, 'not tried any more')}"


def _decibels(share: float) -> str:
    """Signal to noise; nothing where nothing is rounded."""
    return f"{-10 * math.log10(share):.1f}" if share > 0 else ""
