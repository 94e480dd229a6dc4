"""Random Relu and Clip between an operator and its QuantizeLinear."""

from __future__ import annotations

import numpy as np

from tests.contract.values import real

from . import draw
from .builder import Builder, Real


def narrowed(b: Builder, y: Real) -> Real:
    """`y`, or Relu or Clip of it."""
    kind = draw.pick(b.rng, ("none", "none", "relu", "relu6", "clip"))
    if kind == "none":
        return y
    if kind == "relu":
        return b.float_node("Relu", [y])
    if kind == "relu6":
        return _clip(b, y, 0.0, 6.0)
    array = real(y.value)
    low, high = np.quantile(array, b.rng.uniform(0, 0.3)), np.quantile(array, b.rng.uniform(0.6, 1))
    return _clip(
        b,
        y,
        None if draw.chance(b.rng, 0.2) else float(low),
        None if draw.chance(b.rng, 0.2) else float(high),
    )


def _clip(b: Builder, y: Real, low: float | None, high: float | None) -> Real:
    if b.opset < 11:
        attrs = {"min": low, "max": high}
        return b.float_node("Clip", [y], **{k: v for k, v in attrs.items() if v is not None})
    bounds = [None if v is None else b.real_constant(np.array(v, np.float32)) for v in (low, high)]
    return b.float_node("Clip", [y, *bounds])
