"""Spreads: how far the channels of tensors in regions reach, and what power they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qrt.errors import InputError, QuantizationError
from qrt.ptq.calibrate import Runner, with_outputs
from qrt.ptq.channels import Region
from qrt.ptq.draft import Draft
from qrt.ptq.samples import Feeds
from qrt.quant.affine import Array


@dataclass(frozen=True)
class Spread:
    """Of a tensor, by channel: lowest and highest value, 0 among them, and mean of the squares;
    (channels,) each."""

    low: Array
    high: Array
    power: Array

    @property
    def width(self) -> Array:
        """What a grid has to reach over, (channels,)."""
        return np.asarray(np.maximum(self.high, 0) - np.minimum(self.low, 0))

    def divided(self, scales: Array) -> Spread:
        """Of the same tensor, its channels divided by `scales`."""
        return Spread(self.low / scales, self.high / scales, self.power / scales**2)


def seen_spreads(
    draft: Draft, regions: Sequence[Region], feeds: Iterable[Feeds], runner: Runner
) -> dict[str, Spread]:
    """The spread of each tensor of `regions`, by name, over all `feeds`.

    Raises InputError when there is no data, QuantizationError for values that are not finite.
    """
    layouts = {name: layout for region in regions for name, layout in region.tensors.items()}
    lows: dict[str, Array] = {}
    highs: dict[str, Array] = {}
    squares: dict[str, Array] = {}
    if not layouts:
        return {}
    run = runner(with_outputs(draft, list(layouts)))
    count = 0
    for feed in feeds:
        for (name, layout), array in zip(layouts.items(), run(feed), strict=True):
            rows = layout.by_channel(np.asarray(array, np.float64))
            if not np.isfinite(rows).all():
                raise QuantizationError(f"tensor '{name}' is not finite on the calibration data")
            low, high = rows.min(axis=1, initial=0), rows.max(axis=1, initial=-np.inf)
            lows[name] = np.minimum(low, lows.get(name, low))
            highs[name] = np.maximum(high, highs.get(name, high))
            squares[name] = np.square(rows).mean(axis=1) + squares.get(name, 0)
        count += 1
    if not count:
        raise InputError("the calibration data are empty: give at least one sample")
    return {name: Spread(lows[name], highs[name], squares[name] / count) for name in layouts}
