"""Reconstruction: fine-tune a quantized model until its layers give what the float ones do.

Codes stay as they were rounded, layer by layer. Scales of weights and activations, and biases, are
learned together over the whole model, from samples without labels: the loss is how far
the outputs, and the tensors between layers on which all that follows depends, are from the float
model's, each relative to its variance (as in Li et al. 2021, BRECQ, but with all blocks in one
descent). That is training with quantization, its teacher the float model.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from qrt.errors import InputError, QuantizationError
from qrt.ptq.adam import Adam
from qrt.ptq.backprop import VIEWS
from qrt.ptq.calibrate import Runner, with_outputs
from qrt.ptq.draft import Draft
from qrt.ptq.network import Network, Values, cuts, path
from qrt.ptq.samples import Feeds
from qrt.quant.affine import Array

EPOCHS = 10
BATCH = 20  # samples
MOST_NBYTES = 256 << 20  # of the float model's tensors that are compared
OUTPUT_WEIGHT = 1.0  # of the outputs' loss; that of all other tensors together is 1
NEAR = 0.1  # root mean square by which our forward pass may differ from the model's, relative
SEED = 11


def reconstruct(
    made: onnx.ModelProto, reference: Draft, samples: Iterable[Feeds], runner: Runner
) -> onnx.ModelProto:
    """`made`, the quantized form of `reference`, with scales and biases learned on `samples`; as it
    was where they do not lower the loss.

    Raises QuantizationError for operators without a gradient and for models whose samples do not
    lie along axis 0.
    """
    draft = Draft(made)
    feeds = [dict(feed) for feed in samples]
    if not feeds:
        raise InputError("the calibration data are empty: give at least one sample")
    net = Network(draft, _shapes(draft, feeds[0], runner))
    x = {name: np.concatenate([np.asarray(f[name]) for f in feeds]) for name in feeds[0]}
    _check(net, made, feeds, runner)
    teacher = _Teacher(reference, x, feeds, runner)
    before = teacher.loss(net)
    _descend(net, teacher)
    if not teacher.loss(net) < before:
        return made
    net.write()
    return draft.model()


class _Teacher:
    """What the float model gives: the tensors that are compared, for all samples."""

    def __init__(
        self, reference: Draft, x: Values, feeds: list[dict[str, Array]], runner: Runner
    ) -> None:
        self.x, self.count = x, len(next(iter(x.values())))
        names = cuts(reference)
        run = runner(with_outputs(reference, names))
        first = dict(zip(names, run(feeds[0]), strict=True))
        most = MOST_NBYTES // len(feeds)
        while len(names) > 1 and sum(first[name].nbytes for name in names) > most:
            names.remove(max(names, key=lambda name: first[name].nbytes))
        seen: dict[str, list[Array]] = {name: [] for name in names}
        run = runner(with_outputs(reference, names))
        for feed in feeds:
            for name, array in zip(names, run(feed), strict=True):
                seen[name].append(np.asarray(array, np.float32))
        self._wanted = {name: np.concatenate(arrays) for name, arrays in seen.items()}
        outputs = reference.outputs.intersection(names)
        between = max(1, len(names) - len(outputs))
        self._weights = {
            name: (OUTPUT_WEIGHT / len(outputs) if name in outputs else 1 / between)
            / (float(wanted.var()) or 1.0)
            for name, wanted in self._wanted.items()
        }

    def compare(self, values: Values, drawn: Array) -> tuple[float, Values]:
        """The loss of these samples, and its gradients by what is compared."""
        loss, slopes = 0.0, {}
        for name, wanted in self._wanted.items():
            off = values[name] - wanted[drawn]
            weight = self._weights[name] / off.size
            loss += weight * float(np.vdot(off, off))
            slopes[name] = off * np.float32(2 * weight)
        return loss, slopes

    def loss(self, net: Network) -> float:
        """The mean loss of all samples."""
        parts = np.array_split(np.arange(self.count), max(1, self.count // BATCH))
        return sum(
            len(part) * self.compare(net.forward(self.batch(part))[0], part)[0] for part in parts
        )

    def batch(self, drawn: Array) -> Values:
        """Inputs of some samples."""
        return {name: array[drawn] for name, array in self.x.items()}


def _descend(net: Network, teacher: _Teacher) -> None:
    parameters = net.parameters
    adam = Adam(
        [array for one in parameters for array in one.learned],
        [rate for one in parameters for rate in one.rates],
    )
    rng = np.random.default_rng(SEED)
    each = max(1, teacher.count // BATCH)
    for step in range(EPOCHS * each):
        if step % each == 0:
            order = np.array_split(rng.permutation(teacher.count), each)
        drawn = order[step % each]
        values, tape = net.forward(teacher.batch(drawn))
        _, slopes = teacher.compare(values, drawn)
        found = net.backward(tape, slopes)
        pace = 0.5 * (1 + np.cos(np.pi * step / (EPOCHS * each)))
        adam.step([array for one in parameters for array in found[id(one)]], pace)


def _shapes(draft: Draft, feed: Feeds, runner: Runner) -> dict[str, tuple[int, ...]]:
    """Shapes that views give, without axis 0."""
    names = [node.output[0] for node in path(draft) if node.op_type in VIEWS]
    if not names:
        return {}
    found = runner(with_outputs(draft, names))(feed)
    return {name: array.shape[1:] for name, array in zip(names, found, strict=True)}


def _check(
    net: Network, made: onnx.ModelProto, feeds: list[dict[str, Array]], runner: Runner
) -> None:
    """Raise QuantizationError unless samples run together as they do alone."""
    names = [value.name for value in made.graph.output]
    some = feeds[:4]
    run = runner(made)
    wanted = [np.concatenate(arrays) for arrays in zip(*(run(feed) for feed in some), strict=True)]
    together = {name: np.concatenate([feed[name] for feed in some]) for name in feeds[0]}
    values, _ = net.forward(together)
    for name, want in zip(names, wanted, strict=True):
        got = values[name]
        off = np.square(got - want, dtype=np.float64).mean() if got.shape == want.shape else np.inf
        if off > NEAR**2 * max(np.square(want, dtype=np.float64).mean(), 1e-12):
            raise QuantizationError(
                f"output '{name}', computed for several samples together, is not what the model"
                " gives for each: it cannot be reconstructed"
            )
