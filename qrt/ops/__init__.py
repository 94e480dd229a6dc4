"""Operators: one file each, and the one list that everything walks."""

from __future__ import annotations

from qrt.ops import (
    average_pool,
    concat,
    conv,
    copy,
    dequantize,
    lookup,
    matmul,
    max_pool,
    quantize,
    quantized_binary,
    reduce_mean,
    reshape,
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
    # movement
    copy.SPEC,
    transpose.SPEC,
    *reshape.SPECS,
    concat.ONNX_SPEC,
    # float
    max_pool.FLOAT_SPEC,
)

OPS: dict[tuple[str, str], OpSpec] = {(spec.domain, spec.op): spec for spec in _SPECS}
assert len(OPS) == len(_SPECS)

__all__ = ["OPS", "OpSpec"]
