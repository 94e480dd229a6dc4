"""QONNX's quantizers as they are defined: float32 in, float32 on a grid out.

Source: QONNX operator pages IntQuant 1, BipolarQuant 1, Trunc 1 and 2 (qonnx.custom_op.general).
Parameters are float32 and broadcast to x. There the integers are clamped before they are rounded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qrt.quant.affine import Array

Rounding = Callable[[Array], Array]

ROUNDINGS: dict[str, Rounding] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + np.float32(0.5)),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - np.float32(0.5)),
}


def limits(bits: float, signed: bool, narrow: bool) -> tuple[float, float]:
    """(smallest, largest) integer of so many bits; narrow: one fewer, at the end that is alone."""
    if signed:
        return -(2.0 ** (bits - 1)) + narrow, 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1 - narrow


def int_steps(
    x: Array,
    scale: Array,
    zero_point: Array,
    bounds: tuple[float, float],
    rounding: Rounding,
) -> Array:
    """The integers of IntQuant, as float32: rounding(clamp(x / scale + zero_point))."""
    low, high = np.float32(bounds[0]), np.float32(bounds[1])
    steps: Array = rounding(np.clip(x / scale + zero_point, low, high))
    return steps.astype(np.float32)


def int_quant(
    x: Array,
    scale: Array,
    zero_point: Array,
    bounds: tuple[float, float],
    rounding: Rounding,
) -> Array:
    """(steps - zero_point) * scale."""
    return (int_steps(x, scale, zero_point, bounds, rounding) - zero_point) * scale


def bipolar_quant(x: Array, scale: Array) -> Array:
    """scale where x >= 0, else -scale."""
    return np.where(x >= 0, scale, -scale).astype(np.float32)


def trunc(
    x: Array,
    scale: Array,
    zero_point: Array,
    divisor: Array,
    out_scale: Array,
    *,
    bounds: tuple[float, float] | None,
    rounding: Rounding,
) -> Array:
    """rounding(rint(x / scale + zero_point) / divisor), clamped where there are bounds, as reals.

    Version 1: the zero point stays, and so does the scale. Version 2: it is divided, too.
    """
    steps = np.rint(x / scale + zero_point) / divisor
    if bounds is not None:
        steps = np.clip(steps, np.float32(bounds[0]), np.float32(bounds[1]))
        zero_point = zero_point / divisor
    real: Array = (rounding(steps) - zero_point) * out_scale
    return real.astype(np.float32)
