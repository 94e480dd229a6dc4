"""Rows: what a product multiplies, in the float model and behind all that is quantized so far.

A convolution is a product over its patches: (positions, input channels * taps) per group. Of each
sample only some positions are kept, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx

from qrt.errors import InputError
from qrt.ptq.calibrate import Runner, with_outputs
from qrt.ptq.draft import Draft, attributes
from qrt.ptq.samples import Feeds
from qrt.quant.affine import Array

MOST_ROWS = 8192  # of all samples together
MOST_NBYTES = 32 << 20  # of one product's rows
AHEAD_NBYTES = 96 << 20  # of the float rows of products that are seen in one pass
SEED = 5  # of the positions that are kept


@dataclass(frozen=True)
class Seen:
    """Rows of one product, float32 (groups, rows, k): `exact` of the float model, and `quantized`,
    the same positions behind what is quantized so far."""

    exact: Array
    quantized: Array


class RowSource(Protocol):
    """Whatever tells what a product multiplies."""

    def seen(
        self, draft: Draft, made: list[onnx.NodeProto], node: onnx.NodeProto, source: str
    ) -> Seen | None:
        """Rows of a product that reads `source` behind `made`, the nodes so far; None for a product
        that is not understood."""
        ...


class Rows:
    """The rows of `nodes`, products with constant weights, in the order in which they run.

    Raises InputError when there are no samples.
    """

    def __init__(
        self, draft: Draft, nodes: Sequence[onnx.NodeProto], samples: Iterable[Feeds],
        runner: Runner,
    ) -> None:  # fmt: skip
        self._float = Draft(draft.model(check=False))
        self._samples, self._runner = samples, runner
        self._count = sum(1 for _ in samples)
        if not self._count:
            raise InputError("the calibration data are empty: give at least one sample")
        wanted = {node.output[0] for node in nodes}
        self._nodes = {
            node.output[0]: node
            for node in self._float.nodes
            if node.output[0] in wanted and not attributes(node).get("transA", 0)
        }
        self._exact: dict[str, Array] = {}

    def seen(
        self, draft: Draft, made: list[onnx.NodeProto], node: onnx.NodeProto, source: str
    ) -> Seen | None:
        """See `RowSource`."""
        out = node.output[0]
        if out not in self._nodes:
            return None
        if out not in self._exact:
            self._look_ahead(out)
        exact = self._exact.pop(out, None)
        if exact is None:
            return None
        nodes, draft.nodes = draft.nodes, made
        try:
            quantized = self._collect(draft, {out: source}).get(out)
        finally:
            draft.nodes = nodes
        return None if quantized is None else Seen(exact, quantized)

    def _look_ahead(self, out: str) -> None:
        """Float rows of this product, and of as many behind it as memory allows."""
        names: dict[str, str] = {}
        nbytes = 0
        outs = list(self._nodes)
        for other in outs[outs.index(out) :]:
            groups, k = self._shape(other)
            nbytes += 4 * groups * k * self._most(other)
            if names and nbytes > AHEAD_NBYTES:
                break
            names[other] = self._nodes[other].input[0]
        self._exact = self._collect(self._float, names)

    def _collect(self, draft: Draft, sources: dict[str, str]) -> dict[str, Array]:
        """Rows of products (by output) that read `sources` in `draft`."""
        names = list(dict.fromkeys(sources.values()))
        run = self._runner(with_outputs(draft, names))
        found: dict[str, list[Array]] = {out: [] for out in sources}
        for i, feed in enumerate(self._samples):
            values = dict(zip(names, run(feed), strict=True))
            for out, source in sources.items():
                most = self._most(out)
                if most < self._count and i % -(-self._count // most):
                    continue
                node = self._nodes[out]
                x = np.asarray(values[source], np.float32)
                each, rng = max(1, most // self._count), np.random.default_rng((SEED, i))
                rows = rows_of(node, x, self._float.arrays[node.input[1]], each, rng)
                if rows is not None:
                    found[out].append(rows)
        return {out: np.concatenate(rows, axis=1) for out, rows in found.items() if rows}

    def _shape(self, out: str) -> tuple[int, int]:
        """Groups and what is summed."""
        node = self._nodes[out]
        w = self._float.arrays[node.input[1]]
        if node.op_type == "Conv":
            return attributes(node).get("group", 1), int(np.prod(w.shape[1:]))
        return 1, int(w.shape[1] if attributes(node).get("transB", 0) else w.shape[-2])

    def _most(self, out: str) -> int:
        groups, k = self._shape(out)
        return max(1, min(MOST_ROWS, MOST_NBYTES // (4 * groups * k)))


def rows_of(
    node: onnx.NodeProto, x: Array, w: Array, most: int | None = None,
    rng: np.random.Generator | None = None,
) -> Array | None:  # fmt: skip
    """What the product multiplies: (groups, rows, k); None for a shape that is not understood.

    `most` rows at most, drawn by `rng`.
    """
    if node.op_type != "Conv":
        if w.ndim != 2:
            return None
        flat = x.reshape(-1, x.shape[-1])
        return np.ascontiguousarray(flat[_drawn(len(flat), most, rng)][None])
    rank = w.ndim - 2
    attrs = attributes(node)
    kernel, groups = w.shape[2:], attrs.get("group", 1)
    strides = attrs.get("strides", [1] * rank)
    dilations = attrs.get("dilations", [1] * rank)
    pads = attrs.get("pads", [0] * 2 * rank)
    auto = attrs.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = same_pads(x.shape[2:], kernel, strides, dilations, auto == "SAME_UPPER")
    widths = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    padded = np.pad(x, widths)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    if any(size < need for size, need in zip(padded.shape[2:], reach, strict=True)):
        return None
    axes = tuple(range(2, 2 + rank))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)  # type: ignore[call-overload]
    every = (slice(None), slice(None), *(slice(None, None, s) for s in strides),
             *(slice(None, None, d) for d in dilations))  # fmt: skip
    windows = windows[every]
    places = (windows.shape[0], *windows.shape[2 : 2 + rank])
    drawn = _drawn(int(np.prod(places)), most, rng)
    sample, *position = np.unravel_index(drawn, places)
    index: tuple[Any, ...] = (sample, slice(None), *position)
    patches = windows[index]  # (rows, channels, taps...)
    split = patches.reshape(len(drawn), groups, -1)
    return np.ascontiguousarray(split.transpose(1, 0, 2))


def _drawn(count: int, most: int | None, rng: np.random.Generator | None) -> Array:
    """Which of `count` rows are kept, in order."""
    if rng is None or most is None or most >= count:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))


def same_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    upper: bool,
) -> list[int]:
    """Pads of SAME_UPPER and SAME_LOWER: all begins, then all ends."""
    begins, ends = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if upper else large)
        ends.append(large if upper else small)
    return [*begins, *ends]
