"""Compare two models of one network, tensor by tensor: where quantization costs, and why.

Tensors of both that have one name are compared. Accumulated error: both models run as they are.
Local error: the second one is cut at every such tensor and reads the first one's values there, so
that each layer starts from what it should have had (one run tells of all layers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qrt.errors import InputError, ModelError
from qrt.ptq.calibrate import Runner
from qrt.ptq.draft import Draft, Model
from qrt.ptq.prepare import constants_to_arrays
from qrt.ptq.samples import Feeds, Samples
from qrt.quant.affine import Array

CLIPPED = 0.01  # share beyond the grid from which saturation is a cause
FEW_LEVELS = 24  # integers that the values reach at most where the grid is too coarse
PAIR = ("QuantizeLinear", "DequantizeLinear")
WIDE = 16.0  # times the median range, from which a channel is wide
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 24px auto; color: #1b1b1b }
table { border-collapse: collapse; font-size: 13px } th, td { padding: 3px 12px 3px 0;
text-align: left; border-bottom: 1px solid #ddd } td.n { text-align: right }
.bar { background: #4a9fd8; height: 10px } .local { background: #d55e00 }
"""


@dataclass
class Sums:
    """Squares of a tensor and of its differences, over all samples."""

    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0

    def add(self, want: Array, got: Array) -> None:
        """One more pair of arrays."""
        gap = got.astype(np.float64) - want
        self.signal += float((want.astype(np.float64) ** 2).sum())
        self.noise += float((gap**2).sum())
        self.largest = max(self.largest, float(np.abs(gap).max(initial=0)))

    @property
    def sqnr(self) -> float:
        """dB; infinite where nothing differs."""
        if self.noise == 0:
            return float("inf")
        return 10 * float(np.log10(self.signal / self.noise)) if self.signal else float("-inf")


@dataclass(frozen=True)
class LayerError:
    """A tensor that both models have. SQNRs in dB, the largest difference as accumulated."""

    tensor: str
    op: str
    local_sqnr: float
    accumulated_sqnr: float
    largest: float
    cause: str = ""


@dataclass(frozen=True)
class Comparison:
    """Layers, the one of least local SQNR first."""

    layers: tuple[LayerError, ...]
    samples: int

    def table(self, most: int | None = None) -> str:
        """Text, a line per layer."""
        rows = [("local dB", "accumulated dB", "largest", "layer", "cause")]
        for layer in self.layers[:most]:
            rows.append(
                (
                    f"{layer.local_sqnr:.1f}",
                    f"{layer.accumulated_sqnr:.1f}",
                    f"{layer.largest:.4g}",
                    f"{layer.op} {layer.tensor}",
                    layer.cause,
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            "  ".join([*(f"{row[i]:>{widths[i]}}" for i in range(3)),
                       f"{row[3]:<{widths[3]}}", row[4]]).rstrip()
            for row in rows
        )  # fmt: skip

    def page(self, title: str) -> str:
        """The table as one HTML page with bars, in the order of the worst local error."""
        ends = [v for e in self.layers for v in (e.local_sqnr, e.accumulated_sqnr)]
        most = max((v for v in ends if np.isfinite(v)), default=1.0)
        body = []
        for e in self.layers:
            cells = "".join(
                f'<td class="n">{v:.1f}</td><td><div class="bar {kind}" style="width:'
                f'{max(0.0, min(v, most)) / max(most, 1e-9) * 160:.0f}px"></div></td>'
                for v, kind in ((e.local_sqnr, "local"), (e.accumulated_sqnr, ""))
            )
            body.append(
                f"<tr><td>{escape(e.op)}</td><td>{escape(e.tensor)}</td>{cells}"
                f'<td class="n">{e.largest:.4g}</td><td>{escape(e.cause)}</td></tr>'
            )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
            f"<h1>{escape(title)}</h1><p>Signal to noise in dB over {self.samples} samples, more is"
            " better. Orange: of the layer alone, on exact inputs. Blue: with all that came before."
            "</p><table><tr><th>operator</th><th>tensor</th><th>local</th><th></th>"
            "<th>accumulated</th><th></th><th>largest</th><th>cause</th></tr>"
            f"{''.join(body)}</table></body></html>\n"
        )


def compare_models(first: Model, second: Model, data: Any, runner: Runner) -> Comparison:
    """`second` (quantized) against `first` (float) on `data` (see `Samples`).

    Raises ModelError when their inputs differ or they share no tensor, InputError without data.
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
    made_by_b = b.producers()
    floats = a.floats() & b.floats()
    shared = [
        name for node in a.nodes for name in node.output if name in made_by_b and name in floats
    ]
    if not shared:
        raise ModelError("the models share no tensor: was one made from the other?")
    cut = _cut(b, shared)
    read = {value.name for value in cut.graph.input}
    alone = runner(cut)
    runs: tuple[Callable[[Feeds], Sequence[Any]], ...] = (
        runner(_with_outputs(a, shared)),
        runner(_with_outputs(b, shared)),
        lambda feeds: alone({name: array for name, array in feeds.items() if name in read}),
    )
    return _measured(runs, shared, a, b, Samples(data, a.inputs))


def _measured(
    runs: Sequence[Any], shared: Sequence[str], a: Draft, b: Draft, feeds: Iterable[Feeds]
) -> Comparison:
    local = {name: Sums() for name in shared}
    accumulated = {name: Sums() for name in shared}
    beyond: dict[str, list[float]] = {name: [] for name in shared}
    reached: dict[str, float] = dict.fromkeys(shared, 0.0)
    grids = _grids(b)
    count = 0
    for feed in feeds:
        want = dict(zip(shared, runs[0](feed), strict=True))
        for name, got in zip(shared, runs[1](feed), strict=True):
            accumulated[name].add(want[name], got)
        for name, got in zip(shared, runs[2]({**feed, **want}), strict=True):
            local[name].add(want[name], got)
        for name in shared:
            if name in grids:
                low, high, step = grids[name]
                x = want[name]
                beyond[name].append(float(((x < low - step) | (x > high + step)).mean()))
                reached[name] = max(reached[name], float(np.ptp(x)) / step if x.size else 0.0)
        count += 1
    if not count:
        raise InputError("the data are empty: give at least one sample")
    makers = a.producers()
    layers = [
        LayerError(
            name,
            makers[name].op_type,
            local[name].sqnr,
            accumulated[name].sqnr,
            accumulated[name].largest,
            _cause(name, b, beyond[name], reached[name], name in grids),
        )
        for name in shared
    ]
    layers.sort(key=lambda layer: (layer.local_sqnr, layer.accumulated_sqnr))
    return Comparison(tuple(layers), count)


def _with_outputs(draft: Draft, names: Sequence[str]) -> onnx.ModelProto:
    """The model with `names` as outputs, as it is otherwise."""
    made = draft.model(check=False)
    del made.graph.output[:]
    made.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return made


def _cut(draft: Draft, names: Sequence[str]) -> onnx.ModelProto:
    """The model cut at `names`: inputs to what reads them, outputs of what makes them."""
    made = draft.model(check=False)
    cut = set(names)
    renamed = {name: draft.fresh(f"{name}_made") for name in names}
    for node in made.graph.node:
        node.output[:] = [renamed.get(name, name) for name in node.output]
    shapes = {
        v.name: v
        for v in onnx.shape_inference.infer_shapes(draft.model(check=False)).graph.value_info
    }
    shapes |= {v.name: v for v in draft.graph.output}
    read = {name for node in made.graph.node for name in node.input}
    for name in names:
        if name in cut & read:
            made.graph.input.append(
                shapes.get(name)
                or helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
    del made.graph.output[:]
    made.graph.output.extend(
        helper.make_tensor_value_info(renamed[name], onnx.TensorProto.FLOAT, None) for name in names
    )
    return made


def _grids(draft: Draft) -> dict[str, tuple[float, float, float]]:
    """(low, high, step) of the per-tensor pair behind a tensor, or that gives it."""
    found: dict[str, tuple[float, float, float]] = {}
    for node in draft.nodes:
        if node.op_type not in PAIR or len(node.input) < 3 or node.input[0] in draft.arrays:
            continue
        scale, zero_point = (draft.arrays.get(name) for name in node.input[1:3])
        if scale is None or zero_point is None or scale.size != 1:
            continue
        limits = np.iinfo(zero_point.dtype) if zero_point.dtype.kind in "iu" else None
        if limits is not None:
            step, zero = float(scale.reshape(())), int(zero_point.reshape(()))
            low, high = (limits.min - zero) * step, (limits.max - zero) * step
            named = node.input if node.op_type == "QuantizeLinear" else node.output
            found.setdefault(named[0], (low, high, step))
    return found


def _cause(name: str, draft: Draft, beyond: list[float], reached: float, has_grid: bool) -> str:
    """Why the tensor differs, where that can be seen."""
    causes = []
    share = float(np.mean(beyond)) if beyond else 0.0
    if share > CLIPPED:
        causes.append(f"saturation: {100 * share:.1f} % lie beyond the grid")
    elif has_grid and reached == 0:
        causes.append("constant on these data")
    elif has_grid and reached < FEW_LEVELS:
        causes.append(f"coarse grid: the values reach {reached:.0f} steps of it")
    wide = _wide_channel(name, draft)
    if wide:
        causes.append(wide)
    return "; ".join(causes)


def _wide_channel(name: str, draft: Draft) -> str:
    """A weight whose one scale serves channels of very different ranges."""
    producers = draft.producers()
    node = producers.get(name)
    while node is not None and node.op_type in (*PAIR, "Relu", "Clip", "Add", "Cast", "Mul"):
        node = producers.get(node.input[0])
    if node is None or node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
        return ""
    maker = producers.get(node.input[1])
    if maker is None or maker.op_type != "DequantizeLinear":
        return ""
    codes, scale = (draft.arrays.get(n) for n in maker.input[:2])
    if codes is None or scale is None or scale.size != 1 or codes.ndim < 2:
        return ""
    axis = 0 if node.op_type == "Conv" else codes.ndim - 1
    others = tuple(a for a in range(codes.ndim) if a != axis)
    ranges = np.abs(codes.astype(np.int64)).max(axis=others)
    middle = float(np.median(ranges))
    if middle * WIDE >= ranges.max():
        return ""
    return f"one wide channel: {int(ranges.argmax())} spans {ranges.max() / max(middle, 0.5):.0f}x"
