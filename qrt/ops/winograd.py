"""Lower a qrt.Conv as a Winograd convolution, where it is exact and pays."""

from __future__ import annotations

import numpy as np

from qrt import knobs
from qrt.errors import QrtError
from qrt.gemm.blocking import block_tiles
from qrt.gemm.run_time_columns import SCALED, SCALED_F32
from qrt.gemm.winograd import LIMIT, OUT, POSITIONS
from qrt.gemm.winograd_kernel import KERNELS_BY_ROW
from qrt.gemm.winograd_rows import FIELDS, inputs_nbytes, scratch_nbytes, sums_nbytes
from qrt.gemm.winograd_table import (
    WINOGRAD,
    WinogradSpec,
    pack_winograd,
    pack_winograd_bias,
    pack_winograd_columns,
    select_winograd,
)
from qrt.ir import Node
from qrt.ops.product import Product, max_scaled, sum_bound, weight_sums, wrap_i32
from qrt.ops.product_limits import emit_with_limits
from qrt.ops.product_rows import lower_columns
from qrt.ops.spec import Lowering
from qrt.simd.caches import cache_sizes


def lower_winograd(
    program: Lowering, node: Node, product: Product, geometry: dict[str, int], group: int
) -> bool:
    """Emit the row and return True, or False when the convolution is not Winograd's to run."""
    w = node.required(1).data
    assert w is not None
    if w.ndim != 4 or w.shape[2:] != (3, 3) or group != 1 or product.highest is not None:
        return False
    strides = ("stride_h", "stride_w", "dilation_h", "dilation_w")
    if any(geometry[name] != 1 for name in strides):
        return False
    n, channels = w.shape[:2]
    spec = _select(program, geometry, channels, n)
    if spec is None:
        return False
    kernel = KERNELS_BY_ROW[spec, product.epilogue]
    bound = sum_bound(w, product)
    if bound.max() >= LIMIT:
        program.note(f"no Winograd: sums may reach {bound.max()}, it is exact below {LIMIT}")
        return False
    sums = weight_sums(w, product)
    slopes = pack_winograd_bias(wrap_i32(sums), spec)
    if (slopes.view(np.int32) == SCALED).any():
        return False  # it would be taken for a factor
    if product.y is not None and max_scaled(bound, product) >= kernel.preconditions["max_scaled"]:
        return False
    zero_point = int(product.x.zero_point)
    bias = pack_winograd_bias(wrap_i32(product.bias - zero_point * sums), spec)
    bias_at, pad = lower_columns(program, product, bias, slopes, channels + 64)
    columns, factors = (
        pack_winograd_columns(n, spec, product.epilogue, *numbers)
        for numbers in (
            (product.multiplier, product.float_bias), (SCALED_F32, np.zeros((), np.float32))
        )
    )
    columns_at, _ = lower_columns(program, product, columns, factors, 0)
    zero_points = np.broadcast_to(product.w_zero_point, n).astype(np.int16)
    tiles = _tiles(geometry)
    per_tile = POSITIONS * inputs_nbytes(channels, spec.channels) + sums_nbytes(spec.tile.nr)
    block = block_tiles(tiles, per_tile, spec.tile.mr, cache_sizes())
    threads = program.threads()
    emit_with_limits(
        program,
        kernel,
        product,
        **{name: geometry[name] for name in FIELDS if name in geometry},
        channels=channels,
        n=n,
        x=program.operand(node.required(0)),
        y=program.operand(node.outputs[0]),
        panels=program.packed(
            (id(w), "winograd", spec, zero_points.tobytes()),
            lambda: pack_winograd(w.astype(np.int16) - zero_points[:, None, None, None], spec),
        ),
        bias=bias_at,
        columns=columns_at,
        pad=pad,
        scratch=program.scratch(
            threads * scratch_nbytes(block, channels, spec.channels, spec.tile.nr)
        ),
        block=block,
        max_threads=threads,
    )
    return True


def _tiles(geometry: dict[str, int]) -> int:
    high, wide = (-(-geometry[name] // OUT) for name in ("out_height", "out_width"))
    return geometry["batch"] * high * wide


def _select(
    program: Lowering, geometry: dict[str, int], channels: int, n: int
) -> WinogradSpec | None:
    """The row that runs the convolution if it is exact: where it pays, or as the knob says."""
    wish = knobs.WINOGRAD.get()
    if wish not in ("auto", "always", "never"):
        raise QrtError(f"{knobs.WINOGRAD.name} must be auto, always or never, got {wish!r}")
    outputs = geometry["batch"] * geometry["out_height"] * geometry["out_width"]
    if wish == "never" or not outputs * channels * n:
        return None
    features = program.features
    if wish == "always":
        return next((s for s in WINOGRAD if features.issuperset(s.features)), None)
    return select_winograd(_tiles(geometry), outputs, channels, n, features)
