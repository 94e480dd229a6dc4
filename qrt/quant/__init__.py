"""Quantization of arrays: scales and zero points, grids of all kinds, and what they cost.

`quantize_array(x, bits=8, symmetric=..., axis=..., block_size=...)` chooses a grid and puts `x` on
it; `error_report(x, quantized)` says what that did. Nothing here needs more than NumPy.
"""

from qrt.quant.affine import dequantize, quantize
from qrt.quant.choose import choose_qparams, qparams_of_ranges
from qrt.quant.codebook import (
    NF4,
    CodebookArray,
    additive_powers_of_two,
    gather_nodes,
    kmeans,
    nearest,
    nf4,
    powers_of_two,
)
from qrt.quant.fake import fake_quantize, fake_quantize_gradient, lsq, lsq_gradient
from qrt.quant.floats import FORMATS, FloatQuantizedArray, to_float
from qrt.quant.packing import pack, packed_nbytes, unpack
from qrt.quant.quantized import QuantizedArray, quantize_array
from qrt.quant.report import ErrorReport, error_report
from qrt.quant.simple import simple_scaling

__all__ = [
    "FORMATS",
    "NF4",
    "CodebookArray",
    "ErrorReport",
    "FloatQuantizedArray",
    "QuantizedArray",
    "additive_powers_of_two",
    "choose_qparams",
    "dequantize",
    "error_report",
    "fake_quantize",
    "fake_quantize_gradient",
    "gather_nodes",
    "kmeans",
    "lsq",
    "lsq_gradient",
    "nearest",
    "nf4",
    "pack",
    "packed_nbytes",
    "powers_of_two",
    "qparams_of_ranges",
    "quantize",
    "quantize_array",
    "simple_scaling",
    "to_float",
    "unpack",
]
