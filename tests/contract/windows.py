"""Sliding windows of convolutions and poolings over the spatial axes of N, C, spatial..."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .node import Node
from .values import Array


@dataclass(frozen=True)
class Windows:
    """Where the windows lie, per spatial axis. `pads` are (begin, end)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> Windows:
        """Read strides, dilations, pads, auto_pad and ceil_mode (ONNX AveragePool 22, Conv 22)."""
        ones = (1,) * len(spatial)
        strides = node.integers("strides", ones)
        dilations = node.integers("dilations", ones)
        flat = node.integers("pads", (0,) * 2 * len(spatial))
        auto_pad = node.text("auto_pad", "NOTSET")
        ceil_mode = node.integer("ceil_mode", 0) == 1
        pads: list[tuple[int, int]] = []
        counts: list[int] = []
        for i, size in enumerate(spatial):
            extent = (kernel[i] - 1) * dilations[i] + 1
            if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
                count = -(-size // strides[i])
                total = max((count - 1) * strides[i] + extent - size, 0)
                small, large = total // 2, total - total // 2
                pads.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
            else:
                begin, end = (0, 0) if auto_pad == "VALID" else (flat[i], flat[i + len(spatial)])
                room = size + begin + end - extent
                whole = -(-room // strides[i]) if ceil_mode or room < 0 else room // strides[i]
                count = whole + 1
                if ceil_mode and (count - 1) * strides[i] >= size + begin:
                    count -= 1  # a window that would start in the end padding is ignored
                pads.append((begin, end))
            counts.append(max(count, 0))
        return cls(kernel, strides, dilations, tuple(pads), tuple(counts))

    def gather(self, x: Array, fill: int | float) -> Array:
        """The windows of `x`, padded with `fill`: (N, C, *counts, *kernel)."""
        widths = [(0, 0), (0, 0)]
        taps = []
        for i, size in enumerate(x.shape[2:]):
            starts = np.arange(self.counts[i]) * self.strides[i]
            positions = starts[:, None] + np.arange(self.kernel[i]) * self.dilations[i]
            begin = self.pads[i][0]
            last = int(positions.max(initial=0))
            widths.append((begin, max(last + 1 - begin - size, 0)))
            taps.append(positions)
        rank = len(taps)
        padded = np.pad(x, widths, constant_values=fill)
        index: list[Any] = [slice(None), slice(None)]
        for i, positions in enumerate(taps):
            shape = [1] * (2 * rank)
            shape[i], shape[rank + i] = positions.shape
            index.append(positions.reshape(shape))
        gathered: Array = padded[tuple(index)]
        return gathered

    def sizes(self, spatial: tuple[int, ...], include_pad: bool) -> Array:
        """Elements per window, int64 `counts`. Pads count when `include_pad`; what a window of
        ceil_mode has beyond the pads never does."""
        total = np.ones((), np.int64)
        for i, size in enumerate(spatial):
            starts = np.arange(self.counts[i]) * self.strides[i] - self.pads[i][0]
            positions = starts[:, None] + np.arange(self.kernel[i]) * self.dilations[i]
            begin, end = self.pads[i] if include_pad else (0, 0)
            inside = (positions >= -begin) & (positions < size + end)
            total = total[..., None] * inside.sum(axis=1)
        return total
