"""MaxPool (ONNX 22) of any type and number of axes, with indices: the first of equal elements.

An index counts elements of all of x; `storage_order` 1: with the spatial axes in reverse order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction
from qrt.ops.windows import resolve


def make(node: Node, reference: Reference) -> HostFunction:
    attrs = AttrReader(node)
    kernel = tuple(attrs.ints("kernel_shape"))
    by_column = attrs.bool("storage_order", False)

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x = given(inputs, 0)
        spatial = x.shape[2:]
        windows = resolve(node, spatial, kernel)
        counts = windows.counts
        best = np.zeros((*x.shape[:2], *counts), x.dtype)
        at = np.full(best.shape, -1, np.int64)
        # where each axis' windows read at a tap, as an axis of its own
        starts = [
            np.arange(n) * stride - begin
            for n, stride, begin in zip(counts, windows.strides, windows.begins, strict=True)
        ]
        for tap in np.ndindex(kernel):
            places = [s + t * d for s, t, d in zip(starts, tap, windows.dilations, strict=True)]
            index = np.ix_(*places)
            there: Any = True
            for place, length in zip(index, spatial, strict=True):
                there = there & (place >= 0) & (place < length)
            index = tuple(np.clip(p, 0, n - 1) for p, n in zip(index, spatial, strict=True))
            values = x[(slice(None), slice(None), *index)]
            better = there & ((at < 0) | (values > best) | ((values != values) & (best == best)))
            order = range(len(spatial))[::-1] if by_column else range(len(spatial))
            offset: Any = 0
            for axis in order:
                offset = offset * spatial[axis] + index[axis]
            best = np.where(better, values, best)
            at = np.where(better, offset, at)
        at += np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * len(spatial)) * (
            math.prod(spatial)
        )
        return [best, at][: len(node.outputs)]

    return function


SPEC = HostFunctionSpec("MaxPool", make)
