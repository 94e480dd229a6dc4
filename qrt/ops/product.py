"""What Conv and MatMul share: the numbers of a product, its reference, its packing and its row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.gemm.driver import PRODUCTS, row_sums_kernel
from qrt.gemm.extents import rows_nbytes
from qrt.gemm.pack import KR, pack_columns, pack_weights, panel_nbytes
from qrt.gemm.table import TileSpec, select_tile
from qrt.ir import Node, QParams
from qrt.ops.spec import Array, Lowering, Operand

# panels that stay in L2 while the rows of x go by: half of a 1 MiB L2, the rest is x and y
L2_NBYTES = 512 * 1024
# below this many multiply-adds a barrier and a cold second core cost more than they bring
THREAD_MACS = 64 * 1024


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
        np.zeros(n, np.int32) if bias is None or bias.data is None else bias.data.reshape(-1),
        np.zeros(n, np.float32)
        if float_bias is None or float_bias.data is None
        else float_bias.data.reshape(-1),
        np.asarray(node.attrs.get("w_zero_point", 0), np.int32),
        np.asarray(node.attrs["scale"], np.float32),
        int(node.attrs.get("qmin", 0 if y is None else y.qmin)),
        int(node.attrs.get("qmax", 0 if y is None else y.qmax)),
    )


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
    """Largest |sum| per output channel that any x can give, for w (n, k...) int8."""
    flat = w.reshape(w.shape[0], math.prod(w.shape[1:])).astype(np.int64)
    flat = flat - np.broadcast_to(product.w_zero_point, w.shape[0])[:, None]
    zero_point = int(product.x.zero_point)
    reach = max(zero_point - product.x.qmin, product.x.qmax - zero_point)
    bound: Array = np.abs(flat).sum(1) * reach + np.abs(product.bias.astype(np.int64))
    return bound


def lower_product(
    node: Node,
    program: Lowering,
    w: Array,
    key: tuple[object, ...],
    product: Product,
    groups: int,
    geometry: dict[str, int],
    x: Operand,
    y: Operand,
) -> None:
    """Emit the row (two with weight zero points) of a product.

    w is (groups * n, taps, channels) int8; `geometry` holds the driver's fields from batch to
    x_group and y_pixel. `key` names the weights for the session's store of packed weights.
    """
    total, taps, channels = w.shape
    n = total // groups
    bound = sum_bound(w, product)
    if (bound >= 2**31).any():
        raise UnsupportedError(
            f"{node.where}: sums over {taps * channels} products can pass int32"
            f" (up to {int(bound.max())})"
        )
    m = geometry["batch"] * geometry["out_height"] * geometry["out_width"]
    if not (m and n and groups):
        return
    tile = _tile(m, n, taps * -(-channels // KR), product, bound, program.features)
    epilogue = product.epilogue
    corrected = product.bias - int(product.x.zero_point) * _weight_sums(w, product)
    corrected = corrected + tile.x_offset * w.sum((1, 2), dtype=np.int64)

    def per_group(values: Any) -> Array:
        return np.broadcast_to(values, total).reshape(groups, n)

    def panels() -> Array:
        split = w.reshape(groups, n, taps, channels)
        return np.concatenate([pack_weights(part, tile, epilogue) for part in split])

    columns = np.concatenate(
        [
            pack_columns(n, tile, epilogue, *parts)
            for parts in zip(
                per_group(wrap_i32(corrected)),
                per_group(product.multiplier),
                per_group(product.w_zero_point),
                per_group(product.float_bias),
                strict=True,
            )
        ]
    )
    zero_point = int(product.x.zero_point)
    limits = [0 if product.y is None else int(product.y.zero_point), product.qmin, product.qmax, 0]
    nbytes = panel_nbytes(taps, channels, tile)
    threads = program.threads() if m * n * groups * taps * channels >= THREAD_MACS else 1
    fields = dict(
        geometry,
        kernel_h=geometry.get("kernel_h", 1),
        channels=channels,
        n=n,
        y_group=n * (1 if epilogue == "u8" else 4),
        groups=groups,
        block=max(1, L2_NBYTES // max(nbytes, 1)),
        max_threads=threads,
    )
    pad = program.constant(np.full(channels + 4, zero_point, np.uint8))
    has_sums = bool(product.w_zero_point.any())
    sums: Operand | int = 0
    if has_sums:
        sums = program.scratch(4 * m * groups)
        program.emit(
            row_sums_kernel,
            **(fields | {"has_sums": 0}),
            x=x,
            y=sums,
            panels=0,
            columns=0,
            sums=0,
            pad=pad,
            limits=0,
            rows=program.scratch(threads * rows_nbytes(taps, 1)),
        )
    program.emit(
        PRODUCTS[tile, epilogue],
        **(fields | {"has_sums": int(has_sums)}),
        x=x,
        y=y,
        panels=program.packed((*key, tile, epilogue), panels),
        columns=program.constant(columns),
        sums=sums,
        pad=pad,
        limits=program.constant(np.array(limits, np.int32)),
        rows=program.scratch(threads * rows_nbytes(taps, tile.mr)),
    )


def _tile(
    m: int, n: int, k: int, product: Product, bound: Array, features: frozenset[str]
) -> TileSpec:
    """The table's choice, or the portable tile when a precondition does not hold."""
    tile = select_tile(m, n, k, features)
    limit = PRODUCTS[tile, product.epilogue].preconditions.get("max_scaled")
    if limit is not None and product.y is not None and max_scaled(bound, product) >= limit:
        return select_tile(m, n, k, frozenset())
    return tile


def max_scaled(bound: Array, product: Product) -> float:
    """Largest |acc * multiplier| that sums within `bound` can give, a little rounded up."""
    scaled = bound.astype(np.float64) * np.abs(product.multiplier.astype(np.float64))
    return float(scaled.max(initial=0)) * 1.001


def _weight_sums(w: Array, product: Product) -> Array:
    flat = w.reshape(w.shape[0], math.prod(w.shape[1:]))
    sums: Array = flat.sum(1, dtype=np.int64)
    return sums - flat.shape[1] * product.w_zero_point.astype(np.int64)


def wrap_i32(values: Array) -> Array:
    """Low 32 bits: the sums wrap on the way and are exact at the end (`sum_bound`)."""
    return values.astype(np.int64).astype(np.uint64).astype(np.uint32).view(np.int32)
