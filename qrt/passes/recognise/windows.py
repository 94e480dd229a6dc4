"""Attributes of sliding windows (Conv, MaxPool, AveragePool), the same for every operator."""

from __future__ import annotations

from typing import Any

from qrt.errors import ModelError
from qrt.ir.attrs import AttrReader

AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def window_attrs(attrs: AttrReader, kernel: list[int] | None = None) -> dict[str, Any]:
    """kernel_shape, strides, dilations, pads of a node; `kernel`: what its weights say.

    `auto_pad` SAME stays an attribute until the shapes are known.
    """
    given = attrs.ints("kernel_shape", kernel)
    if kernel is not None and given != kernel:
        raise ModelError(f"kernel_shape must be that of the weights, {kernel}, got {given}")
    rank = len(given)
    found: dict[str, Any] = {
        "kernel_shape": given,
        "strides": attrs.ints("strides", [1] * rank, rank),
        "dilations": attrs.ints("dilations", [1] * rank, rank),
        "pads": attrs.ints("pads", [0] * 2 * rank, 2 * rank),
    }
    auto_pad = attrs.string("auto_pad", "NOTSET", AUTO_PADS)
    if auto_pad.startswith("SAME"):
        found["auto_pad"] = auto_pad
    if auto_pad != "NOTSET":
        found["pads"] = [0] * 2 * rank
    return found
