"""MaxRoiPool (ONNX 22; Fast R-CNN, section 2.1): the maximum of each cell of a grid over a region.

A region (batch, x1, y1, x2, y2) is scaled, rounded, and ends with its last pixel; cell i of n along
a length starts at floor(i * length / n) and ends at ceil((i + 1) * length / n); an empty one is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.errors import InputError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    attrs = AttrReader(node)
    height, width = attrs.ints("pooled_shape", length=2)
    spatial_scale = attrs.float("spatial_scale", 1.0)

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x, rois = given(inputs, 0), given(inputs, 1)
        y = np.zeros((len(rois), x.shape[1], height, width), x.dtype)
        for roi, out in zip(rois.astype(np.float64), y, strict=True):
            batch = int(roi[0])
            if not 0 <= batch < x.shape[0]:
                raise InputError(f"a region is of image {batch}, there are {x.shape[0]}")
            x1, y1, x2, y2 = (int(np.floor(c * spatial_scale + 0.5)) for c in roi[1:])
            rows = _cells(y1, y2, height, x.shape[2])
            columns = _cells(x1, x2, width, x.shape[3])
            for i, (top, bottom) in enumerate(rows):
                for j, (left, right) in enumerate(columns):
                    if top < bottom and left < right:
                        out[:, i, j] = x[batch, :, top:bottom, left:right].max(axis=(1, 2))
        return [y]

    return function


def _cells(first: int, last: int, count: int, length: int) -> list[tuple[int, int]]:
    size = max(last - first + 1, 1) / count
    bounds = [
        (int(np.floor(i * size)) + first, int(np.ceil((i + 1) * size)) + first)
        for i in range(count)
    ]
    return [(min(max(a, 0), length), min(max(b, 0), length)) for a, b in bounds]


SPEC = HostFunctionSpec("MaxRoiPool", make)
