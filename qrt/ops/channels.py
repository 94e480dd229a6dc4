"""Tensors seen as (outer, channels, inner) in memory, for parameters per channel."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qrt.errors import ModelError
from qrt.ir import Value
from qrt.ops.nests import memory_order


@dataclass(frozen=True)
class ChannelView:
    """Sizes of what lies around one logical axis in memory; inner is 1 when channels are last."""

    outer: int
    channels: int
    inner: int


def channel_view(value: Value, axis: int) -> ChannelView:
    """`value` seen around its logical `axis` (negative counts from the end)."""
    shape = value.static_shape
    at = memory_order(value).index(normalized_axis(axis, len(shape)))
    physical = value.physical_shape
    return ChannelView(math.prod(physical[:at]), physical[at], math.prod(physical[at + 1 :]))


def normalized_axis(axis: int, rank: int) -> int:
    """`axis` counted from 0; ModelError when it is not an axis of `rank`."""
    if not -rank <= axis < rank:
        raise ModelError(f"axis must be within [-{rank}, {rank - 1}], got {axis}")
    return axis + rank if axis < 0 else axis


def normalized_axes(axes: list[int] | tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Sorted axes counted from 0; ModelError when one is out of range or named twice."""
    found = tuple(sorted(normalized_axis(a, rank) for a in axes))
    if len(set(found)) != len(found):
        raise ModelError(f"axes must differ from each other, got {tuple(axes)}")
    return found
