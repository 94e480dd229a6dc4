"""The rows of a float32 product by the driver of `gemm`: tile, panels, columns, and the product.

y = alpha * sum + bias per column: the sum is one chain of fused multiply-adds in the order of tap
and channel that begins with +0, then two roundings. No bias is a bias of -0.0, which changes no
float. Geometry is in bytes, as the driver counts.
"""

from __future__ import annotations

import numpy as np

from qrt.gemm.driver import FLOAT_PRODUCTS
from qrt.gemm.extents import rows_nbytes
from qrt.gemm.float_pack import float_pack_kernel, pack_floats
from qrt.gemm.pack import pack_columns
from qrt.gemm.table import FLOAT_EPILOGUE, FLOAT_TILES, TileSpec, padded_columns, select_tile
from qrt.ops.product_rows import blocking, outputs
from qrt.ops.spec import Array, Lowering, Operand

ITEMSIZE = 4
NO_BIAS = np.float32(-0.0)


def lower_float_product(
    program: Lowering,
    w: Array,
    key: tuple[object, ...],
    geometry: dict[str, int],
    x: Operand,
    y: Operand,
    *,
    bias: Array,
    alpha: float = 1.0,
) -> None:
    """Emit the row of a product with constant weights (groups, taps, values, n) float32.

    `geometry` holds the driver's fields from batch to x_group, channels, y_pixel and y_group.
    `bias` is (groups * n,). `key` names the weights for the session's store of packed weights.
    """
    groups, taps, values, n = w.shape
    tile = _tile(geometry, taps * values, n, program)
    if tile is None or not groups:
        return

    def panels() -> Array:
        return np.concatenate([pack_floats(part.reshape(-1, n), tile) for part in w])

    columns = np.concatenate([_columns(tile, part, alpha) for part in bias.reshape(groups, n)])
    packed = program.packed((*key, groups, tile), panels)
    _emit(program, tile, geometry, groups, n, packed, program.constant(columns), x, y)


def lower_computed_float_product(
    program: Lowering,
    w: Operand,
    steps: tuple[int, int, int],
    shape: tuple[int, int, int],
    geometry: dict[str, int],
    x: Operand,
    y: Operand,
    *,
    bias: Array,
    alpha: float = 1.0,
) -> None:
    """The same with weights of `shape` (groups, k, n) at `w`, `steps` bytes apart: packed first.

    `bias` is (n,), the same in every group.
    """
    groups, k, n = shape
    tile = _tile(geometry, k, n, program)
    if tile is None or not groups:
        return
    padded = padded_columns(n, tile)
    panels = program.scratch(groups * k * padded * ITEMSIZE)
    w_group, w_k, w_n = steps
    program.emit(
        float_pack_kernel,
        w=w,
        panels=panels,
        groups=groups,
        k=k,
        n=n,
        padded=padded,
        nr=tile.nr,
        w_group=w_group,
        w_k=w_k,
        w_n=w_n,
    )
    columns = program.constant(np.tile(_columns(tile, bias, alpha), groups))
    _emit(program, tile, geometry, groups, n, panels, columns, x, y)


def _tile(geometry: dict[str, int], k: int, n: int, program: Lowering) -> TileSpec | None:
    """The table's choice; None for a product without outputs."""
    m = outputs(geometry)
    return select_tile(m, n, k, program.features, FLOAT_TILES) if m and n else None


def _columns(tile: TileSpec, bias: Array, alpha: float) -> Array:
    zero = np.zeros((), np.int32)  # what sums begin with, and the weights' zero point
    factor = np.asarray(alpha, np.float32)
    return pack_columns(bias.size, tile, FLOAT_EPILOGUE, zero, factor, zero, bias)


def _emit(
    program: Lowering,
    tile: TileSpec,
    geometry: dict[str, int],
    groups: int,
    n: int,
    panels: Operand,
    columns: Operand,
    x: Operand,
    y: Operand,
) -> None:
    geometry = geometry | {"n": n}
    fields = geometry | blocking(program, tile, groups, geometry)
    taps = fields["kernel_h"] * fields["kernel_w"]
    program.emit(
        FLOAT_PRODUCTS[tile],
        **fields,
        x=x,
        y=y,
        panels=panels,
        columns=columns,
        has_sums=0,
        sums=0,
        pad=program.constant(np.zeros(fields["channels"], np.uint8)),
        limits=program.constant(np.zeros(4, np.int32)),
        rows=program.scratch(fields["max_threads"] * rows_nbytes(taps, tile.mr)),
    )
