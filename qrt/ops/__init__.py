"""Operators: one file each, and the one list that everything walks."""

from __future__ import annotations

from qrt.ops import (
    average_pool,
    batch_normalization,
    cast,
    concat,
    conv,
    copy,
    depth_to_space,
    dequantize,
    expand,
    float_average_pool,
    float_binary,
    float_conv,
    float_matmul,
    float_reduce,
    float_softmax,
    float_unary,
    gather,
    lookup,
    matmul,
    max_pool,
    pad,
    quantize,
    quantized_binary,
    quantized_softmax,
    reduce_mean,
    reshape,
    resize,
    slice,
    split,
    transpose,
)
from qrt.ops.spec import OpSpec

_SPECS: tuple[OpSpec, ...] = (
    # quantized
    conv.SPEC,
    matmul.SPEC,
    quantize.SPEC,
    dequantize.SPEC,
    lookup.SPEC,
    quantized_binary.ADD,
    quantized_binary.MUL,
    max_pool.SPEC,
    average_pool.SPEC,
    reduce_mean.SPEC,
    concat.SPEC,
    quantized_softmax.SPEC,
    resize.SPEC,
    # movement
    copy.SPEC,
    transpose.SPEC,
    *reshape.SPECS,
    concat.ONNX_SPEC,
    slice.SPEC,
    split.SPEC,
    pad.SPEC,
    gather.SPEC,
    expand.EXPAND,
    expand.TILE,
    depth_to_space.DEPTH_TO_SPACE,
    depth_to_space.SPACE_TO_DEPTH,
    resize.ONNX_SPEC,
    resize.UPSAMPLE,
    cast.SPEC,
    # float
    float_conv.SPEC,
    float_matmul.MATMUL,
    float_matmul.GEMM,
    *float_unary.SPECS,
    *float_binary.SPECS,
    *float_softmax.SPECS,
    *float_reduce.SPECS,
    max_pool.FLOAT_SPEC,
    float_average_pool.SPEC,
    batch_normalization.SPEC,
)

OPS: dict[tuple[str, str], OpSpec] = {(spec.domain, spec.op): spec for spec in _SPECS}
assert len(OPS) == len(_SPECS)

__all__ = ["OPS", "OpSpec"]
