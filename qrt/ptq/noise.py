"""What grids cost a region: the noise of what reads it, before anything is quantized.

An error of half a step at most has a variance of step^2 / 12. Errors of activations meet weights,
errors of weights meet the power of activations, and errors of the weights before reach through
both; all are taken as independent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.ptq.channels import Part, Region
from qrt.ptq.config import Grid, QuantConfig
from qrt.ptq.draft import Draft
from qrt.ptq.spreads import Spread
from qrt.ptq.static_weights import weight_axis
from qrt.quant.affine import Array

TINY = float(np.finfo(np.float32).tiny)


def noise(
    draft: Draft, region: Region, config: QuantConfig, spreads: Mapping[str, Spread]
) -> float:
    """Noise over signal of each product that reads `region`, summed up."""
    levels = 2**config.activations.bits - 1
    written = np.zeros(region.channels)
    for part in region.writers:
        w = part.by_channel(part.array(draft).astype(np.float64) ** 2).sum(axis=1)
        written += _squared_steps(draft, part, config) / np.maximum(w, TINY)
    total = 0.0
    for part in region.readers:
        x = spreads[part.node.input[0]]
        w = part.by_channel(part.array(draft).astype(np.float64) ** 2).sum(axis=1)
        signal = (x.power * w).sum()
        errors = (x.power * w * written).sum() + (x.width.max() / levels) ** 2 * w.sum()
        errors += (x.power * _squared_steps(draft, part, config)).sum()
        total += float(errors / max(12 * signal, TINY))
    return total


def weights_grid(part: Part, config: QuantConfig) -> Grid:
    """The grid of a product's weights."""
    return config.rule(part.node.op_type, part.node.name).weights or config.weights


def shares_grid(part: Part, config: QuantConfig) -> bool:
    """True where all output channels of a product's weights have one grid."""
    return weights_grid(part, config).granularity == "per_tensor"


def grid_reach(draft: Draft, part: Part, config: QuantConfig) -> Array:
    """The largest weight on the grid of each: of the whole, or of an output channel. Broadcasts to
    the shape of the weights."""
    array = np.abs(part.array(draft)).astype(np.float64)
    axis = weight_axis(part.node, array)
    shared = shares_grid(part, config)
    others = tuple(i for i in range(array.ndim) if shared or i != axis)
    found: Array = array.max(axis=others, keepdims=True, initial=0)
    return found


def _squared_steps(draft: Draft, part: Part, config: QuantConfig) -> Array:
    """Squares of the steps of all weights of a channel, summed up: (channels,)."""
    steps = grid_reach(draft, part, config) / (2 ** (weights_grid(part, config).bits - 1) - 1)
    squares = np.broadcast_to(steps**2, part.array(draft).shape)
    return np.asarray(part.by_channel(squares).sum(axis=1))
