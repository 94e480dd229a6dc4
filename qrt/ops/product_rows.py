"""The rows of a product: which tile, packed weights, row sums, and the product itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.gemm.blocking import block_panels, run_tiles
from qrt.gemm.choice import fastest, measures, modelled
from qrt.gemm.driver import PRODUCTS
from qrt.gemm.extents import work_nbytes
from qrt.gemm.pack import KR, column_positions, pack_columns, pack_weights, panel_nbytes
from qrt.gemm.pack_kernel import pack_kernel
from qrt.gemm.run_time_columns import SCALED_F32, run_time_columns_kernel
from qrt.gemm.table import WEIGHT_NBYTES, TileSpec, padded_columns, select_tile
from qrt.ir import Value
from qrt.ops.product import Product, max_scaled, sum_bound, weight_sums, wrap_i32
from qrt.ops.product_limits import emit_with_limits
from qrt.ops.row_sums import lower_row_sums
from qrt.ops.spec import Array, Lowering, Operand
from qrt.simd.caches import cache_sizes

# below this many multiply-adds a barrier and a cold second core cost more than they bring
THREAD_MACS = 64 * 1024


def lower_product(
    program: Lowering,
    w: Array,
    key: tuple[object, ...],
    product: Product,
    groups: int,
    geometry: dict[str, int],
    x: Operand,
    y: Operand,
) -> None:
    """Emit the rows of a product with constant weights.

    w is (groups * n, taps, channels) int8; `geometry` holds the driver's fields from batch to
    x_group and y_pixel. `key` names the weights for the session's store of packed weights.
    """
    total, taps, channels = w.shape
    n = total // groups
    m = outputs(geometry)
    bound = sum_bound(w, product)
    _check_bound(bound, taps * channels)
    if not (m and n and groups):
        return
    geometry = geometry | {"channels": channels, "n": n}
    tile = _tile(program, m, n, taps * -(-channels // KR), product, bound, geometry)
    corrected = product.bias - int(product.x.zero_point) * weight_sums(w, product)
    corrected = wrap_i32(corrected + w.sum(1, dtype=np.int64) @ tile.x_offsets(channels))

    columns, pad = lower_columns(
        program,
        product,
        _columns(product, corrected, tile, groups, n),
        _slopes(product, weight_sums(w, product), tile, groups, n),
        channels + 4,
    )

    def panels() -> Array:
        split = w.reshape(groups, n, taps, channels)
        return np.concatenate([pack_weights(part, tile, product.epilogue) for part in split])

    emit_product(
        program,
        product,
        tile,
        groups,
        geometry,
        x,
        y,
        panels=program.packed((*key, groups, tile, product.epilogue), panels),
        columns=columns,
        pad=pad,
    )


def lower_columns(
    program: Lowering, product: Product, columns: Array, slopes: Array, pad_nbytes: int
) -> tuple[Operand, Operand]:
    """Where the column parameters are, and `pad_nbytes` bytes of x's zero point.

    Where they wait for the data, the row that completes them is emitted (`run_time_columns`).
    """
    template = program.constant(columns)
    if not product.waits:
        return template, program.constant(np.full(pad_nbytes, product.x.zero_point, np.uint8))
    one, x_scale = np.ones((), np.float32), product.x_scale
    made = program.scratch(columns.nbytes), program.scratch(pad_nbytes)
    program.emit(
        run_time_columns_kernel,
        template=template,
        slopes=program.constant(slopes),
        x_scale=program.constant(one) if x_scale is None else program.operand(x_scale),
        x_zero_point=pad_byte(program, product),
        columns=made[0],
        pad=made[1],
        count=columns.nbytes // 4,
        pad_nbytes=pad_nbytes,
    )
    return made


def pad_byte(program: Lowering, product: Product) -> Operand:
    """Where the zero point of x is, a byte."""
    if product.x_zero_point is not None:
        return program.operand(product.x_zero_point)
    return program.constant(np.asarray(product.x.zero_point, np.uint8))


@dataclass(frozen=True)
class Computed:
    """Weights (k, n) int8 that are computed, and their steps in bytes, one of which is 1."""

    operand: Operand
    k: int
    n: int
    k_step: int
    n_step: int


def lower_computed_product(
    program: Lowering,
    w: Computed,
    product: Product,
    geometry: dict[str, int],
    x: Operand,
    y: Operand,
) -> None:
    """Emit the rows of a product whose weights are computed: they are packed first."""
    k, n = w.k, w.n
    reach = max(int(product.x.zero_point), 255 - int(product.x.zero_point))
    furthest = int(np.abs(product.w_zero_point.astype(np.int64)).max(initial=0)) + 128
    if product.w_zero_point_code is not None:
        furthest = 255
    bound = np.full(n, k * reach * furthest) + np.abs(product.bias.astype(np.int64))
    m = outputs(geometry)
    _check_bound(bound, k)
    if not (m and n):
        return
    geometry = geometry | {"channels": k, "n": n}
    tile = _tile(program, m, n, -(-k // KR), product, bound, geometry)
    padded = padded_columns(n, tile)
    panels = program.scratch(padded * -(-k // tile.kr) * WEIGHT_NBYTES)
    columns = program.scratch(16 * padded)
    program.emit(
        pack_kernel,
        w=w.operand,
        panels=panels,
        columns=columns,
        template=program.constant(_columns(product, wrap_i32(product.bias), tile, 1, n)),
        order=program.constant(column_positions(n, tile, product.epilogue)),
        **_numbers(program, product),
        k=k,
        n=n,
        k_step=w.k_step,
        n_step=w.n_step,
        padded=padded,
        nr=tile.nr,
        lanes=tile.lanes,
        kr=tile.kr,
        x_offset=tile.x_offset,
        pairs=int(tile.pairs),
        octets=int(tile.octets),
    )
    pad = program.constant(np.full(k + 4, product.x.zero_point, np.uint8))  # nothing reads it
    emit_product(program, product, tile, 1, geometry, x, y, panels=panels, columns=columns, pad=pad)


def _numbers(program: Lowering, product: Product) -> dict[str, Operand]:
    """Where scale and zero points are that `pack_kernel` adds to the template's."""
    numbers: dict[str, tuple[Value | None, Array]] = {
        "x_scale": (product.x_scale, np.ones((), np.float32)),
        "w_zero_point": (product.w_zero_point_code, np.asarray(128, np.uint8)),
    }
    return {"x_zero_point": pad_byte(program, product)} | {
        name: program.constant(known) if value is None else program.operand(value)
        for name, (value, known) in numbers.items()
    }


def emit_product(
    program: Lowering,
    product: Product,
    tile: TileSpec,
    groups: int,
    geometry: dict[str, int],
    x: Operand,
    y: Operand,
    *,
    panels: Operand,
    columns: Operand,
    pad: Operand,
) -> None:
    """Emit the product by `tile`, after the row sums where a weight zero point is not 0."""
    n, channels = geometry["n"], geometry["channels"]
    taps = geometry["kernel_h"] * geometry["kernel_w"]
    fields = geometry | blocking(program, tile, groups, geometry)
    fields["y_group"] = n * product.itemsize
    threads = fields["max_threads"]
    has_sums = product.w_zero_point_code is not None or bool(product.w_zero_point.any())
    sums: Operand | int = 0
    if has_sums:
        sums = lower_row_sums(program, fields, x, pad)
    emit_with_limits(
        program,
        PRODUCTS[tile, product.epilogue],
        product,
        **(fields | {"has_sums": int(has_sums)}),
        x=x,
        y=y,
        panels=panels,
        columns=columns,
        sums=sums,
        pad=pad,
        rows=program.scratch(threads * work_nbytes(tile, taps, channels)),
    )


def blocking(
    program: Lowering, tile: TileSpec, groups: int, geometry: dict[str, int]
) -> dict[str, int]:
    """The driver's fields that say how much each loop takes, and how many threads run it."""
    taps = geometry["kernel_h"] * geometry["kernel_w"]
    channels = geometry["channels"]
    row_nbytes = taps * channels + geometry["y_pixel"] // groups
    macs = outputs(geometry) * geometry["n"] * groups * taps * -(-channels // tile.x_nbytes)
    return {
        "groups": groups,
        "block": block_panels(panel_nbytes(taps, channels, tile), cache_sizes()),
        "run": run_tiles(tile.mr * row_nbytes, cache_sizes()),
        "max_threads": program.threads() if macs >= THREAD_MACS else 1,
    }


def outputs(geometry: dict[str, int]) -> int:
    """Rows of the product: pixels that the convolution writes."""
    return geometry["batch"] * geometry["out_height"] * geometry["out_width"]


def _check_bound(bound: Array, terms: int) -> None:
    if (bound >= 2**31).any():
        raise UnsupportedError(
            f"sums over {terms} products can pass int32 (up to {int(bound.max())})"
        )


def _tile(
    program: Lowering,
    m: int,
    n: int,
    k: int,
    product: Product,
    bound: Array,
    geometry: dict[str, int],
) -> TileSpec:
    """The table's or the clock's choice, or the portable tile when a precondition does not hold."""
    tile = select_tile(m, n, k, program.features)
    limit = PRODUCTS[tile, product.epilogue].preconditions.get("max_scaled")
    if limit is not None and product.y is not None and max_scaled(bound, product) >= limit:
        program.note("portable tile: scaled sums may pass int32")
        return select_tile(m, n, k, frozenset())
    choice = None
    if measures():
        y_group = n * product.itemsize
        fields = geometry | {"y_group": y_group, "block": 1, "run": 1}
        choice = fastest(tile, fields, product.epilogue, program.features)
    if choice is None:
        choice = modelled(tile, m, n, k, program.features)
    if choice.why:
        program.note(choice.why)
    return choice.tile


def _columns(product: Product, bias: Array, tile: TileSpec, groups: int, n: int) -> Array:
    """The column parameters of every group, one after the other."""

    def per_group(values: Any) -> Array:
        return np.broadcast_to(values, groups * n).reshape(groups, n)

    parts = zip(
        per_group(bias),
        per_group(product.multiplier),
        per_group(product.w_zero_point),
        per_group(product.float_bias),
        strict=True,
    )
    return np.concatenate([pack_columns(n, tile, product.epilogue, *part) for part in parts])


def _slopes(product: Product, sums: Array, tile: TileSpec, groups: int, n: int) -> Array:
    """What `run_time_columns` reads beside `_columns`; nothing where no column waits."""
    if not product.waits:
        return np.zeros(0, np.uint8)
    zero = np.zeros((), np.int32)
    parts = [
        pack_columns(n, tile, product.epilogue, part, SCALED_F32, zero, np.zeros((), np.float32))
        for part in sums.reshape(groups, n)
    ]
    return np.concatenate(parts)
