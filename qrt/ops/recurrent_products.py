"""The two products of a recurrent layer: with its input, once, and with its state, every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qrt.gemm.extents import GEOMETRY
from qrt.ir import Value
from qrt.ops.float_products import (
    ITEMSIZE,
    NO_BIAS,
    lower_computed_float_product,
    lower_float_product,
)
from qrt.ops.spec import Lowering, Operand


class Products(Protocol):
    """What a layer asks for in one direction. Results are float32."""

    def project(self, x: Operand, m: int, y: Operand) -> None:
        """y (m, gates * hidden) = x (m, inputs) by W."""
        ...

    def recur(
        self, h: Operand, h_step: int, m: int, columns: tuple[int, int], y: Operand, y_step: int
    ) -> None:
        """m rows of y = rows of h by the columns of R from the first to before the second.

        Rows of h and y begin `h_step` and `y_step` bytes apart.
        """
        ...


@dataclass(frozen=True)
class FloatProducts:
    """Products with float32 W (directions, gates * hidden, inputs) and R."""

    program: Lowering
    w: Value
    r: Value
    direction: int

    def project(self, x: Operand, m: int, y: Operand) -> None:
        """See `Products`."""
        _, n, k = self.w.static_shape
        self._multiply(x, k * ITEMSIZE, m, self.w, (0, n), y, n * ITEMSIZE)

    def recur(
        self, h: Operand, h_step: int, m: int, columns: tuple[int, int], y: Operand, y_step: int
    ) -> None:
        """See `Products`."""
        self._multiply(h, h_step, m, self.r, columns, y, y_step)

    def _multiply(
        self,
        x: Operand,
        x_step: int,
        m: int,
        weights: Value,
        columns: tuple[int, int],
        y: Operand,
        y_step: int,
    ) -> None:
        _, wide, k = weights.static_shape
        first, last = columns
        n = last - first
        geometry = dict.fromkeys(GEOMETRY, 1) | {
            "pad_h": 0,
            "pad_w": 0,
            "width": m,
            "out_width": m,
            "x_pixel": x_step,
            "x_row": 0,
            "x_image": 0,
            "x_group": 0,
            "channels": k * ITEMSIZE,
            "y_pixel": y_step,
            "y_group": 0,
        }
        bias = np.full(n, NO_BIAS)
        if weights.data is None:
            at = (self.direction * wide + first) * k * ITEMSIZE
            place = self.program.operand(weights).at(at)
            steps = (0, ITEMSIZE, k * ITEMSIZE)
            lower_computed_float_product(
                self.program, place, steps, (1, k, n), geometry, x, y, bias=bias
            )
            return
        w = weights.data[self.direction, first:last].T.reshape(1, 1, k, n)
        key = (id(weights.data), "recurrent", self.direction, columns)
        lower_float_product(self.program, w, key, geometry, x, y, bias=bias)
