"""ONNX's names of element types, and types of values that are no tensors, as text."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

# numpy (and ml_dtypes) name -> ONNX's name where they differ
_ONNX_NAMES = {
    "float32": "float", "float64": "double", "object": "string", "str": "string",
    "float8_e4m3fn": "float8e4m3fn", "float8_e4m3fnuz": "float8e4m3fnuz",
    "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz",
    "float8_e8m0fnu": "float8e8m0", "float4_e2m1fn": "float4e2m1",
    "float6_e2m3fn": "float6e2m3", "float6_e3m2fn": "float6e3m2",
}  # fmt: skip


def onnx_name(dtype: np.dtype[Any]) -> str:
    """float, uint8, string, ... as ONNX Runtime spells element types."""
    return _ONNX_NAMES.get(dtype.name, dtype.name)


def dtype_named(kind: str) -> np.dtype[Any] | None:
    """The dtype of tensor(float); None when the element type is not known."""
    name = inner_type(kind)[1]
    if name == "string":
        return np.dtype(object)
    numpy_name = next((key for key, value in _ONNX_NAMES.items() if value == name), name)
    try:
        return np.dtype(getattr(ml_dtypes, numpy_name, numpy_name))
    except TypeError:
        return None


def inner_type(container: str) -> tuple[str, str]:
    """seq(tensor(float)) -> seq, tensor(float)."""
    kind, _, rest = container.partition("(")
    return kind, rest.removesuffix(")")
