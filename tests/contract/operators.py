"""Every operator the contract covers, by domain and name."""

from __future__ import annotations

from collections.abc import Callable

from . import (
    dynamic,
    elementwise,
    linear,
    movement,
    nbits,
    pooling,
    products,
    qoperators,
    resize,
    softmax,
)
from .inputs import Values
from .node import Node
from .values import Value

Operator = Callable[[Node, Values], Value | tuple[Value, ...]]

ONNX: dict[str, Operator] = {
    **dict.fromkeys(elementwise.UNARY, elementwise.unary),
    **dict.fromkeys(elementwise.BINARY, elementwise.binary),
    **dict.fromkeys(elementwise.VARIADIC, elementwise.variadic),
    "AveragePool": pooling.average_pool,
    "Cast": movement.cast,
    "Clip": elementwise.clip,
    "Concat": movement.concat,
    "Constant": movement.constant,
    "Conv": products.conv,
    "ConvInteger": dynamic.conv_integer,
    "DepthToSpace": movement.depth_to_space,
    "DequantizeLinear": linear.dequantize_linear,
    "DynamicQuantizeLinear": dynamic.dynamic_quantize_linear,
    "Dropout": movement.identity,
    "Expand": movement.expand,
    "Flatten": movement.flatten,
    "Gather": movement.gather,
    "Gemm": products.gemm,
    "GlobalAveragePool": pooling.global_average_pool,
    "GlobalMaxPool": pooling.global_max_pool,
    "Identity": movement.identity,
    "MatMul": products.matmul,
    "MatMulInteger": dynamic.matmul_integer,
    "MaxPool": pooling.max_pool,
    "Pad": movement.pad,
    "QLinearConv": qoperators.qlinear_conv,
    "QLinearMatMul": qoperators.qlinear_matmul,
    "QuantizeLinear": linear.quantize_linear,
    "ReduceMean": pooling.reduce_mean,
    "Relu": elementwise.clip,
    "Reshape": movement.reshape,
    "Resize": resize.resize,
    "Shape": movement.shape,
    "Slice": movement.slice_,
    "Softmax": softmax.softmax,
    "SpaceToDepth": movement.space_to_depth,
    "Split": movement.split,
    "Squeeze": movement.squeeze,
    "Tile": movement.tile,
    "Transpose": movement.transpose,
    "Unsqueeze": movement.unsqueeze,
    "Upsample": resize.resize,
}

MICROSOFT: dict[str, Operator] = {
    "DequantizeLinear": linear.dequantize_linear,
    "DynamicQuantizeMatMul": dynamic.dynamic_quantize_matmul,
    "Gelu": elementwise.unary,
    "MatMulIntegerToFloat": dynamic.matmul_integer_to_float,
    "MatMulNBits": nbits.matmul_nbits,
    "QGemm": qoperators.qgemm,
    "QLinearAdd": qoperators.qlinear_binary,
    "QLinearAveragePool": qoperators.qlinear_pool,
    "QLinearConcat": qoperators.qlinear_concat,
    "QLinearGlobalAveragePool": qoperators.qlinear_pool,
    "QLinearLeakyRelu": qoperators.qlinear_unary,
    "QLinearMul": qoperators.qlinear_binary,
    "QLinearReduceMean": qoperators.qlinear_reduce_mean,
    "QLinearSigmoid": qoperators.qlinear_unary,
    "QLinearSoftmax": qoperators.qlinear_softmax,
    "QLinearWhere": qoperators.qlinear_where,
    "QuantizeLinear": linear.quantize_linear,
}

OPERATORS: dict[tuple[str, str], Operator] = {
    **{("", name): operator for name, operator in ONNX.items()},
    **{("com.microsoft", name): operator for name, operator in MICROSOFT.items()},
}
