"""Cross-layer equalization: channels that share a grid are brought to the same range.

Nagel et al. 2019, section 4.1, "Data-Free Quantization Through Weight Equalization and Bias
Correction": between two products the scales s = sqrt(r1 / r2) make the ranges r1 of the first's
output channels and r2 of the second's input channels equal, which is the best product of their
precisions; sweeps over all pairs until nothing moves.

Here a pair is a region (see channels.py), which may have several ends, and r1 and r2 are taken over
everything that shares a grid between channels, relative to that grid's range: weights per tensor,
columns of weights per channel, and activations where their ranges are known. These keep a channel
of small weights and a large bias from growing beyond all others, which the paper absorbs later. A
channel that reaches the bound of a Clip keeps its scale, and the others stay within the bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qrt.ptq.backends import CLAMPS
from qrt.ptq.calibrate import Runner
from qrt.ptq.channel_ranges import Range, seen_ranges
from qrt.ptq.channels import Part, Region, clip_limits
from qrt.ptq.config import QuantConfig
from qrt.ptq.draft import Draft
from qrt.ptq.regions import find_regions
from qrt.ptq.samples import Feeds
from qrt.ptq.static_weights import weight_axis
from qrt.quant.affine import Array

SWEEPS = 60
CONVERGED = 0.01  # of log(scale), the largest step of a sweep
DEAD = 1e-6  # of the largest range: a channel below has nothing to equalize


def equalize_by_data(
    draft: Draft, config: QuantConfig, feeds: Iterable[Feeds], runner: Runner
) -> dict[str, str]:
    """`equalize` with the ranges that activations have on `feeds`."""
    regions = find_regions(draft)
    return equalize(draft, regions, config, seen_ranges(draft, regions, feeds, runner))


def equalize(
    draft: Draft, regions: Sequence[Region], config: QuantConfig, ranges: Mapping[str, Range]
) -> dict[str, str]:
    """Scale the channels of `regions`; why some stay as they are, by a tensor's name.

    `ranges` of activations count as they are before, and may be missing.
    """
    notes = {}
    work = []
    for region in regions:
        reason = _obstacle(draft, region, config, ranges)
        if reason:
            notes[next(iter(region.tensors))] = reason
        else:
            work.append(_Equalizer(draft, region, config, ranges))
    for _ in range(SWEEPS):
        if max((each.step() for each in work), default=0.0) < CONVERGED:
            break
    return notes


def _obstacle(
    draft: Draft, region: Region, config: QuantConfig, ranges: Mapping[str, Range]
) -> str:
    """Why a region cannot be equalized, or need not be."""
    if region.blocked:
        return region.blocked
    if not region.readers or not region.writers:
        return "no product writes it" if region.readers else "no product reads it"
    if any(node.input[0] not in ranges for node in region.clips):
        return "a Clip, and no data to say which channels reach its bound"
    shared = any(shares_grid(part, config) for part in region.writers)
    if not shared and not any(name in ranges for name in region.tensors):
        return "its channels share no grid"
    return ""


class _Equalizer:
    """One region on its way."""

    def __init__(
        self, draft: Draft, region: Region, config: QuantConfig, ranges: Mapping[str, Range]
    ) -> None:
        self.draft, self.region = draft, region
        self.writers = [part for part in region.writers if shares_grid(part, config)]
        self.shared_readers = [shares_grid(part, config) for part in region.readers]
        clamped = {n.input[0] for n in draft.nodes if n.op_type in CLAMPS}
        self.widths = [
            ranges[name][1] - ranges[name][0]
            for name in region.tensors
            if name in ranges and name not in clamped
        ]
        self.reach = np.zeros(region.channels)  # of what Clips read, in parts of their bounds
        for node in region.clips:
            bound = clip_limits(draft, node)[1]
            assert bound is not None
            self.reach = np.maximum(self.reach, ranges[node.input[0]][1] / bound)
        self.held = self.reach >= 1
        self.reach = np.minimum(self.reach, 1)

    def step(self) -> float:
        """Scale once; the largest |log scale|."""
        first = [part.largest(self._relative(part, True)) for part in self.writers]
        first += [width / max(width.max(), np.finfo(np.float32).tiny) for width in self.widths]
        second = [
            part.largest(self._relative(part, shared))
            for part, shared in zip(self.region.readers, self.shared_readers, strict=True)
        ]
        r1, r2 = np.max(first, axis=0), np.max(second, axis=0)
        live = (r1 > DEAD) & (r2 > DEAD)
        if not live.any():
            return 0.0
        scales = np.ones(self.region.channels)
        scales[live] = np.sqrt(r1[live] / r2[live])
        # a common factor changes no grid: what reaches a bound stays, or else the mean
        anchor = live & self.held if (live & self.held).any() else live
        scales[live] /= np.exp(np.log(scales[anchor]).mean())
        scales[self.held] = 1
        scales = np.maximum(scales, self.reach)  # what did not reach a bound does not now
        self.region.scale(self.draft, scales)
        self.widths = [width / scales for width in self.widths]
        self.reach = self.reach / scales
        return float(np.abs(np.log(scales)).max())

    def _relative(self, part: Part, shared: bool) -> Array:
        """|weights| in parts of the range of their grid: the whole, or an output channel."""
        array = np.abs(part.array(self.draft)).astype(np.float64)
        axis = weight_axis(part.node, array)
        others = tuple(i for i in range(array.ndim) if shared or i != axis)
        most = array.max(axis=others, keepdims=True, initial=0)
        found: Array = array / np.maximum(most, np.finfo(np.float32).tiny)
        return found


def shares_grid(part: Part, config: QuantConfig) -> bool:
    """True where all output channels of a product's weights have one grid."""
    grid = config.rule(part.node.op_type, part.node.name).weights or config.weights
    return grid.granularity == "per_tensor"
