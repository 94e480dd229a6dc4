"""How far the channels of tensors in regions reach: lowest and highest value of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from qrt.errors import InputError, QuantizationError
from qrt.ptq.calibrate import Runner, with_outputs
from qrt.ptq.channels import Region
from qrt.ptq.draft import Draft
from qrt.ptq.samples import Feeds
from qrt.quant.affine import Array

Range = tuple[Array, Array]  # lowest and highest, (channels,) each


def seen_ranges(
    draft: Draft, regions: Sequence[Region], feeds: Iterable[Feeds], runner: Runner
) -> dict[str, Range]:
    """The range of each tensor of `regions`, by name, over all `feeds`.

    Raises InputError when there is no data, QuantizationError for values that are not finite.
    """
    layouts = {name: layout for region in regions for name, layout in region.tensors.items()}
    found: dict[str, Range] = {}
    if not layouts:
        return found
    run = runner(with_outputs(draft, list(layouts)))
    for feed in feeds:
        for (name, layout), array in zip(layouts.items(), run(feed), strict=True):
            rows = layout.by_channel(np.asarray(array))
            if not np.isfinite(rows).all():
                raise QuantizationError(f"tensor '{name}' is not finite on the calibration data")
            low, high = rows.min(axis=1, initial=0), rows.max(axis=1, initial=-np.inf)
            if name in found:
                low, high = np.minimum(low, found[name][0]), np.maximum(high, found[name][1])
            found[name] = low, high
    if not found:
        raise InputError("the calibration data are empty: give at least one sample")
    return found
