"""The two products of a recurrent layer: with its input, once, and with its state, every step.

Float32, or in integers: then the operand is quantized as by DynamicQuantizeLinear, all of it at
once, and the result is float32(sum) * (x_scale * w_scale).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qrt.gemm.extents import GEOMETRY
from qrt.ir import QParams, Value
from qrt.ops.dynamic_quantize import emit_dynamic_quantize
from qrt.ops.float_products import (
    ITEMSIZE,
    NO_BIAS,
    lower_computed_float_product,
    lower_float_product,
)
from qrt.ops.product import Product
from qrt.ops.product_rows import lower_product
from qrt.ops.spec import Array, Lowering, Operand


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
        geometry = _geometry(m, k * ITEMSIZE, x_step, y_step)
        bias = np.full(n, NO_BIAS)
        if not weights.is_constant:
            at = (self.direction * wide + first) * k * ITEMSIZE
            place = self.program.operand(weights).at(at)
            steps = (0, ITEMSIZE, k * ITEMSIZE)
            lower_computed_float_product(
                self.program, place, steps, (1, k, n), geometry, x, y, bias=bias
            )
            return
        assert weights.data is not None
        w = weights.data[self.direction, first:last].T.reshape(1, 1, k, n)
        key = (weights.identity, "recurrent", self.direction, columns)
        lower_float_product(self.program, w, key, geometry, x, y, bias=bias)


@dataclass(frozen=True)
class IntegerWeights:
    """One direction's weights: int8 (k, n), and per column or for all scale and zero point."""

    w: Array
    scale: Array
    zero_point: Array
    key: tuple[object, ...]


@dataclass(frozen=True)
class DynamicProducts:
    """Products of operands quantized at run time with int8 weights of one direction."""

    program: Lowering
    name: str  # of the layer, for the tensors in between
    w: IntegerWeights
    r: IntegerWeights

    def project(self, x: Operand, m: int, y: Operand) -> None:
        """See `Products`."""
        n = self.w.w.shape[1]
        self._multiply(x, m, self.w, (0, n), y, n * ITEMSIZE)

    def recur(
        self, h: Operand, h_step: int, m: int, columns: tuple[int, int], y: Operand, y_step: int
    ) -> None:
        """See `Products`; the rows of h lie one after the other."""
        assert h_step == self.r.w.shape[0] * ITEMSIZE, "h must be contiguous to be quantized"
        self._multiply(h, m, self.r, columns, y, y_step)

    def _multiply(
        self,
        x: Operand,
        m: int,
        weights: IntegerWeights,
        columns: tuple[int, int],
        y: Operand,
        y_step: int,
    ) -> None:
        k = weights.w.shape[0]
        made = [
            Value(f"{self.name}/{part}", np.dtype(dtype), shape)
            for part, dtype, shape in (
                ("codes", np.uint8, (m, k)),
                ("scale", np.float32, ()),
                ("zero_point", np.uint8, ()),
            )
        ]
        codes, scale, zero_point = made
        emit_dynamic_quantize(self.program, x, m * k, codes, scale, zero_point)
        part = slice(*columns)
        n = columns[1] - columns[0]
        product = Product(
            x=QParams(np.ones((), np.float32), np.zeros((), np.uint8), np.dtype(np.uint8)),
            y=None,
            bias=np.zeros(n, np.int32),
            float_bias=np.full(n, NO_BIAS),
            w_zero_point=np.broadcast_to(weights.zero_point, weights.w.shape[1:])[part],
            scale=np.ascontiguousarray(np.broadcast_to(weights.scale, weights.w.shape[1:])[part]),
            qmin=0,
            qmax=0,
            x_scale=scale,
            x_zero_point=zero_point,
        )
        geometry = _geometry(m, k, k, y_step)
        del geometry["channels"]
        w = np.ascontiguousarray(weights.w[:, part].T).reshape(n, 1, k)
        key = (*weights.key, columns)
        lower_product(self.program, w, key, product, 1, geometry, self.program.operand(codes), y)


def _geometry(m: int, k_nbytes: int, x_step: int, y_step: int) -> dict[str, int]:
    """The driver's fields of a product of m rows of k_nbytes."""
    return dict.fromkeys(GEOMETRY, 1) | {
        "pad_h": 0,
        "pad_w": 0,
        "width": m,
        "out_width": m,
        "x_pixel": x_step,
        "x_row": 0,
        "x_image": 0,
        "x_group": 0,
        "channels": k_nbytes,
        "y_pixel": y_step,
        "y_group": 0,
    }
