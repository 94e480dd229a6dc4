"""qrt.Add and qrt.Mul with one multiplication in place of the contract's division.

The contract divides by y_scale, and qrt.Mul rounds three products on the way. Both are replaced by
a float32 factor, used only where the result was compared with the contract on all 65536 pairs of
codes; where the nearest factor misses a tie, its neighbours are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from qrt.ir import QParams
from qrt.ops.spec import Array

NEIGHBOURS = 8  # factors tried on either side of the nearest
LARGEST = 2.0**30  # of a value before it is rounded to int32


def scaled_add(attrs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Row fields of the formula (A + B) * factor, proved on all pairs; None when there is none."""
    a, b, y = (_plain(attrs[name]) for name in "aby")
    factor = _factor("Add", a, b, y, attrs["qmin"], attrs["qmax"])
    if factor is None:
        return None
    scales = {"a_scale": np.float32(a[0]), "b_scale": np.float32(b[0])}
    return _zero_points(a, b, y) | scales | {"factor": np.float32(factor)}


def scaled_product(attrs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Row fields of the formula ((a - a_zero) * (b - b_zero)) * factor, proved on all pairs; None
    when there is none."""
    a, b, y = (_plain(attrs[name]) for name in "aby")
    factor = _factor("Mul", a, b, y, attrs["qmin"], attrs["qmax"])
    if factor is None:
        return None
    return _zero_points(a, b, y) | {"factor": np.float32(factor)}


def _plain(q: QParams) -> tuple[float, int]:
    return float(q.scale), int(q.zero_point)


def _zero_points(
    a: tuple[float, int], b: tuple[float, int], y: tuple[float, int]
) -> dict[str, Any]:
    return {"a_zero": a[1], "b_zero": b[1], "y_zero": y[1]}


@lru_cache(maxsize=4096)
def _factor(
    op: str,
    a: tuple[float, int],
    b: tuple[float, int],
    y: tuple[float, int],
    qmin: int,
    qmax: int,
) -> float | None:
    codes = np.arange(256, dtype=np.float32)
    centered_a, centered_b = codes[:, None] - np.float32(a[1]), codes - np.float32(b[1])
    real_a, real_b = centered_a * np.float32(a[0]), centered_b * np.float32(b[0])
    with np.errstate(all="ignore"):
        if op == "Add":
            value = total = real_a + real_b
            exact = 1 / y[0]
        else:
            value, total = real_a * real_b, centered_a * centered_b
            exact = a[0] * b[0] / y[0]
        want = _codes(value / np.float32(y[0]), y[1], qmin, qmax)
        for factor in _near(np.float32(exact)):
            t = total * factor
            # a subnormal factor or result may be flushed by some CPUs' settings: not used
            usable = np.isfinite(t).all() and np.abs(t).max() < LARGEST
            if usable and np.array_equal(_codes(t, y[1], qmin, qmax), want):
                return float(factor)
    return None


def _codes(t: Array, zero_point: int, qmin: int, qmax: int) -> Array:
    return np.asarray(np.clip(np.rint(t).astype(np.float64) + zero_point, qmin, qmax))


def _near(value: np.float32) -> Iterator[np.float32]:
    """`value` and its neighbours, nearest first; nothing when it is not a normal number."""
    if not np.finfo(np.float32).tiny * 2 < value < np.finfo(np.float32).max / 2:
        return
    bits = int(value.view(np.int32))
    for distance in range(NEIGHBOURS + 1):
        for sign in (1, -1) if distance else (1,):
            yield np.int32(bits + sign * distance).view(np.float32)
