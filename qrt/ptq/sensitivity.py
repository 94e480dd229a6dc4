"""How much each rounding of a quantized model costs, one at a time, on unlabelled data.

A layer rounds in two places: its weights and what it writes. For each the float model runs with
that one rounding and nothing else, and the noise at its outputs is compared with what they are.
Such noises are small and all but independent, so they add up; ranked, they say what to spend bits
on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import onnx

from qrt.ptq.backends import CLAMPS, PRODUCTS
from qrt.ptq.calibrate import Runner, observe, with_outputs
from qrt.ptq.config import QuantConfig
from qrt.ptq.constants import qparams_of
from qrt.ptq.cost import Work
from qrt.ptq.draft import Draft, attributes
from qrt.ptq.plan import Plan
from qrt.ptq.prepare import copied
from qrt.ptq.samples import Feeds
from qrt.ptq.static import activation_qparams
from qrt.ptq.static_weights import weight_axis, weight_qparams
from qrt.quant.affine import Array, dequantize, quantize

SAMPLES = 16  # runs that a noise is measured on


@dataclass
class Layer:
    """A node of the plan, or an input of the graph: what it rounds and what that costs.

    `tensor` is what it writes (behind its clamp), "" where that has no grid; `tensors` are all that
    share the grid. Noises are shares of the outputs' power. `reads` are layers, by index, whose
    tensors it reads; `nodes` are its own and its clamp's names, none of an input.
    """

    name: str
    op: str
    nodes: tuple[str, ...] = ()
    tensor: str = ""
    tensors: tuple[str, ...] = ()
    is_product: bool = False
    reads: tuple[int, ...] = ()
    work: Work = field(default_factory=Work)
    weight_noise: float = 0.0
    output_noise: float = 0.0


def layers_of(draft: Draft, plan: Plan, feeds: Iterable[Feeds], runner: Runner) -> list[Layer]:
    """The layers of the plan with their work, as the first of `feeds` shapes it; no noises yet.

    Inputs and planned nodes in the order of the graph; clamps and movement belong to others.
    """
    layers = _layers(draft, plan)
    _find_work(draft, layers, next(iter(feeds)), runner)
    return layers


def measure(
    layers: Sequence[Layer], draft: Draft, plan: Plan, config: QuantConfig, feeds: Iterable[Feeds],
    runner: Runner,
) -> None:  # fmt: skip
    """Fill in the layers' noises, on the first `SAMPLES` of `feeds`; the draft stays as it is.

    Raises QuantizationError for values that are not finite.
    """
    feeds = list(islice(feeds, SAMPLES))
    qparams = activation_qparams(plan, observe(draft, plan.observers(), feeds, runner))
    noise = _Noise(draft, feeds, runner)
    nodes = {node.name: node for node in draft.nodes}
    for layer in layers:
        if layer.tensor:
            changed = copied(draft)
            _round(changed, layer.tensor, qparams[layer.tensor])
            layer.output_noise = noise.of(changed)
        w = draft.arrays.get(nodes[layer.nodes[0]].input[1]) if layer.is_product else None
        if w is not None:
            changed = copied(draft)
            node = next(n for n in changed.nodes if n.name == layer.nodes[0])
            grid = config.rule(node.op_type, node.name).weights or config.weights
            q = weight_qparams(w, grid, weight_axis(nodes[node.name], w))
            rounded = dequantize(quantize(w, q), q)
            node.input[1] = changed.constant(f"{node.input[1]}_rounded", rounded)
            layer.weight_noise = noise.of(changed)


class _Noise:
    """Runs changed models against the float one."""

    def __init__(self, draft: Draft, feeds: Sequence[Feeds], runner: Runner) -> None:
        self._feeds, self._runner = feeds, runner
        self._want = self._outputs(draft)
        self._power = [sum(float((y**2).sum()) for y in ys) or 1.0 for ys in self._want]

    def of(self, changed: Draft) -> float:
        """Power of the difference over power, the mean over outputs."""
        found = self._outputs(changed)
        shares = [
            sum(float(((a - b) ** 2).sum()) for a, b in zip(want, got, strict=True)) / power
            for want, got, power in zip(self._want, found, self._power, strict=True)
        ]
        return float(np.mean(shares))

    def _outputs(self, draft: Draft) -> list[list[Array]]:
        """Per output, its values of every sample; what is not float counts as it is."""
        run = self._runner(draft.model(check=False))
        rows = [[np.asarray(y, np.float64) for y in run(feed)] for feed in self._feeds]
        return [list(column) for column in zip(*rows, strict=True)]


def _layers(draft: Draft, plan: Plan) -> list[Layer]:
    owner: dict[str, int] = {}  # tensor: index of the layer that writes it
    layers: list[Layer] = []
    shares: dict[str, list[str]] = {}
    for name in plan.grids:
        shares.setdefault(plan.source(name), []).append(name)
    producers = draft.producers()
    planned = {id(node) for node in plan.nodes}

    def outside(name: str) -> None:
        """A tensor that is rounded though no planned node writes it."""
        if name not in owner and name in plan.grids and name not in draft.arrays:
            made = producers.get(name)
            op = "input" if made is None else made.op_type
            layers.append(Layer(made.name if made is not None else name, op))
            owner[name] = len(layers) - 1

    for node in draft.nodes:
        if id(node) not in planned:
            for name in node.output:  # what moves or clamps a layer's tensor, in float or not
                if node.op_type in CLAMPS and node.input[0] in owner:
                    owner.setdefault(name, owner[node.input[0]])
            continue
        for name in node.input:
            outside(name)
        if node.op_type in CLAMPS and node.input[0] in owner:
            index = owner[node.input[0]]
            layers[index].nodes += (node.name,)
        elif plan.source(node.output[0]) != node.output[0]:  # movement
            index = owner.get(plan.source(node.output[0]), -1)
        else:
            reads = tuple(dict.fromkeys(owner[n] for n in node.input if n in owner))
            is_product = node.op_type in PRODUCTS
            layers.append(
                Layer(node.name, node.op_type, (node.name,), is_product=is_product, reads=reads)
            )
            index = len(layers) - 1
        for name in node.output:
            owner[name] = index
    for name in plan.grids:
        if name in owner and plan.source(name) == name:
            layer = layers[owner[name]]
            layer.tensor = name
            layer.tensors = tuple(shares[name])
    return layers


def _find_work(draft: Draft, layers: Sequence[Layer], feed: Feeds, runner: Runner) -> None:
    """Multiply-adds and elements of one run, from the shapes that it has."""
    floats = draft.floats()
    nodes = {node.name: node for node in draft.nodes}
    wanted = [
        name
        for layer in layers
        if layer.nodes
        for name in (*nodes[layer.nodes[0]].input, nodes[layer.nodes[0]].output[0])
        if name in floats and name not in draft.arrays
    ]
    wanted = list(dict.fromkeys(wanted))
    found = runner(with_outputs(draft, wanted))(feed)
    shapes = {name: np.shape(y) for name, y in zip(wanted, found, strict=True)}
    for layer in layers:
        if layer.nodes:
            layer.work = _work(nodes[layer.nodes[0]], shapes, draft.arrays)


def _work(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, Array]
) -> Work:
    size = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    read = sum(size.get(name, 0) for name in dict.fromkeys(node.input))
    written = size[node.output[0]]
    if node.op_type not in PRODUCTS:
        return Work(read=read, written=written)
    w: Any = arrays.get(node.input[1])
    groups = attributes(node).get("group", 1)
    if node.op_type == "Conv":
        deep = int(np.prod(w.shape[1:]))
    else:
        turned = node.op_type == "Gemm" and attributes(node).get("transA", 0)
        deep = shapes[node.input[0]][-2 if turned else -1]
    return Work(
        "grouped" if groups > 1 else "dense", written * deep, read, written,
        0 if w is None else int(w.size),
    )  # fmt: skip


def _round(draft: Draft, name: str, q: Any) -> None:
    """Let all that read `name` read its rounded form, the graph's outputs too."""
    parts = qparams_of(draft, name, q)
    stored, back = draft.fresh(f"{name}_codes"), draft.fresh(f"{name}_rounded")
    pair = [
        draft.node("QuantizeLinear", [name, *parts], [stored]),
        draft.node("DequantizeLinear", [stored, *parts], [back]),
    ]
    for node in draft.nodes:
        for i, read in enumerate(node.input):
            if read == name:
                node.input[i] = back
    for value in draft.graph.output:
        if value.name == name:
            value.name = back
    made = next((i for i, n in enumerate(draft.nodes) if name in n.output), -1)
    draft.nodes[made + 1 : made + 1] = pair
