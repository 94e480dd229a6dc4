"""Random movements of data, on integers or between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.contract.values import real

from . import draw
from .builder import Builder, Real, Tensor
from .draw import Array


def transpose(b: Builder, x: Tensor) -> Tensor:
    return _moved(b, x, "Transpose", [], perm=[int(i) for i in b.rng.permutation(x.rank)])


def reshape(b: Builder, x: Tensor) -> Tensor:
    """Fold all but the first axes, or split the last."""
    target = draw.pick(b.rng, ([0, -1], [x.shape[0], -1, x.shape[-1]], [*x.shape[:-1], 1, -1]))
    return _moved(b, x, "Reshape", [np.array(target, np.int64)])


def flatten(b: Builder, x: Tensor) -> Tensor:
    return _moved(b, x, "Flatten", [], axis=draw.pick(b.rng, (1, 1, 2, -1)))


def unsqueeze(b: Builder, x: Tensor) -> Tensor:
    axes = [draw.pick(b.rng, (0, 2, -1))]
    if b.opset < 13:
        return _moved(b, x, "Unsqueeze", [], axes=axes)
    return _moved(b, x, "Unsqueeze", [np.array(axes, np.int64)])


def squeeze(b: Builder, x: Tensor) -> Tensor:
    """Unsqueeze, then squeeze again: an axis of length 1 may not be there."""
    wide = unsqueeze(b, x)
    axis = [wide.shape.index(1)]
    if b.opset < 13:
        return _moved(b, wide, "Squeeze", [], axes=axis)
    return _moved(b, wide, "Squeeze", [np.array(axis, np.int64)])


def pad(b: Builder, x: Tensor) -> Tensor:
    """Spatial axes padded with 0.0, the zero point."""
    widths = [[0] * x.rank, [0] * x.rank]
    for axis in range(2, x.rank):
        widths[0][axis], widths[1][axis] = draw.integer(b.rng, 0, 3), draw.integer(b.rng, 0, 3)
    y = b.dequantize(x)
    extra = [b.real_constant(np.array(widths, np.int64).reshape(-1))]
    if draw.chance(b.rng, 0.5):
        extra.append(b.real_constant(np.array(0, np.float32)))
    return _same(b, x, b.float_node("Pad", [y, *extra]))


def slice_(b: Builder, x: Tensor) -> Tensor:
    axis = draw.integer(b.rng, 1, x.rank - 1)
    start = draw.integer(b.rng, 0, x.shape[axis] - 1)
    bounds = ([start], [2**31], [axis], [draw.pick(b.rng, (1, 1, 2))])
    return _moved(b, x, "Slice", [np.array(v, np.int64) for v in bounds])


def resize_nearest(b: Builder, x: Tensor) -> Tensor:
    """Every coordinate transformation and rounding of the opset, by scales or by sizes."""
    rounding = draw.pick(b.rng, ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    inputs, attrs = _resize(b, x)
    return _moved(b, x, "Resize", inputs, mode="nearest", nearest_mode=rounding, **attrs)


def resize_linear(b: Builder, x: Tensor) -> Tensor:
    arrays, attrs = _resize(b, x)
    inputs = [None if a is None else b.real_constant(a) for a in arrays]
    y = b.float_node("Resize", [b.dequantize(x), *inputs], mode="linear", **attrs)
    return _same(b, x, y)


def _resize(b: Builder, x: Tensor) -> tuple[list[Array | None], dict[str, Any]]:
    """The inputs roi, scales, sizes (one of the last two), and coordinate_transformation_mode."""
    transforms = ["half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners"]
    transforms += ["half_pixel_symmetric"] if b.opset >= 19 else []
    transforms += ["tf_half_pixel_for_nn"] if b.opset < 13 else []
    transform = draw.pick(b.rng, [*transforms, "tf_crop_and_resize"])
    attrs: dict[str, Any] = {"coordinate_transformation_mode": transform}
    absent = np.zeros(0, np.float32) if b.opset < 13 else None  # required then, though empty
    roi = absent
    if transform == "tf_crop_and_resize":
        starts = [0.0, 0.0, *b.rng.uniform(-0.2, 0.4, x.rank - 2)]
        ends = [1.0, 1.0, *b.rng.uniform(0.6, 1.2, x.rank - 2)]
        roi = np.array(starts + ends, np.float32)
        attrs["extrapolation_value"] = draw.pick(b.rng, (0.0, 0.0, 3.0))
    elif draw.chance(b.rng, 0.5):
        options = (2.0, 2.0, 3.0, 0.5, 1.5, 0.6, 2.7, 1.0)
        factors = [draw.pick(b.rng, options) for _ in x.shape[2:]]
        factors = [f if int(f * n) > 0 else 1.0 for f, n in zip(factors, x.shape[2:], strict=True)]
        return [roi, np.array([1, 1, *factors], np.float32)], attrs
    sizes = [draw.integer(b.rng, 1, 2 * size + 1) for size in x.shape[2:]]
    return [roi, absent, np.array([*x.shape[:2], *sizes], np.int64)], attrs


def _moved(b: Builder, x: Tensor, op: str, extra: Sequence[Array | None], **attrs: Any) -> Tensor:
    """`op` on the integers themselves, or on the dequantized tensor that is quantized again."""
    inputs = [None if a is None else b.real_constant(a) for a in extra]
    if b.spelling == "qop" or draw.chance(b.rng, 0.3):
        y = b.float_node(op, [Real(x.name, x.q), *inputs], **attrs)
        return b.moved(y.name, x, real(y.value))
    return _same(b, x, b.float_node(op, [b.dequantize(x), *inputs], **attrs))


def _same(b: Builder, x: Tensor, y: Real) -> Tensor:
    """Quantize `y` with the parameters of `x`, sometimes with others."""
    if draw.chance(b.rng, 0.2):
        return b.quantize(y)
    return b.quantize(y, x.q.dtype, x.parameters)
