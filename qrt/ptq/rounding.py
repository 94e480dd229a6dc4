"""The ways to round a product's weights by the rows that it multiplies."""

from __future__ import annotations

from collections.abc import Callable

from qrt.ptq.adaround import learn
from qrt.ptq.config import ROUNDINGS
from qrt.ptq.gptq import gptq
from qrt.ptq.product import Product
from qrt.quant.affine import Array

# codes (groups, outputs, k) and bias of a product
BY_DATA: dict[str, Callable[[Product], tuple[Array, Array]]] = dict(
    zip(ROUNDINGS[1:], (gptq, learn), strict=True)
)
