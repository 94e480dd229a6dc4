"""The numbers of a product, which Conv and MatMul share: its parameters, reference and bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.gemm.order import NARROW
from qrt.gemm.ranges import HIGH_AT, LOW_AT, PARTS, RECORD_NBYTES
from qrt.gemm.table import CODES
from qrt.ir import Node, QParams, Value
from qrt.ops.dynamic_quantize import reference_clipped as quantize
from qrt.ops.spec import Array

RANGES = ((PARTS, RECORD_NBYTES), np.dtype(np.uint8))  # the tensor of ranges that a node finds
NO_BIAS = np.float32(-0.0)  # x + -0.0 is x, whatever the sign of a zero


@dataclass(frozen=True)
class Product:
    """The numbers of a product beside its weights, per output channel (n,) or for all ().

    What the data says while the model runs is a value: `x_scale` (float32) is a factor of `scale`,
    `x_zero_point` (uint8) stands for x's, `w_zero_point_code` (uint8) is that of the weights + 128.
    They are None where they are constants; then x and w_zero_point say them. Where the product
    quantizes its float result itself, `highest` is what that is clipped to (0 from below).
    `outputs` are its node's: what it finds beside its result follows (`more_results`).
    """

    x: QParams
    y: QParams | None
    bias: Array
    float_bias: Array
    w_zero_point: Array
    scale: Array
    qmin: int
    qmax: int
    sums: bool = False
    x_scale: Value | None = None
    x_zero_point: Value | None = None
    w_zero_point_code: Value | None = None
    highest: np.float32 | None = None
    outputs: tuple[Value, ...] = ()

    @property
    def epilogue(self) -> str:
        """Name in gemm's table of what follows the sums."""
        if self.sums:
            return "sums"
        if self.highest is not None:
            return CODES
        return "f32" if self.y is None else "u8"

    @property
    def itemsize(self) -> int:
        """Bytes of an output."""
        return 1 if self.epilogue in NARROW else 4

    @property
    def waits(self) -> bool:
        """True where its columns are complete only when the data is there."""
        return self.x_scale is not None or self.x_zero_point is not None

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
        _per_channel(node, "bias", bias, np.zeros(n, np.int32)),
        _per_channel(node, "float_bias", float_bias, np.full(n, NO_BIAS)),
        np.asarray(node.attrs.get("w_zero_point", 0), np.int32),
        np.asarray(node.attrs["scale"], np.float32),
        int(node.attrs.get("qmin", 0 if y is None else y.qmin)),
        int(node.attrs.get("qmax", 0 if y is None else y.qmax)),
        bool(node.attrs.get("sums", False)),
        node.input(4),
        node.input(5),
        node.input(6),
        highest=node.attrs.get("highest"),
        outputs=tuple(node.outputs),
    )


def result_dtype(node: Node) -> np.dtype[Any]:
    """Of a qrt.Conv or qrt.MatMul."""
    if node.attrs.get("sums", False):
        return np.dtype(np.int32)
    if "highest" in node.attrs:
        return np.dtype(np.uint8)
    y: QParams | None = node.attrs["y"]
    return np.dtype(np.float32) if y is None else y.dtype


def more_results(node: Node) -> list[tuple[tuple[int, ...], object]]:
    """(shape, dtype) of what a qrt.Conv or qrt.MatMul gives beside its result: scale and zero point
    of codes, or the range of floats, where the node has them."""
    if "highest" in node.attrs:
        return [((), np.dtype(np.float32)), ((), np.dtype(np.uint8))]
    return [RANGES] if node.attrs.get("ranged", False) else []


def results(node: Node, y: Array) -> list[Array]:
    """The results of a node whose product is `y`; its range as one thread would have found it."""
    if "highest" in node.attrs:
        ends = {"low": np.float32(0), "high": node.attrs["highest"]}
        return list(quantize(Node("DynamicQuantize", [], [], ends, "qrt"), [y]))
    if not node.attrs.get("ranged", False):
        return [y]
    ranges = np.zeros(RANGES[0], np.uint8)
    ranges[0, LOW_AT : LOW_AT + 4] = np.fmin.reduce(y, None, initial=0).reshape(1).view(np.uint8)
    ranges[0, HIGH_AT : HIGH_AT + 4] = np.fmax.reduce(y, None, initial=0).reshape(1).view(np.uint8)
    return [y, ranges]


def known(product: Product, inputs: Sequence[Array | None]) -> Product:
    """`product` with what its run-time inputs, 4 to 6 of the node's, turned out to be."""
    x_scale, x_zero_point, w_zero_point = (*inputs[4:], None, None, None)[:3]
    x, w_zero = product.x, product.w_zero_point
    if x_zero_point is not None:
        x = replace(x, zero_point=x_zero_point.reshape(()))
    if w_zero_point is not None:
        w_zero = w_zero_point.reshape(()).astype(np.int32) - 128
    scale = product.scale if x_scale is None else product.scale * x_scale.reshape(())
    return replace(product, x=x, w_zero_point=w_zero, scale=scale)


def _per_channel(node: Node, name: str, value: Value | None, missing: Array) -> Array:
    """The constants of an optional input, `missing` when it is omitted."""
    if value is None:
        return missing
    if value.data is None:
        raise UnsupportedError(f"{name} must be constant, {value.name!r} is computed")
    return value.data.reshape(-1)


def finish(acc: Array, product: Product, shape: tuple[int, ...]) -> Array:
    """Requantize or scale exact sums `acc` (int64, channels broadcast as `shape`)."""
    acc32 = (acc + product.bias.astype(np.int64).reshape(shape)).astype(np.int32)
    if product.sums:
        return acc32
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
    positive, negative = flat.clip(min=0).sum(1), -flat.clip(max=0).sum(1)
    bias = product.bias.astype(np.int64)
    if product.x_zero_point is not None:  # the sums go furthest at the ends of what it may be
        furthest = (product.x.qmax - product.x.qmin) * np.maximum(positive, negative)
        return np.asarray(np.abs(bias) + furthest)
    zero_point = int(product.x.zero_point)
    below, above = zero_point - product.x.qmin, product.x.qmax - zero_point
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
