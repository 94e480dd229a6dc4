"""Regions: tensors whose channels can be scaled one by one, and the model computes the same.

A region begins where constants write its channels (a product's rows, the factors of a
LayerNormalization) and ends where constants read them (a product's columns). What lies between is
positively homogeneous, f(s * x) = s * f(x) for s > 0, and keeps channels apart: Relu, pools,
Resize, Reshape, an Add of two members. Dividing the writers by s and multiplying the readers by s
cancels out, for any positive s per channel (Nagel et al. 2019, section 4.1). A Clip at 0 and a
bound is homogeneous below its bound only: see `Region.clips`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx

from qrt.ptq.draft import Draft, attributes
from qrt.quant.affine import Array


@dataclass(frozen=True, eq=False)
class Part:
    """A constant input of a node, by channel: factors.reshape(along) fits array.reshape(shape)."""

    node: onnx.NodeProto
    index: int
    shape: tuple[int, ...]
    along: tuple[int, ...]

    def array(self, draft: Draft) -> Array:
        """The constant."""
        return draft.arrays[self.node.input[self.index]]

    def by_channel(self, array: Array) -> Array:
        """An `array` of the constant's shape, channels first: (channels, rest)."""
        own = [i for i, size in enumerate(self.along) if size > 1]
        moved = np.moveaxis(array.reshape(self.shape), own, range(len(own)))
        found: Array = moved.reshape(int(np.prod(self.along)), -1)
        return found

    def scale(self, draft: Draft, factors: Array) -> None:
        """Multiply each channel by its factor."""
        array = self.array(draft)
        scaled = array.reshape(self.shape).astype(np.float64) * factors.reshape(self.along)
        draft.arrays[self.node.input[self.index]] = scaled.reshape(array.shape).astype(np.float32)


@dataclass
class Region:
    """Tensors that share the scales of their channels, and the constants at their ends.

    `writers` and `readers` are weights; `shifts` are biases and factors, which go with the writers
    but have no grid. `clips` are Clips at 0 and a bound. `blocked` says why nothing here may be
    scaled.
    """

    channels: int
    writers: list[Part] = field(default_factory=list)
    shifts: list[Part] = field(default_factory=list)
    readers: list[Part] = field(default_factory=list)
    tensors: dict[str, Layout] = field(default_factory=dict)
    clips: list[onnx.NodeProto] = field(default_factory=list)
    blocked: str = ""

    def scale(self, draft: Draft, scales: Array) -> None:
        """Divide all channels by `scales` (channels,), and multiply what reads them."""
        for part in (*self.writers, *self.shifts):
            part.scale(draft, 1 / scales)
        for part in self.readers:
            part.scale(draft, scales)
        for name in draft.normals.keys() & self.tensors.keys():
            mean, deviation = draft.normals[name]
            draft.normals[name] = mean / scales, deviation / scales


@dataclass(frozen=True)
class Layout:
    """Where a tensor's channels lie: an axis (from the right), each `repeat` times in a row."""

    region: Region
    axis: int
    repeat: int = 1

    def by_channel(self, array: Array) -> Array:
        """The tensor's elements, channels first: (channels, rest)."""
        moved = np.moveaxis(array, self.axis, 0)
        return moved.reshape(self.region.channels, -1)


def clip_limits(draft: Draft, node: onnx.NodeProto) -> tuple[float | None, float | None]:
    """The limits of a Clip, infinite where there is none; None for one that is computed."""
    attrs = attributes(node)
    found: list[float | None] = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        if len(node.input) > index and node.input[index]:
            array = draft.arrays.get(node.input[index])
            found.append(None if array is None else float(array))
        else:
            found.append(float(attrs.get(name, default)))
    return found[0], found[1]
