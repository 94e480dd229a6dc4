"""Sizes read from a row, as `extents` functions need them."""

from __future__ import annotations

import math
from collections.abc import Mapping


def product(row: Mapping[str, int], *fields: str) -> int:
    """The product of size fields; ValueError when one is negative."""
    for name in fields:
        if row[name] < 0:
            raise ValueError(f"{name} must not be negative, got {row[name]}")
    return math.prod(row[name] for name in fields)


def within(row: Mapping[str, int], field: str, low: int, high: int) -> int:
    """The field's value; ValueError when it is not in [low, high]."""
    if not low <= row[field] <= high:
        raise ValueError(f"{field} must be within [{low}, {high}], got {row[field]}")
    return row[field]
