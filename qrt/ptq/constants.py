"""Integers as constants of a model, behind a DequantizeLinear."""

from __future__ import annotations

from typing import Any

import onnx

from qrt.ir import QParams
from qrt.ptq.draft import Draft
from qrt.quant.affine import Array


def dequantized(
    draft: Draft, made: list[onnx.NodeProto], name: str, codes: Array, q: QParams
) -> str:
    """Integers behind a DequantizeLinear; the name of the real tensor."""
    stored = draft.constant(f"{name}_quantized", codes)
    out = draft.fresh(f"{name}_dequantized")
    attrs: dict[str, Any] = {} if q.axis is None else {"axis": q.axis}
    if q.block_size is not None:
        attrs["block_size"] = q.block_size
    made.append(
        draft.node("DequantizeLinear", [stored, *qparams_of(draft, name, q)], [out], **attrs)
    )
    return out


def qparams_of(draft: Draft, name: str, q: QParams) -> list[str]:
    """Scale and zero point as constants."""
    return [
        draft.constant(f"{name}_scale", q.scale),
        draft.constant(f"{name}_zero_point", q.zero_point),
    ]
