"""Observers: what they saw of a tensor, in bounded memory, and the range they advise.

minmax keeps the extremes; average the running mean of each sample's extremes (Jacob et al. 2018,
section 3.1); percentile cuts the tails; entropy picks the range whose quantized histogram is
nearest in Kullback-Leibler divergence (Migacz 2017); mse the one of least squared error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from qrt.errors import QuantizationError
from qrt.quant.affine import Array

BINS = 2048
MOMENTUM = 0.01
TAIL = 1e-4  # of each side, that percentile gives up: 99.99 %
STEPS = 100  # ranges that mse tries
DIVERGENCES = 64  # ranges that entropy tries


class Observer(Protocol):
    """Collects arrays of one tensor."""

    def update(self, x: Array) -> None:
        """Look at one more float32 array; NaN or infinity raises QuantizationError."""
        ...

    def range(self, levels: int) -> tuple[float, float]:
        """(low, high) for a grid of so many levels."""
        ...


def _extremes(x: Array) -> tuple[float, float]:
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~np.isfinite(x)).sum())
        raise QuantizationError(f"{bad} of {x.size} values are not finite")
    return low, high


class MinMax:
    """The extremes of all."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def update(self, x: Array) -> None:
        """See `Observer`."""
        if x.size:
            low, high = _extremes(x)
            self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self, levels: int) -> tuple[float, float]:
        """See `Observer`."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)


class MovingAverage:
    """The running mean of each array's extremes, the newest with weight `MOMENTUM`."""

    def __init__(self) -> None:
        self.ends: tuple[float, float] | None = None

    def update(self, x: Array) -> None:
        """See `Observer`."""
        if not x.size:
            return
        found = _extremes(x)
        if self.ends is None:
            self.ends = found
        low, high = (a + MOMENTUM * (b - a) for a, b in zip(self.ends, found, strict=True))
        self.ends = (low, high)

    def range(self, levels: int) -> tuple[float, float]:
        """See `Observer`."""
        return self.ends or (0.0, 0.0)


class Histogram:
    """Counts in `BINS` bins of [-reach, reach]; reach doubles, and bins merge in pairs, as needed.

    `advise` turns counts into a range.
    """

    def __init__(self, advise: Callable[[Histogram, int], tuple[float, float]]) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.reach = 0.0
        self.low, self.high = np.inf, -np.inf
        self._advise = advise

    def update(self, x: Array) -> None:
        """See `Observer`."""
        if not x.size:
            return
        low, high = _extremes(x)
        self.low, self.high = min(self.low, low), max(self.high, high)
        furthest = max(-low, high)
        if furthest == 0 and self.reach == 0:
            self.counts[BINS // 2] += x.size
            return
        if self.reach == 0:
            # a power of two, so that doubling loses nothing
            self.reach = float(2.0 ** np.ceil(np.log2(max(furthest, 1e-30))))
        while furthest > self.reach:
            self._double()
        found, _ = np.histogram(x, BINS, (-self.reach, self.reach))
        self.counts += found

    def _double(self) -> None:
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[BINS // 4 : BINS // 4 * 3] = pairs
        self.reach *= 2

    @property
    def centers(self) -> Array:
        """The middle of each bin."""
        edges = np.linspace(-self.reach, self.reach, BINS + 1)
        return (edges[1:] + edges[:-1]) / 2

    def range(self, levels: int) -> tuple[float, float]:
        """See `Observer`."""
        if self.low > self.high:
            return 0.0, 0.0
        if self.reach == 0:
            return self.low, self.high
        low, high = self._advise(self, levels)
        return max(low, self.low), min(high, self.high)


def percentile(seen: Histogram, levels: int) -> tuple[float, float]:
    """All but `TAIL` of the values on each side."""
    total = np.cumsum(seen.counts)
    edges = np.linspace(-seen.reach, seen.reach, BINS + 1)
    count = total[-1]
    first = int(np.searchsorted(total, count * TAIL, side="right"))
    last = int(np.searchsorted(total, count * (1 - TAIL), side="left"))
    return float(edges[first]), float(edges[min(last + 1, BINS)])


def _shrunk(seen: Histogram, tries: int, least: float) -> list[tuple[float, float]]:
    """Ranges to choose from: both ends, 0 between them, shrunk alike."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    return [(low * f, high * f) for f in np.linspace(least, 1.0, tries)]


def least_squares(seen: Histogram, levels: int) -> tuple[float, float]:
    """The shrunk range with the least squared error of rounding and clipping."""
    centers, weight = seen.centers, seen.counts.astype(np.float64)
    best, chosen = np.inf, (seen.low, seen.high)
    for low, high in _shrunk(seen, STEPS, 0.2):
        step = (high - low) / (levels - 1)
        if step <= 0:
            continue
        inside = np.clip(centers, low, high)
        clipping = (weight * (centers - inside) ** 2).sum()
        # within the range the error is uniform in a step: a bin may be wider than one
        rounding = (weight * ((centers >= low) & (centers <= high))).sum() * step**2 / 12
        if clipping + rounding < best:
            best, chosen = clipping + rounding, (low, high)
    return chosen


def entropy(seen: Histogram, levels: int) -> tuple[float, float]:
    """The shrunk range whose histogram loses least information when quantized (KL divergence)."""
    levels = min(levels, BINS // 4)  # with more there is nothing to lose
    centers = seen.centers
    best, chosen = np.inf, (seen.low, seen.high)
    for low, high in _shrunk(seen, DIVERGENCES, 0.1):
        inside = (centers >= low) & (centers <= high)
        if inside.sum() <= levels:
            continue
        reference = seen.counts[inside].astype(np.float64)
        plain = reference.copy()
        reference[0] += seen.counts[centers < low].sum()
        reference[-1] += seen.counts[centers > high].sum()
        step = np.arange(inside.sum()) * levels // inside.sum()
        held = plain > 0
        sums = np.bincount(step, plain, levels)
        filled = np.bincount(step, held, levels)
        spread = np.where(held, (sums / np.maximum(filled, 1))[step], 0)
        p, q = reference / reference.sum(), spread / max(spread.sum(), 1)
        some = p > 0
        divergence = float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())
        if divergence < best:
            best, chosen = divergence, (low, high)
    return chosen


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "average": MovingAverage,
    "percentile": lambda: Histogram(percentile),
    "entropy": lambda: Histogram(entropy),
    "mse": lambda: Histogram(least_squares),
}
