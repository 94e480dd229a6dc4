"""Lower a depthwise qrt.Conv: one row of the depthwise family."""

from __future__ import annotations

import numpy as np

from qrt.gemm.depthwise import KERNELS_BY_SPEC
from qrt.gemm.depthwise_table import (
    DEPTHWISE,
    DEPTHWISE_CODES,
    DepthwiseSpec,
    pack_depthwise,
    pack_depthwise_columns,
    scratch_nbytes,
)
from qrt.gemm.extents import GEOMETRY
from qrt.gemm.run_time_columns import SCALED_F32
from qrt.ir import Node
from qrt.ops.product import Product, max_scaled, sum_bound, wrap_i32
from qrt.ops.product_limits import emit_with_limits
from qrt.ops.product_rows import THREAD_MACS, lower_columns
from qrt.ops.spec import Array, Lowering


def lower_depthwise(
    program: Lowering,
    node: Node,
    product: Product,
    geometry: dict[str, int],
    *,
    channels: int,
    group: int,
) -> bool:
    """Emit the row and return True, or False when the convolution is not the family's to run."""
    w = node.required(1).data
    assert w is not None
    if group != channels or w.shape[0] != channels or group == 1:
        return False
    if product.sums:
        return False
    bound = sum_bound(w, product)
    if (bound >= 2**31).any():
        return False  # the product's lowering refuses it by name
    if not geometry["batch"] * geometry["out_height"] * geometry["out_width"]:
        return True
    spec = _select(product, bound, program.features)
    zero_points = np.broadcast_to(product.w_zero_point, channels).astype(np.int16)
    taps = w.reshape(channels, geometry["kernel_h"], geometry["kernel_w"])
    real = taps.astype(np.int16) - zero_points[:, None, None]
    x_zero_point = int(product.x.zero_point)
    sums = real.sum((1, 2), dtype=np.int64)
    bias = wrap_i32(product.bias + (spec.x_offset - x_zero_point) * sums)
    columns = pack_depthwise_columns(channels, spec, bias, product.multiplier, product.float_bias)
    slopes = pack_depthwise_columns(channels, spec, sums, SCALED_F32, np.zeros((), np.float32))
    columns_at, pad = lower_columns(program, product, columns, slopes, 64)
    fields = {name: geometry[name] for name in GEOMETRY} | {"channels": channels}
    per_thread = -(-scratch_nbytes(fields, spec) // 64) * 64
    macs = geometry["out_height"] * geometry["out_width"] * w.size * geometry["batch"]
    threads = program.threads() if macs >= THREAD_MACS else 1
    steps = geometry["stride_w"], geometry["dilation_w"]
    emit_with_limits(
        program,
        KERNELS_BY_SPEC[spec],
        product,
        **fields,
        x=program.operand(node.required(0)),
        y=program.operand(node.outputs[0]),
        weights=program.packed(
            (id(w), "depthwise", spec, steps, zero_points.tobytes()),
            lambda: pack_depthwise(real, spec, *steps),
        ),
        columns=columns_at,
        pad=pad,
        scratch=program.scratch(per_thread * threads),
        scratch_nbytes=per_thread,
        max_threads=threads,
    )
    return True


def _select(product: Product, bound: Array, features: frozenset[str]) -> DepthwiseSpec:
    """The newest family whose features and preconditions hold."""
    for spec in (*DEPTHWISE, *DEPTHWISE_CODES):
        if spec.epilogue != product.epilogue or not features.issuperset(spec.features):
            continue
        if product.w_zero_point.any() and spec.weight_dtype is np.int8:
            continue  # w - zero_point needs nine bits
        limit = KERNELS_BY_SPEC[spec].preconditions.get("max_scaled")
        if limit is None or max_scaled(bound, product) < limit:
            return spec
    raise AssertionError("the portable row has no preconditions")
