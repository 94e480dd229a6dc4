"""The numbers of quantized averages (docs/machine.md, "Averages"), shared by pooling and means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ops.spec import Array


def average_quantized(acc: Array, count: Array, attrs: Mapping[str, Any]) -> Array:
    """uint8 of exact sums `acc` of `count` elements."""
    y = attrs["y"]
    m = attrs["x"].scale / (y.scale * count.astype(np.float32))
    q = np.rint(acc.astype(np.float32) * m).astype(np.float64) + float(y.zero_point)
    return np.asarray(np.clip(q, attrs["qmin"], attrs["qmax"]), np.uint8)


def average_real(acc: Array, count: Array, attrs: Mapping[str, Any]) -> Array:
    """float32 of exact sums `acc` of `count` elements."""
    return np.asarray(acc.astype(np.float32) * (attrs["x"].scale / count.astype(np.float32)))


def check_average(node: Node) -> None:
    """UnsupportedError unless operands are uint8 (or a float32 output) with per_tensor QParams."""
    x, y = node.required(0), node.outputs[0]
    for name, value in (("x", x), ("y", y)):
        qparams = node.attrs[name]
        if name == "y" and qparams is None and value.dtype == np.float32:
            continue
        if value.dtype != np.uint8 or not qparams.per_tensor:
            raise UnsupportedError(
                f"{name} of {node.op} must be uint8 with one scale and zero point,"
                f" got {value.dtype}"
            )


def emit_fields(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Row fields x_zero_point, x_scale, y_scale, low, high, y_zero_point."""
    x, y = attrs["x"], attrs["y"]
    y_zero_point = 0 if y is None else int(y.zero_point)
    return {
        "x_zero_point": int(x.zero_point),
        "x_scale": np.float32(x.scale),
        "y_scale": np.float32(1 if y is None else y.scale),
        "low": np.float32(0 if y is None else attrs["qmin"] - y_zero_point),
        "high": np.float32(0 if y is None else attrs["qmax"] - y_zero_point),
        "y_zero_point": y_zero_point,
    }
