"""The rows of a float32 product by the driver of `gemm`: tile, panels, columns, and the product.

y = alpha * sum + bias per column: the sum is one chain of fused multiply-adds in the order of tap
and channel that begins with +0, then two roundings. No bias is a bias of -0.0, which changes no
float. Geometry is in bytes, as the driver counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qrt.gemm.blocking import block_panels
from qrt.gemm.code_pack import CodePack, Form
from qrt.gemm.driver import FLOAT_PRODUCTS
from qrt.gemm.extents import GEOMETRY, rows_nbytes
from qrt.gemm.float_pack import float_pack_kernel, pack_floats
from qrt.gemm.pack import pack_columns
from qrt.gemm.table import FLOAT_EPILOGUE, FLOAT_TILES, TileSpec, padded_columns, select_tile
from qrt.gemm.unpack import SLAB, WORK_NBYTES, unpack_kernel
from qrt.ir import Deferred, Value
from qrt.ops.product_rows import THREAD_MACS, blocking, outputs
from qrt.ops.spec import Array, Lowering, Operand
from qrt.quant.coded import Coded
from qrt.simd.caches import cache_sizes

ITEMSIZE = 4
NO_BIAS = np.float32(-0.0)
LEAST_NBYTES = 1 << 14  # of float weights, below which packing them saves nothing that counts
WORTH = 0.75  # of the floats' bytes, which packed weights may have at most
COLUMN_NBYTES = 16  # of a column's parameters in `pack_columns`
CHUNKS = 16  # parts in which weights are unpacked, at most: scratch, and rows of a program


def matrix_geometry(
    m: int, k: int, x_steps: tuple[int, int], y_steps: tuple[int, int]
) -> dict[str, int]:
    """The driver's fields of a product of matrices: m rows of k values. Steps count elements, from
    group to group and from row to row."""
    return dict.fromkeys(GEOMETRY, 1) | {
        "pad_h": 0,
        "pad_w": 0,
        "width": m,
        "out_width": m,
        "x_pixel": x_steps[1] * ITEMSIZE,
        "x_row": 0,
        "x_image": 0,
        "x_group": x_steps[0] * ITEMSIZE,
        "channels": k * ITEMSIZE,
        "y_pixel": y_steps[1] * ITEMSIZE,
        "y_group": y_steps[0] * ITEMSIZE,
    }


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


def packed_weights(program: Lowering, w: Value, form: Form) -> CodePack | None:
    """The codes of a constant that is kept so, where that is worth it; `explain` says both.

    None for any other constant.
    """
    if not isinstance(w, Deferred) or not isinstance(w.source, Coded):
        return None
    pack, floats, bits = CodePack(w.source, form), w.nbytes, w.source.bits
    if floats < LEAST_NBYTES:
        program.note(f"weights of {bits} bits are float32: {floats} bytes are not worth packing")
        return None
    if pack.nbytes > WORTH * floats:
        program.note(
            f"weights of {bits} bits are float32, {floats} bytes: packed with their scales they"
            f" would be {pack.nbytes}"
        )
        return None
    program.note(f"weights of {bits} bits stay packed, {pack.nbytes} bytes for {floats}")
    return pack


@dataclass(frozen=True)
class Codes:
    """Weights of `groups` products of n columns in codes, where they lie; `fields` are those of
    `unpack`. A panel of codes has `per_panel` slabs of 16 columns; `usual` stands for zeros."""

    codes: Operand
    scales: Operand
    zeros: Operand | None
    groups: int
    n: int
    usual: int
    fields: Mapping[str, int]

    @classmethod
    def stored(cls, program: Lowering, pack: CodePack) -> Codes:
        """The operands of `pack`."""
        coded = pack.coded
        key, zero_point = (id(coded), "codes", pack.form), coded.zero_point
        zeros = None
        if zero_point is not None:
            zeros = program.packed((*key, "zeros"), lambda: pack.parameter(zero_point))
        return cls(
            program.packed((*key, "codes"), pack.codes),
            program.packed((*key, "scales"), lambda: pack.parameter(coded.scale)),
            zeros,
            pack.form.groups,
            pack.n,
            coded.usual,
            pack.fields,
        )

    def at(self, group: int, column: int) -> dict[str, Operand | int]:
        """The operands from a group and column on; the latter begins a panel of codes."""
        f = self.fields
        slab = column // SLAB
        panel = slab // f["per_panel"]
        step = slab // f["splat"] * 4 if f["splat"] else panel * f["scale_panel"]
        zero_step = step if f["splat"] else panel * f["zero_panel"]
        zeros: Operand | int = 0
        if self.zeros is not None:
            zeros = self.zeros.at(group * f["zero_group"] + zero_step)
        return {
            "codes": self.codes.at(group * f["code_group"] + panel * f["code_panel"]),
            "scales": self.scales.at(group * f["scale_group"] + step),
            "zeros": zeros,
        }


def lower_coded_float_product(
    program: Lowering,
    codes: Codes,
    geometry: dict[str, int],
    x: Operand,
    y: Operand,
    *,
    bias: Array,
    alpha: float = 1.0,
) -> None:
    """The same with weights in `codes`: part by part they are unpacked to scratch and multiplied.

    As many groups as fit are one part, else the panels of one group are several.
    """
    f, groups, n = codes.fields, codes.groups, codes.n
    k = f["taps"] * f["span"]
    tile = _tile(geometry, k, n, program)
    if tile is None or not groups:
        return
    columns = np.concatenate([_columns(tile, part, alpha) for part in bias.reshape(groups, n)])
    place, padded = program.constant(columns), padded_columns(n, tile)
    # a part begins with a panel, of the tile and of the codes, and with a block of shared scales
    shared = SLAB * f["splat"] if 0 < SLAB * f["splat"] < n else 1
    unit = math.lcm(tile.nr, SLAB * f["per_panel"], shared)
    fit = max(block_panels(unit * k * ITEMSIZE, cache_sizes()), -(-n // (unit * CHUNKS)))
    part_n = min(n, fit * unit)
    together = max(1, fit * unit // padded) if part_n == n else 1
    together = min(groups, max(together, -(-groups // CHUNKS) if part_n == n else 1))
    scratch = program.scratch(together * k * padded_columns(part_n, tile) * ITEMSIZE)
    threads = program.threads()
    work = program.scratch(threads * WORK_NBYTES)
    for group in range(0, groups, together):
        count = min(together, groups - group)
        for column in range(0, n, part_n):
            width = min(part_n, n - column)
            now = padded_columns(width, tile)
            fields: dict[str, int | Operand] = {
                **f,
                **codes.at(group, column),
                "groups": count,
                "n": width,
                "padded": now,
                "nr": tile.nr,
                "panels": scratch,
                "work": work,
                "has_zeros": int(codes.zeros is not None),
                "usual": codes.usual,
                "max_threads": threads if count * k * now >= THREAD_MACS else 1,
            }
            program.emit(unpack_kernel, **fields)
            _emit(
                program, tile, geometry, count, width, scratch,
                place.at((group * padded + column) * COLUMN_NBYTES),
                x.at(group * geometry["x_group"]),
                y.at(group * geometry["y_group"] + column * ITEMSIZE),
            )  # fmt: skip


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
        limits_step=0,
        rows=program.scratch(fields["max_threads"] * rows_nbytes(taps, tile.mr)),
    )
