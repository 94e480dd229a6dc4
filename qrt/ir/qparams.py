"""QParams: how the integers of a tensor stand for real values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class QParams:
    """real = (q - zero_point) * scale; `axis` is set when they differ along it.

    `scale` float32 and `zero_point` (of `dtype`) are scalars (shape ()) when per_tensor, (n,) when
    per_channel; per_block they have the rank of the tensor, and along `axis` one entry for every
    `block_size` elements (the last block may be shorter).

    `bits` counts those used of `dtype` (None: all of them); `narrow` leaves out the smallest
    integer, so that the range is symmetric around 0.
    """

    scale: np.ndarray[Any, np.dtype[np.float32]]
    zero_point: np.ndarray[Any, Any]
    dtype: np.dtype[Any]
    axis: int | None = None
    block_size: int | None = None
    bits: int | None = None
    narrow: bool = False

    @property
    def per_tensor(self) -> bool:
        """True when one scale and zero point serve the whole tensor."""
        return self.scale.ndim == 0

    @property
    def qmin(self) -> int:
        """Smallest integer in use."""
        if self.bits is None or self.dtype.kind == "u":
            lowest = int(np.iinfo(self.dtype).min)
        else:
            lowest = -(1 << (self.bits - 1))
        return lowest + int(self.narrow)

    @property
    def qmax(self) -> int:
        """Largest integer in use."""
        if self.bits is None:
            return int(np.iinfo(self.dtype).max)
        return (1 << (self.bits - int(self.dtype.kind != "u"))) - 1

    def same_as(self, other: QParams) -> bool:
        """True when both give every integer the same real value."""
        return (
            self.dtype == other.dtype
            and self.axis == other.axis
            and self.block_size == other.block_size
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )
