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

With data a step is taken only where it leaves less noise (noise.py): equal ranges are not worth
anything in themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qrt.ptq.backends import CLAMPS
from qrt.ptq.calibrate import Runner
from qrt.ptq.channels import Part, Region, clip_limits
from qrt.ptq.config import QuantConfig
from qrt.ptq.draft import Draft
from qrt.ptq.noise import TINY, grid_reach, noise, shares_grid
from qrt.ptq.regions import find_regions
from qrt.ptq.samples import Feeds
from qrt.ptq.spreads import Spread, seen_spreads
from qrt.quant.affine import Array

SWEEPS = 60
CONVERGED = 0.01  # of log(scale), the largest step of a sweep
POWERS = (1.0, 0.5, 0.25)  # of the scales, tried until one leaves less noise
LEAST_GAIN = 0.002  # of the noise, or a step is not worth it
DEAD = 1e-6  # of the largest range: a channel below has nothing to equalize


def equalize_by_data(
    draft: Draft, config: QuantConfig, feeds: Iterable[Feeds], runner: Runner
) -> dict[str, str]:
    """`equalize` with the spreads that activations have on `feeds`."""
    regions = find_regions(draft)
    return equalize(draft, regions, config, seen_spreads(draft, regions, feeds, runner))


def equalize(
    draft: Draft, regions: Sequence[Region], config: QuantConfig, spreads: Mapping[str, Spread]
) -> dict[str, str]:
    """Scale the channels of `regions`; why some stay as they are, by a tensor's name.

    `spreads` of activations count as they are before, and may be missing. Where those of what
    products read are known, channels are scaled as long as that leaves less noise (noise.py).
    """
    notes = {}
    work = []
    for region in regions:
        reason = _obstacle(draft, region, config, spreads)
        if reason:
            notes[next(iter(region.tensors))] = reason
        else:
            work.append(_Equalizer(draft, region, config, spreads))
    for _ in range(SWEEPS):
        if max((each.step() for each in work), default=0.0) < CONVERGED:
            break
    return notes


def _obstacle(
    draft: Draft, region: Region, config: QuantConfig, spreads: Mapping[str, Spread]
) -> str:
    """Why a region cannot be equalized, or need not be."""
    if region.blocked:
        return region.blocked
    if not region.readers or not region.writers:
        return "no product writes it" if region.readers else "no product reads it"
    if any(node.input[0] not in spreads for node in region.clips):
        return "a Clip, and no data to say which channels reach its bound"
    shared = any(shares_grid(part, config) for part in region.writers)
    if not shared and not any(name in spreads for name in region.tensors):
        return "its channels share no grid"
    return ""


class _Equalizer:
    """One region on its way."""

    def __init__(
        self, draft: Draft, region: Region, config: QuantConfig, spreads: Mapping[str, Spread]
    ) -> None:
        self.draft, self.region, self.config = draft, region, config
        self.spreads = {name: spreads[name] for name in region.tensors if name in spreads}
        clamped = {n.input[0] for n in draft.nodes if n.op_type in CLAMPS}
        self.free = [name for name in self.spreads if name not in clamped]  # which have a grid
        self.told = all(part.node.input[0] in self.spreads for part in region.readers)
        reach = np.zeros(region.channels)  # of what Clips read, in parts of their bounds
        for node in region.clips:
            bound = clip_limits(draft, node)[1]
            assert bound is not None
            reach = np.maximum(reach, spreads[node.input[0]].high / bound)
        self.held = reach >= 1
        self.reach = np.minimum(reach, 1)

    def step(self) -> float:
        """Scale once; the largest |log scale|."""
        scales = self._scales()
        before = noise(self.draft, self.region, self.config, self.spreads) if self.told else 0.0
        for power in POWERS:
            tried = np.maximum(scales**power, self.reach)  # what reached no bound does not now
            self._scale(tried)
            if not self.told or self._is_less(before):
                return float(np.abs(np.log(tried)).max())
            self._scale(1 / tried)
        return 0.0

    def _scales(self) -> Array:
        """What would make ranges equal."""
        writers = [part for part in self.region.writers if shares_grid(part, self.config)]
        first = [self._largest(part) for part in writers]
        widths = [self.spreads[name].width for name in self.free]
        first += [width / max(width.max(), TINY) for width in widths]
        second = [self._largest(part) for part in self.region.readers]
        r1, r2 = np.max(first, axis=0), np.max(second, axis=0)
        live = (r1 > DEAD) & (r2 > DEAD)
        scales = np.ones(self.region.channels)
        if not live.any():
            return scales
        scales[live] = np.sqrt(r1[live] / r2[live])
        # a common factor changes no grid: what reaches a bound stays, or else the mean
        anchor = live & self.held if (live & self.held).any() else live
        scales[live] /= np.exp(np.log(scales[anchor]).mean())
        scales[self.held] = 1
        return scales

    def _scale(self, scales: Array) -> None:
        self.region.scale(self.draft, scales)
        self.spreads = {name: each.divided(scales) for name, each in self.spreads.items()}
        self.reach = self.reach / scales

    def _is_less(self, before: float) -> bool:
        now = noise(self.draft, self.region, self.config, self.spreads)
        return now < before * (1 - LEAST_GAIN)

    def _largest(self, part: Part) -> Array:
        """The largest weight of each channel, in parts of the range of its grid."""
        reach = np.maximum(grid_reach(self.draft, part, self.config), TINY)
        found: Array = part.by_channel(np.abs(part.array(self.draft)) / reach).max(axis=1)
        return found
