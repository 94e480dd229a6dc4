"""Resize and Upsample: nearest moves integers, linear interpolates in float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .inputs import Values, optional_array, value_at
from .node import Node
from .values import Array, Dequantized, UnsupportedError, Value, move, real

F32 = np.float32
HALF = F32(0.5)


@dataclass(frozen=True)
class Axis:
    """One axis to resize. `scale` float32, region of interest float32 (tf_crop_and_resize)."""

    index: int
    size: int
    resized: int
    scale: np.float32
    roi: tuple[np.float32, np.float32]


def resize(node: Node, values: Values) -> Value:
    """Resize (opset 10 to 19) and Upsample (7, 9); nearest and linear, not antialiased."""
    x = value_at(values, 0)
    node.refuse_unless(not node.integer("antialias", 0), "antialias")
    mode = node.text("mode", "nearest")
    transform = node.text("coordinate_transformation_mode", _default_transform(node))
    crop = transform == "tf_crop_and_resize"
    axes = _axes(node, values, crop)
    coordinates = {axis.index: _coordinates(axis, transform) for axis in axes}
    if mode == "nearest":
        for axis in axes:
            picked = _nearest(node, axis, coordinates[axis.index])
            x = _take(x, picked, axis.index)
    elif mode in ("linear", "bilinear"):
        array = real(x)
        node.refuse_unless(array.dtype == F32, f"linear interpolation of {array.dtype}")
        for axis in reversed(axes):  # along W first, then H
            array = _lerp(array, axis, coordinates[axis.index])
        x = array
    else:
        raise UnsupportedError(f"{node.op_type}: mode {mode}")
    if not crop:
        return x
    return _extrapolate(x, axes, coordinates, F32(node.real("extrapolation_value", 0.0)))


def _default_transform(node: Node) -> str:
    return "half_pixel" if node.op_type == "Resize" and node.opset >= 11 else "asymmetric"


def _axes(node: Node, values: Values, crop: bool) -> list[Axis]:
    """The axes whose scale is not 1, with lengths; scales or sizes given for all or for `axes`."""
    shape = value_at(values, 0).shape
    modern = node.op_type == "Resize" and node.opset >= 11
    roi = _input(values, 1) if modern and crop else None
    scales = _input(values, 2 if modern else 1)
    sizes = _input(values, 3) if modern else None
    if not modern and scales is None:
        scales = np.array(node.attrs["scales"], F32)
    indices = node.integers("axes", range(len(shape)))
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    node.refuse_unless(policy == "stretch", f"keep_aspect_ratio_policy {policy}")
    axes = []
    for i, index in enumerate(indices):
        size = shape[index]
        region = (F32(0), F32(1))
        if roi is not None:
            region = (F32(roi[i]), F32(roi[i + len(indices)]))
        if sizes is not None:
            resized = int(sizes[i])
            scale = F32(resized) / F32(size)
        elif scales is None:
            raise UnsupportedError(f"{node.op_type}: neither scales nor sizes")
        else:
            scale = F32(scales[i])
            resized = int(np.floor(F32(size) * (region[1] - region[0]) * scale))
        if scale != 1 or region[0] != 0 or region[1] != 1:
            axes.append(Axis(index % len(shape), size, resized, scale, region))
    return axes


def _input(values: Values, i: int) -> Array | None:
    array = optional_array(values, i)
    return array.reshape(-1) if array is not None and array.size else None


def _coordinates(axis: Axis, transform: str) -> Array:
    """x_original of every output index, float32, every operation rounded to float32; but the last
    three of half_pixel_symmetric and a cropped axis of length 1 in float64, as ONNX Runtime has it.
    """
    x = np.arange(axis.resized).astype(F32)
    size, resized, scale = F32(axis.size), F32(axis.resized), axis.scale
    if transform == "half_pixel":
        return (x + HALF) / scale - HALF
    if transform == "asymmetric":
        return x / scale
    if transform == "pytorch_half_pixel":
        return (x + HALF) / scale - HALF if axis.resized > 1 else np.zeros_like(x)
    if transform == "tf_half_pixel_for_nn":
        return (x + HALF) / scale
    if transform == "align_corners":
        return x * (size - 1) / (resized - 1) if axis.resized > 1 else np.zeros_like(x)
    if transform == "half_pixel_symmetric":
        adjustment = resized / (scale * size)
        offset = size / 2 * (1 - adjustment)
        return (offset + (x.astype(np.float64) + 0.5) / np.float64(scale) - 0.5).astype(F32)
    if transform == "tf_crop_and_resize":
        start, end = axis.roi
        if axis.resized > 1:
            return start * (size - 1) + x * (end - start) * (size - 1) / (resized - 1)
        return np.full_like(x, F32(0.5 * np.float64(start + end) * np.float64(size - 1)))
    raise UnsupportedError(f"coordinate_transformation_mode {transform}")


def _nearest(node: Node, axis: Axis, x: Array) -> Array:
    modern = node.op_type == "Resize" and node.opset >= 11
    # before opset 11 there was no choice: floor going up, ceil going down
    fixed = "ceil" if axis.scale < 1 else "floor"
    rounding = node.text("nearest_mode", "round_prefer_floor") if modern else fixed
    x = x.astype(np.float64)  # so that adding a half is exact
    rounded = {
        "round_prefer_floor": np.ceil(x - 0.5),
        "round_prefer_ceil": np.floor(x + 0.5),
        "floor": np.floor(x),
        "ceil": np.ceil(x),
    }[rounding]
    return np.clip(rounded.astype(np.int64), 0, axis.size - 1)


def _lerp(a: Array, axis: Axis, x: Array) -> Array:
    """a[x0] + (a[x1] - a[x0]) * fraction, each operation rounded to float32."""
    inside = np.clip(x, F32(0), F32(axis.size - 1))
    low = np.floor(inside).astype(np.int64)
    high = np.minimum(low + 1, axis.size - 1)
    shape = [1] * a.ndim
    shape[axis.index] = axis.resized
    fraction = (inside - low.astype(F32)).reshape(shape)
    start, end = np.take(a, low, axis.index), np.take(a, high, axis.index)
    y: Array = start + (end - start) * fraction
    return y


def _take(x: Value, picked: Array, index: int) -> Value:
    return move(x, lambda a: np.take(a, picked, index))


def _extrapolate(
    x: Value, axes: list[Axis], coordinates: dict[int, Array], fill: np.float32
) -> Value:
    """Replace what lies outside the input by `fill`; a dequantized 0.0 is the zero point."""
    outside = np.zeros(x.shape, np.bool_)
    for axis in axes:
        at = coordinates[axis.index]
        shape = [1] * len(x.shape)
        shape[axis.index] = axis.resized
        outside |= ((at < 0) | (at > axis.size - 1)).reshape(shape)
    if isinstance(x, Dequantized) and fill == 0:
        return Dequantized(
            np.where(outside, x.zero_point, x.q).astype(x.q.dtype), x.scale, x.zero_point
        )
    return np.where(outside, fill, real(x)).astype(real(x).dtype)
