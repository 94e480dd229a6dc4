"""QParams: how the integers of a tensor stand for real values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class QParams:
    """real = (q - zero_point) * scale; `axis` is set when they differ along it (per_channel).

    `scale` float32 and `zero_point` (of `dtype`) are scalars (shape ()) when per_tensor, (n,) when
    per_channel.
    """

    scale: np.ndarray[Any, np.dtype[np.float32]]
    zero_point: np.ndarray[Any, Any]
    dtype: np.dtype[Any]
    axis: int | None = None

    @property
    def per_tensor(self) -> bool:
        """True when one scale and zero point serve the whole tensor."""
        return self.scale.ndim == 0

    @property
    def qmin(self) -> int:
        """Smallest integer of the stored type."""
        return int(np.iinfo(self.dtype).min)

    @property
    def qmax(self) -> int:
        """Largest integer of the stored type."""
        return int(np.iinfo(self.dtype).max)

    def same_as(self, other: QParams) -> bool:
        """True when both give every integer the same real value."""
        return (
            self.dtype == other.dtype
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )
