"""Constant nodes, in all their forms, to an array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.attrs import AttrValue

Array = np.ndarray[Any, Any]

# ONNX Constant, opset 13: attribute and the element type of what it makes
_FORMS: dict[str, type] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": object,
    "value_strings": object,
}


def constant_data(attrs: Mapping[str, AttrValue], where: str) -> Array:
    """What a Constant node with these attributes gives; exactly one form must be there."""
    given = [name for name in ("value", *_FORMS) if name in attrs]
    if len(given) != 1:
        raise ModelError(
            f"{where}: must have one of value, {', '.join(_FORMS)},"
            f" got {' and '.join(given) or 'none'}"
        )
    value = attrs[given[0]]
    if isinstance(value, np.ndarray):
        return value
    array: Array = np.array(value, _FORMS[given[0]])
    array.flags.writeable = False
    return array


def refuse_sparse(names: Mapping[str, object], where: str) -> None:
    """Sparse constants are valid ONNX that is not supported."""
    if "sparse_value" in names:
        raise UnsupportedError(f"{where}: sparse_value is not supported, only dense constants")
