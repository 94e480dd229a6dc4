"""The numbers of a product, which Conv and MatMul share: its parameters, reference and bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams, Value
from qrt.ops.spec import Array


@dataclass(frozen=True)
class Product:
    """The numbers of a product beside its weights, per output channel (n,) or for all ()."""

    x: QParams
    y: QParams | None
    bias: Array
    float_bias: Array
    w_zero_point: Array
    scale: Array
    qmin: int
    qmax: int

    @property
    def epilogue(self) -> str:
        """Name in gemm's table of what follows the sums."""
        return "f32" if self.y is None else "u8"

    @property
    def multiplier(self) -> Array:
        """float32 factor of the sums: (x_scale * w_scale) / y_scale, or the scale itself."""
        return self.scale if self.y is None else np.asarray(self.scale / self.y.scale, np.float32)


def read_product(node: Node, n: int) -> Product:
    """The product of a qrt.Conv or qrt.MatMul with n output channels."""
    bias, float_bias = (node.input(i) for i in (2, 3))
    y: QParams | None = node.attrs["y"]
    return Product(
        node.attrs["x"],
        y,
        _per_channel(node, "bias", bias, n, np.int32),
        _per_channel(node, "float_bias", float_bias, n, np.float32),
        np.asarray(node.attrs.get("w_zero_point", 0), np.int32),
        np.asarray(node.attrs["scale"], np.float32),
        int(node.attrs.get("qmin", 0 if y is None else y.qmin)),
        int(node.attrs.get("qmax", 0 if y is None else y.qmax)),
    )


def _per_channel(node: Node, name: str, value: Value | None, n: int, dtype: type) -> Array:
    """The n constants of an optional input; zeros when it is omitted."""
    if value is None:
        return np.zeros(n, dtype)
    if value.data is None:
        raise UnsupportedError(f"{name} must be constant, {value.name!r} is computed")
    return value.data.reshape(-1)


def finish(acc: Array, product: Product, shape: tuple[int, ...]) -> Array:
    """Requantize or scale exact sums `acc` (int64, channels broadcast as `shape`)."""
    acc32 = (acc + product.bias.astype(np.int64).reshape(shape)).astype(np.int32)
    floats = acc32.astype(np.float32)
    factor = np.broadcast_to(product.multiplier, product.bias.shape).reshape(shape)
    y: Array = floats * factor
    if product.y is None:
        y = y + product.float_bias.reshape(shape)
        return y
    y = np.rint(y.astype(np.float64)) + int(product.y.zero_point)
    y = np.clip(y, product.qmin, product.qmax).astype(product.y.dtype)
    return y


def sum_bound(w: Array, product: Product) -> Array:
    """Largest |sum| per output channel that any x can give, for w (n, k...) int8: int64 (n,)."""
    flat = w.reshape(w.shape[0], math.prod(w.shape[1:])).astype(np.int64)
    flat = flat - np.broadcast_to(product.w_zero_point, w.shape[0])[:, None]
    zero_point = int(product.x.zero_point)
    below, above = zero_point - product.x.qmin, product.x.qmax - zero_point
    positive, negative = flat.clip(min=0).sum(1), -flat.clip(max=0).sum(1)
    bias = product.bias.astype(np.int64)
    lowest = bias - positive * below - negative * above
    highest = bias + positive * above + negative * below
    bound: Array = np.maximum(np.abs(lowest), np.abs(highest))
    return bound


def max_scaled(bound: Array, product: Product) -> float:
    """Largest |acc * multiplier| that sums within `bound` can give, a little rounded up."""
    scaled = bound.astype(np.float64) * np.abs(product.multiplier.astype(np.float64))
    return float(scaled.max(initial=0)) * 1.001


def weight_sums(w: Array, product: Product) -> Array:
    flat = w.reshape(w.shape[0], math.prod(w.shape[1:]))
    sums: Array = flat.sum(1, dtype=np.int64)
    return sums - flat.shape[1] * product.w_zero_point.astype(np.int64)


def wrap_i32(values: Array) -> Array:
    """Low 32 bits: the sums wrap on the way and are exact at the end (`sum_bound`)."""
    return values.astype(np.int64).astype(np.uint64).astype(np.uint32).view(np.int32)
