"""QuantizeLinear and DequantizeLinear (ONNX opset 10 to 25): into and out of views.

Equations: Q(view) = view.quantize(y); DQ(codes) = Mapped(codes); DQ(constant) = Fixed;
Q(DQ(int32)) = Requantize.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from qrt.errors import QuantizationError
from qrt.ir import Node, QParams, Value
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axis
from qrt.passes.recognise.views import Blocked, Codes, Fixed, Kept, Mapped, Pending, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.passes.recognise.wide import WORDS, Wide, WideProduct
from qrt.quant.affine import S8, U8, Array, make_qparams, quantize, unsigned
from qrt.quant.coded import SMALL_FLOATS, code_constant

# integer types of constants that DequantizeLinear may read, widened to 8 bit, with their bits
NARROW = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
QUANTIZED = ("uint8", "int8", "uint16", "int16")  # what Quantize makes
DEQUANTIZED = (*QUANTIZED, "int32")  # what Dequantize reads
HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e8m0fnu))
FLOAT = (0, onnx.TensorProto.FLOAT)  # of output_dtype and precision: not given, float32


def quantize_linear(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """QuantizeLinear to 8 bit with a constant scale."""
    scale, zero_point = walk.array(node.input(1)), walk.array(node.input(2))
    if scale is None or (node.input(2) is not None and zero_point is None):
        return "its scale or zero point is computed while the model runs"
    dtype = U8 if zero_point is None else zero_point.dtype
    if zero_point is None and node.attrs.get("output_dtype"):
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(node.attrs["output_dtype"]))
    if dtype.name not in QUANTIZED:
        return f"Quantize to {dtype} has no native kernel"
    reason = _only_reference(node, views[0], scale)
    if reason:
        return reason
    y = qparams_of(node, scale, zero_point, dtype)
    return quantize_view(walk, node, views[0], y)


def quantize_view(walk: Walk, node: Node, x: View | None, y: QParams) -> Outcome:
    """The tensor that QuantizeLinear makes of `x`, between the limits of `passes.narrow`; output 0
    of `node`."""
    like = node.outputs[0]
    qmin, qmax = node.attrs.get("qmin", y.qmin), node.attrs.get("qmax", y.qmax)
    assert x is not None
    constant = x.floats() if isinstance(x, Fixed) else None
    if isinstance(x, Plain):
        constant = x.value.data
    if constant is not None and constant.dtype == np.float32:
        return Plain(walk.constant(np.clip(quantize(constant, y), qmin, qmax), like))
    if isinstance(x, WideProduct) and y.per_tensor and y.dtype in WORDS:
        return Plain(x.emit(walk, like, y, qmin, qmax))
    if not y.per_tensor or y.dtype not in (U8, S8):
        # no operator computes with per_channel or 16-bit tensors: they leave the walk as they are
        real = walk.real(x, node.required(0))
        return Plain(walk.emit("Quantize", [real], {"y": y}, walk.result(like, y.dtype)))
    walk.absorbed = [node]
    raised = 128 if y.dtype == S8 else 0
    codes = walk.quantize(x, unsigned(y), like, qmin + raised, qmax + raised)
    walk.absorbed = []
    return Codes(codes.root, codes.table, y.dtype, node)


def dequantize_linear(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """DequantizeLinear of an 8-bit tensor, or of any constant of integers."""
    scale, zero_point = walk.array(node.input(1)), walk.array(node.input(2))
    if scale is None or (node.input(2) is not None and zero_point is None):
        return "its scale or zero point is computed while the model runs"
    reason = _only_reference(node, None, scale)
    if reason:
        blocked = _blocked(node, views[0], scale, zero_point)
        return reason if blocked is None else blocked
    data = views[0].value.data if isinstance(views[0], Plain) else None
    if data is not None and data.dtype.name in SMALL_FLOATS:
        qparams = qparams_of(node, scale, None, data.dtype)
        _check_no_zero_point(data, zero_point)
        coded = code_constant(data, qparams.scale, zero_point, qparams.axis or 0)
        return "it holds infinities or NaN" if coded is None else Kept(coded)
    return dequantize_view(walk, node, views[0], scale, zero_point)


def dequantize_view(
    walk: Walk, node: Node, x: View | None, scale: Array, zero_point: Array | None
) -> Outcome:
    """The view of DequantizeLinear of `x`, input 0 of `node`."""
    assert x is not None
    constant = x.value.data if isinstance(x, Plain) else None
    if constant is not None:
        bits = 8
        if constant.dtype.name in NARROW:
            bits = NARROW[constant.dtype.name]
            zero_point = None if zero_point is None else zero_point.astype(np.int8)
            constant = constant.astype(np.int8)
        if constant.dtype.kind not in "iu":
            return f"{constant.dtype} is not an integer type"
        return Fixed(constant, qparams_of(node, scale, zero_point, constant.dtype), bits)
    codes = walk.as_codes(x, node.required(0))
    if codes is not None:
        qparams = qparams_of(node, scale, zero_point, codes.dtype)
        if qparams.per_tensor:
            return Mapped.dequantized(codes, qparams, node)
        value, qparams = walk.codes(codes, node.required(0)), unsigned(qparams)
    else:
        value = walk.real(x, node.required(0))
        if value.dtype is None or value.dtype.name not in DEQUANTIZED:
            return f"its input is {value.dtype or 'of an unknown type'}"
        qparams = qparams_of(node, scale, zero_point, value.dtype)
        if qparams.per_tensor and value.dtype in WORDS:
            return Wide(value, qparams, node)
        if value.dtype == np.int32:
            return Sums(node, value, qparams)
    out = walk.result(node.outputs[0], np.dtype(np.float32))
    return Plain(walk.emit("Dequantize", [value], {"x": qparams}, out))


@dataclass(eq=False)
class Sums(Pending):
    """DequantizeLinear of an int32 tensor, per_tensor or per_channel."""

    x: Value
    qparams: QParams

    def emit(self, walk: Walk, like: Value, y: QParams | None, qmin: int, qmax: int) -> Value:
        attrs: dict[str, Any] = {"x": self.qparams}
        if y is None:
            out = walk.result(like, np.dtype(np.float32))
            return walk.emit("Dequantize", [self.x], attrs, out, self.node)
        attrs |= {"y": y, "qmin": qmin, "qmax": qmax}
        return walk.emit("Requantize", [self.x], attrs, walk.result(like, U8), self.node)


def _blocked(
    node: Node, x: View | None, scale: Array, zero_point: Array | None
) -> Blocked | Kept | None:
    """DequantizeLinear of a constant in blocks; None for anything else."""
    block = AttrReader(node).int("block_size", 0)
    data = x.value.data if isinstance(x, Plain) else None
    if not block or data is None or scale.dtype != np.float32:
        return None
    if node.attrs.get("output_dtype", 0) not in FLOAT or scale.ndim != data.ndim:
        return None
    axis = normalized_axis(AttrReader(node).int("axis", 1), data.ndim)
    bits = NARROW.get(data.dtype.name, 8)
    if bits == 8 and data.dtype not in (U8, S8):
        _check_no_zero_point(data, zero_point)
        coded = code_constant(data, scale, zero_point, axis, block)
        return None if coded is None else Kept(coded)
    wide = np.dtype(np.uint8 if data.dtype.name.startswith("u") else np.int8)
    zero_point = None if zero_point is None else zero_point.astype(wide)
    return Blocked(data.astype(wide), scale, zero_point, axis, block, bits)


def _check_no_zero_point(data: Array, zero_point: Array | None) -> None:
    """Small floats have none (ONNX DequantizeLinear, opset 19)."""
    if data.dtype.name not in SMALL_FLOATS or zero_point is None:
        return
    if zero_point.astype(np.float32).any():
        raise QuantizationError(f"the zero point of {data.dtype} must be 0")


def _only_reference(node: Node, x: View | None, scale: Array) -> str:
    """Why no Quantize or Dequantize means this node: float16 and blocks (ONNX opset 19 to 25)."""
    if node.attrs.get("block_size"):
        return "its scale differs from block to block"
    if scale.dtype != np.float32 and scale.dtype in HALVES:
        return f"its scale is {scale.dtype}"
    if isinstance(x, Plain) and x.value.dtype not in (None, np.dtype(np.float32)):
        return f"its input is {x.value.dtype}"
    precision = "output_dtype" if node.op == "DequantizeLinear" else "precision"
    if node.attrs.get(precision, 0) not in FLOAT:
        return f"its {precision} is not float32"
    return ""


def qparams_of(
    node: Node,
    scale: Array,
    zero_point: Array | None,
    dtype: np.dtype[Any],
    axis: int | None = None,
) -> QParams:
    """Parameters read from `node`; `axis` None: its attribute."""
    shape = node.required(0).shape
    if axis is None:
        axis = AttrReader(node).int("axis", 1)
    if scale.size > 1 and shape is not None:
        axis = normalized_axis(axis, len(shape))
    return make_qparams(scale, zero_point, dtype, axis)
