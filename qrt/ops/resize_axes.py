"""Where each output index of Resize lies on the input axis (ONNX Resize, opset 10 to 19).

Coordinates are float32, every operation rounded to float32, so that tables are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axis
from qrt.ops.constants import constant_input
from qrt.ops.spec import Array

F32 = np.float32
HALF = F32(0.5)
TRANSFORMS = (
    "half_pixel", "asymmetric", "pytorch_half_pixel", "tf_half_pixel_for_nn", "align_corners",
    "half_pixel_symmetric", "tf_crop_and_resize",
)  # fmt: skip
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
NEAREST, LINEAR = "nearest", "linear"


@dataclass(frozen=True)
class ResizedAxis:
    """One axis that changes: float32 input coordinate per output index."""

    axis: int
    size: int
    coordinates: Array
    scale: np.float32

    def nearest(self, rounding: str) -> Array:
        """Input index per output index, int64."""
        x = self.coordinates.astype(np.float64)  # so that adding a half is exact
        rounded = {
            "round_prefer_floor": np.ceil(x - 0.5),
            "round_prefer_ceil": np.floor(x + 0.5),
            "floor": np.floor(x),
            "ceil": np.ceil(x),
        }[rounding]
        return np.clip(rounded.astype(np.int64), 0, self.size - 1)

    def linear(self) -> tuple[Array, Array, Array]:
        """(low index, high index, float32 fraction) per output index."""
        inside = np.clip(self.coordinates, F32(0), F32(self.size - 1))
        low = np.floor(inside).astype(np.int64)
        return low, np.minimum(low + 1, self.size - 1), inside - low.astype(F32)


@dataclass(frozen=True)
class Resizing:
    """A Resize with its shapes resolved. `rounding` matters to mode nearest only."""

    mode: str
    axes: tuple[ResizedAxis, ...]
    shape: tuple[int, ...]
    fixed_rounding: str | None

    def rounding(self, axis: ResizedAxis) -> str:
        """The nearest_mode; before opset 11 floor going up, ceil going down."""
        return self.fixed_rounding or ("ceil" if axis.scale < 1 else "floor")


def parse(node: Node) -> Resizing:
    """Attributes and constant inputs of Resize, or of Upsample (versions below 10)."""
    shape = node.required(0).static_shape
    modern = node.version >= 11
    attrs = AttrReader(node, ("x", "y", "cubic_coeff_a", "exclude_outside"))
    mode = attrs.string("mode", NEAREST, (NEAREST, LINEAR, "bilinear"))
    transform = attrs.string(
        "coordinate_transformation_mode", "half_pixel" if modern else "asymmetric", TRANSFORMS
    )
    rounding = attrs.string("nearest_mode", "round_prefer_floor", ROUNDINGS)
    attrs.string("keep_aspect_ratio_policy", "stretch", ("stretch",))
    attrs.float("extrapolation_value", 0.0)
    if attrs.int("antialias", 0):
        raise UnsupportedError("antialias=1 is not supported, only 0")
    given = attrs.ints("axes", tuple(range(len(shape))))
    legacy = attrs.floats("scales") if attrs.has("scales") else None
    attrs.done()
    indices = [normalized_axis(a, len(shape)) for a in given]
    crop = transform == "tf_crop_and_resize"
    regions = _regions(node, len(indices), crop)
    scales, sizes = _scales(node, legacy, len(indices))
    axes = []
    out = list(shape)
    for i, axis in enumerate(indices):
        size, region = shape[axis], regions[i]
        if sizes is not None:
            resized = sizes[i]
            scale = F32(resized) / F32(size)
        else:
            assert scales is not None
            scale = F32(scales[i])
            resized = int(np.floor(F32(size) * (region[1] - region[0]) * scale))
        if resized < 0 or (resized > 0 and size == 0) or not scale > 0:
            raise ModelError(f"axis {axis} of {size} cannot be resized to {resized}")
        out[axis] = resized
        if scale != 1 or region != (F32(0), F32(1)):
            at = _coordinates(transform, size, resized, scale, region)
            if crop and ((at < 0) | (at > size - 1)).any():
                raise UnsupportedError("tf_crop_and_resize that reaches outside of the input")
            axes.append(ResizedAxis(axis, size, at, scale))
    mode = LINEAR if mode == "bilinear" else mode
    ordered = tuple(sorted(axes, key=lambda a: a.axis))
    return Resizing(mode, ordered, tuple(out), rounding if modern else None)


def _regions(node: Node, count: int, crop: bool) -> list[tuple[np.float32, np.float32]]:
    """roi (starts, then ends) per axis; only tf_crop_and_resize reads it."""
    if not crop:
        return [(F32(0), F32(1))] * count
    roi = constant_input(node, 1, "roi").reshape(-1).astype(F32)
    if roi.size != 2 * count:
        raise ModelError(f"roi must have {2 * count} elements, got {roi.size}")
    return [(roi[i], roi[i + count]) for i in range(count)]


def _scales(
    node: Node, legacy: Sequence[float] | None, count: int
) -> tuple[Array | None, tuple[int, ...] | None]:
    """(scales, sizes): exactly one of them is given, for every axis."""
    at = 2 if node.version >= 11 else 1
    scales: Any = legacy
    if scales is None and node.input(at) is not None:
        scales = constant_input(node, at, "scales")
    sizes = None
    if at == 2 and node.input(3) is not None:
        sizes = tuple(int(v) for v in constant_input(node, 3, "sizes").reshape(-1))
    scales = None if scales is None else np.asarray(scales, F32).reshape(-1)
    if scales is not None and scales.size == 0:
        scales = None
    if not sizes:
        sizes = None
    for what, values in (("scales", scales), ("sizes", sizes)):
        if values is not None and len(values) != count:
            raise ModelError(f"{what} must have {count} elements (axes), got {len(values)}")
    if (scales is None) == (sizes is None):
        raise ModelError("exactly one of scales and sizes must be given")
    return scales, sizes


def _coordinates(
    transform: str,
    length: int,
    resized_length: int,
    scale: np.float32,
    region: tuple[np.float32, np.float32],
) -> Array:
    x: Array = np.arange(resized_length).astype(F32)
    size, resized = F32(length), F32(resized_length)
    if transform == "half_pixel":
        return (x + HALF) / scale - HALF
    if transform == "asymmetric":
        return x / scale
    if transform == "pytorch_half_pixel":
        return (x + HALF) / scale - HALF if resized_length > 1 else np.zeros_like(x)
    if transform == "tf_half_pixel_for_nn":
        return (x + HALF) / scale
    if transform == "align_corners":
        return x * (size - 1) / (resized - 1) if resized_length > 1 else np.zeros_like(x)
    if transform == "half_pixel_symmetric":
        adjustment = resized / (scale * size)
        offset = size / 2 * (1 - adjustment)
        # float64, as ONNX Runtime has it: ties of the nearest modes depend on it
        return (offset + (x.astype(np.float64) + 0.5) / np.float64(scale) - 0.5).astype(F32)
    start, end = region
    if resized_length > 1:
        return start * (size - 1) + x * (end - start) * (size - 1) / (resized - 1)
    return np.full_like(x, F32(0.5 * np.float64(start + end) * np.float64(size - 1)))
