"""Weights and biases of quantized products: integers by a grid, rounded and corrected by data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from qrt.ir import QParams
from qrt.ptq.config import Grid, QuantConfig
from qrt.ptq.constants import dequantized
from qrt.ptq.draft import Draft, attributes
from qrt.ptq.plan import Plan
from qrt.ptq.product import bias_of, from_rows, give_bias, product_of
from qrt.ptq.rounding import BY_DATA
from qrt.ptq.rows import Seen
from qrt.quant.affine import Array, quantize
from qrt.quant.choose import choose_qparams

MAX_BIAS = 2**30  # steps; as many are left for the sums


def quantize_product(
    draft: Draft,
    made: list[onnx.NodeProto],
    node: onnx.NodeProto,
    plan: Plan,
    config: QuantConfig,
    qparams: Mapping[str, QParams],
    seen: Seen | None,
    clamp: tuple[float, float],
    done: dict[tuple[str, int, bytes], str],
) -> None:
    """Weights and bias of a product, in its inputs 1 and 2.

    `seen` are the rows it multiplies, where they count, `clamp` the range its outputs are cut to.
    """
    name = node.input[1]
    array = draft.arrays.get(name)
    if array is None:
        return  # a second activation
    axis = weight_axis(node, array)
    grid = config.rule(node.op_type, node.name).weights or config.weights
    bias = _constant_bias(draft, node)
    x = qparams[plan.source(node.input[0])]
    q = plan.known.get(name) or weight_qparams(array, grid, axis)
    if bias is not None and q.block_size is None and name not in plan.known:
        # a coarser channel, rather than a bias that int32 sums have no room for
        least = np.abs(bias).astype(np.float64) / (float(x.scale) * MAX_BIAS)
        scale = np.maximum(q.scale, least if q.scale.ndim else least.max(initial=0))
        q = replace(q, scale=np.asarray(scale, np.float32))
    codes = quantize(array, q)
    if seen is not None:
        codes, bias = _by_data(draft, node, array, q, config, seen, clamp, bias)
    key = (name, axis, q.scale.tobytes() + codes.tobytes())
    if key not in done:
        done[key] = dequantized(draft, made, name, codes, q)
    node.input[1] = done[key]
    if bias is None or q.block_size is not None:
        return
    scale = np.asarray(x.scale.astype(np.float64) * q.scale, np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    steps = np.rint(bias.astype(np.float64) / scale)
    if np.abs(steps).max(initial=0) > MAX_BIAS:
        return  # by scales that were given: it stays float
    stored = draft.constant(f"{node.input[2]}_quantized", steps.astype(np.int32))
    parts = [
        draft.constant(f"{node.input[2]}_scale", scale),
        draft.constant(f"{node.input[2]}_zero_point", np.zeros(scale.shape, np.int32)),
    ]
    out = draft.fresh(f"{node.input[2]}_dequantized")
    attrs: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    made.append(draft.node("DequantizeLinear", [stored, *parts], [out], **attrs))
    node.input[2] = out


def _by_data(
    draft: Draft,
    node: onnx.NodeProto,
    array: Array,
    q: QParams,
    config: QuantConfig,
    seen: Seen,
    clamp: tuple[float, float],
    bias: Array | None,
) -> tuple[Array, Array | None]:
    """Codes and bias of a product by what it multiplies; the node gets the bias."""
    room = bias_of(draft, node, array.shape[weight_axis(node, array)])
    product = product_of(node, array, q, room, seen, clamp, config.bias_correction)
    codes = product.nearest()
    moved = product.mean_bias(codes)
    if config.rounding in BY_DATA:
        codes, moved = BY_DATA[config.rounding](product)
    if product.free:
        bias = give_bias(draft, node, moved)
    return from_rows(node, codes, array.shape).astype(q.dtype), bias


def _constant_bias(draft: Draft, node: onnx.NodeProto) -> Array | None:
    """The bias of a product that int32 can stand for."""
    name = node.input[2] if len(node.input) > 2 else ""
    bias = draft.arrays.get(name)
    if bias is None or bias.ndim != 1 or attributes(node).get("beta", 1.0) != 1.0:
        return None
    return bias


def weight_axis(node: onnx.NodeProto, array: Array) -> int:
    """The axis of output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm" and attributes(node).get("transB", 0):
        return 0
    return array.ndim - 1


def weight_qparams(array: Array, grid: Grid, axis: int) -> QParams:
    """The grid of a product's weights, whose output channels lie along `axis`."""
    options: dict[str, Any] = {"signed": grid.signed, "symmetric": grid.symmetric}
    if grid.symmetric and grid.bits <= 8:
        options["narrow"] = True  # -127: no product of two extremes overflows a pair
    if grid.granularity == "per_channel":
        options["axis"] = axis
    elif grid.granularity == "per_block":
        # along what is summed
        options |= {"axis": _summed_axis(axis, array.ndim), "block_size": grid.block_size}
    return choose_qparams(array, grid.bits, **options)


def _summed_axis(axis: int, rank: int) -> int:
    return 1 if axis == 0 else rank - 2
