"""Tables of 256 entries that are a line between two clamps, as arithmetic on 16-bit words.

A requantization is one: entry c is clamp(floor(slope * c + offset)). The formula is

    lowest + clamp((((256 * c + low) * factor >> 16) + bias) >> shift, 0, span)

where `low` is a fraction of a unit of `bias`. It is used only where it gives all 256 entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qrt.quant.affine import S8, U8, Array

SHIFTS = 4  # that are tried: a larger one is more precise, a smaller one leaves more room
TRIES = 4  # factors that are tried of each
MOST = 1024  # factors among which they are found; a line of less than 3 codes has more
UNIT = 1 << 16


@dataclass(frozen=True)
class Line:
    """Parameters of the formula; factor and bias fit 16 bits (unsigned, signed), low 8 bits."""

    factor: int
    low: int
    bias: int
    shift: int
    span: int
    lowest: int

    @property
    def is_whole(self) -> bool:
        """True when only the ends of uint8 clamp it."""
        return self.span == 255 and self.lowest == 0

    def entries(self) -> Array:
        """int64 (256,): what the words of the formula give."""
        product = (256 * _CODES + self.low) * self.factor >> 16
        words = (product + self.bias).astype(np.int16).astype(np.int64)  # sums wrap
        entries: Array = np.clip(words >> self.shift, 0, self.span) + self.lowest
        return entries


_CODES = np.arange(256, dtype=np.int64)


def line_of(table: Array) -> Line | None:
    """The formula of an 8-bit table (256,), or None; one without clamps, if there is."""
    if table.dtype not in (U8, S8) or (np.diff(table.astype(np.int64)) < 0).any():
        return None
    limits = np.iinfo(table.dtype)
    for lowest, highest in ((limits.min, limits.max), (int(table.min()), int(table.max()))):
        line = _between(table.astype(np.int64), lowest, highest)
        if line is not None:
            return line
    return None


def _between(table: Array, lowest: int, highest: int) -> Line | None:
    """A line clamped to lowest..highest that gives the entries."""
    heights, span = table - lowest, highest - lowest
    between = np.flatnonzero((heights > 0) & (heights < span))
    if between.size < 3:
        return None
    first, last = int(between[0]), int(between[-1])
    rise, run = int(heights[last] - heights[first]), last - first
    flattest, steepest = (rise - 1) / run, (rise + 1) / run
    # the line is at or above the first, below the second; beyond a clamp anything does
    least = np.where(heights > 0, heights, -np.inf)
    most = np.where(heights < span, heights + 1, np.inf)
    top = min(15, int(np.floor(np.log2(255 / max(rise / run, 1 / 256)))))
    for shift in range(top, max(top - SHIFTS, -1), -1):
        unit = 2.0**shift
        factors = np.arange(int(flattest * unit * 256), int(steepest * unit * 256) + 2)
        factors = factors[(factors > 0) & (factors < UNIT)]
        if not 0 < factors.size <= MOST:
            continue
        slopes = np.outer(factors, _CODES) / 256
        above = (least * unit - slopes).max(axis=1)
        room = (most * unit - slopes).min(axis=1) - above
        for k in np.argsort(-room)[:TRIES]:
            line = _placed(int(factors[k]), above[k] + room[k] / 2, shift, span, lowest)
            if room[k] > 0 and np.array_equal(line.entries(), table):
                return line
    return None


def _placed(factor: int, offset: float, shift: int, span: int, lowest: int) -> Line:
    """The line that is `offset` of its units high at code 0."""
    bias = int(np.floor(offset))
    low = min(255, int((offset - bias) * UNIT / factor))
    return Line(factor, low, bias, shift, span, lowest)
