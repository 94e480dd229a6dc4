"""Attributes of sliding windows (Conv, MaxPool, AveragePool), the same for every operator."""

from __future__ import annotations

from typing import Any

from qrt.ir import Node


def window_attrs(node: Node, kernel_shape: list[int]) -> dict[str, Any]:
    """kernel_shape, strides, dilations, pads; `auto_pad` stays until the shapes are known."""
    rank = len(kernel_shape)
    attrs: dict[str, Any] = {
        "kernel_shape": [int(k) for k in kernel_shape],
        "strides": [int(s) for s in node.attrs.get("strides") or [1] * rank],
        "dilations": [int(d) for d in node.attrs.get("dilations") or [1] * rank],
        "pads": [int(p) for p in node.attrs.get("pads") or [0] * 2 * rank],
    }
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        attrs["auto_pad"] = auto_pad
    if auto_pad == "VALID":
        attrs["pads"] = [0] * 2 * rank
    return attrs
