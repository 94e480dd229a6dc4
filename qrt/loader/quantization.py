"""Do the scales and zero points of a graph mean anything? Checked as far as they are constant."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from qrt.errors import ModelError, QuantizationError
from qrt.ir.attrs import AttrReader
from qrt.ir.graph import Graph, Node, Shape, Value
from qrt.loader.qoperators import QOPERATORS, Operand, QOperator, operands_of
from qrt.loader.tensors import element_dtype

DType = np.dtype[Any]
Dtypes = dict[Value, DType]

_EIGHT_BITS = frozenset({np.dtype(np.int8), np.dtype(np.uint8)})
_INTEGERS = _EIGHT_BITS | {
    np.dtype(t)
    for t in (np.int16, np.uint16, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2)
}
_FLOATS8 = frozenset(
    np.dtype(t)
    for t in (
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e5m2fnuz,
        ml_dtypes.float4_e2m1fn,
    )
)
_QUANTIZED = _INTEGERS | _FLOATS8
_DEQUANTIZED = _QUANTIZED | {np.dtype(np.int32)}
_SCALES = frozenset(
    np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e8m0fnu)
)
_UINT8 = np.dtype(np.uint8)


def check_quantization(graph: Graph) -> None:
    """Raise QuantizationError at the first node whose constant parameters have no meaning.

    A scale is positive and finite. A zero point has the quantized tensor's type and as many
    elements as the scale. Parameters along an axis are as many as the tensor is long there.
    """
    dtypes: Dtypes = {v: v.dtype for v in graph.inputs if v.dtype is not None}
    for node in graph.nodes:
        for inner in node.subgraphs.values():
            check_quantization(inner)
        spec = QOPERATORS.get((node.domain, node.op))
        if spec is not None and node.domain:
            _check_inputs(node, spec)
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            _check_linear(node, dtypes)
        elif node.op == "DynamicQuantizeLinear":
            dtypes[node.outputs[0]] = _UINT8
        elif spec is not None:
            _check_qoperator(node, spec, dtypes)


def _check_inputs(node: Node, spec: QOperator) -> None:
    """Number of inputs of an operator that ONNX has no schema for."""
    least, most = spec.inputs
    count = len(node.inputs)
    while count and node.inputs[count - 1] is None:
        count -= 1
    if not least <= count <= most:
        rule = str(least) if least == most else f"{least} to {most}"
        rule = f"{least} or more" if most >= 2**31 else rule
        raise ModelError(f"{node.where}: must have {rule} inputs, got {count}")
    if node.op == "QLinearConcat" and (count - 2) % 3:
        raise ModelError(
            f"{node.where}: must have 2 inputs and 3 for each tensor"
            f" (tensor, scale, zero point), got {count}"
        )
    for i in range(count):
        if node.inputs[i] is None and i not in spec.optional:
            raise ModelError(f"{node.where}: input {i} is required, it is left out")
    if node.op == "QGemm" and (node.input(7) is None) != (node.input(8) is None):
        raise ModelError(f"{node.where}: y_scale and y_zero_point must both be given, or neither")
    if len(node.outputs) != 1:
        raise ModelError(f"{node.where}: must have 1 output, got {len(node.outputs)}")


def _check_linear(node: Node, dtypes: Dtypes) -> None:
    """QuantizeLinear and DequantizeLinear, of ONNX and of com.microsoft."""
    quantize = node.op == "QuantizeLinear"
    x, scale, zero_point = node.required(0), node.required(1), node.input(2)
    declared = element_dtype(AttrReader(node).int("output_dtype", TensorProto.UNDEFINED))
    if quantize:
        dtype = declared
        if dtype is None and zero_point is None:
            dtype = _UINT8
    else:
        dtype = _dtype_of(x, dtypes)
    if zero_point is not None:
        dtype = _check_type(node, "zero_point", zero_point, "y" if quantize else "x", dtype)
    allowed = _QUANTIZED if quantize else _DEQUANTIZED
    if dtype is not None and dtype not in allowed:
        raise QuantizationError(
            f"{node.where}: {'y' if quantize else 'x'} must be {_names(allowed)}, got {dtype}"
        )
    _check_scale(node, "scale", scale)
    _check_same_shape(node, "scale", scale, "zero_point", zero_point)
    if dtype == np.int32:
        _check_no_zero_point(node, zero_point)
    _check_layout(node, x.shape, scale)
    if quantize and dtype is not None:
        dtypes[node.outputs[0]] = dtype


def _check_layout(node: Node, shape: Shape | None, scale: Value) -> None:
    """per_tensor, per_channel along `axis`, or per_block: does the scale's shape fit `shape`?"""
    if scale.data is None or (scale.data.size == 1 and scale.data.ndim <= 1):
        return
    parameters = scale.data.shape
    if not node.domain and node.version < 13:
        raise QuantizationError(
            f"{node.where}: scale must have 1 element before opset 13, got {_size(parameters)}"
        )
    block = AttrReader(node).int("block_size", 0)
    if block < 0:
        raise QuantizationError(f"{node.where}: block_size must be 0 or more, got {block}")
    if len(parameters) > 1 and not block:
        raise QuantizationError(
            f"{node.where}: scale must have 0 or 1 dimensions unless block_size is given,"
            f" got {len(parameters)}"
        )
    if shape is None:
        return
    rank = len(shape)
    axis = AttrReader(node).int("axis", 1)
    if not -rank <= axis < rank:
        raise QuantizationError(
            f"{node.where}: axis must be {-rank} to {rank - 1} (x has {rank} dimensions),"
            f" got {axis}"
        )
    axis %= rank
    if not block:
        _check_length(node, "scale", _size(parameters), shape[axis], f"length of axis {axis} of x")
        return
    if len(parameters) != rank:
        raise QuantizationError(
            f"{node.where}: scale must have {rank} dimensions as x, got {len(parameters)}"
        )
    for i, (have, length) in enumerate(zip(parameters, shape, strict=True)):
        if isinstance(length, int):
            want = -(-length // block) if i == axis else length
            _check_length(node, f"axis {i} of scale", have, want, f"x in blocks of {block}")


def _check_qoperator(node: Node, spec: QOperator, dtypes: Dtypes) -> None:
    """Every quantized operand of a QLinear operator or product."""
    common: DType | None = None
    for operand in operands_of(node):
        if operand.scale is not None and node.input(operand.scale) is None:
            if operand.tensor is None:
                continue  # QGemm without y_scale gives float
            raise QuantizationError(f"{node.where}: {operand.name}_scale is required")
        dtype = _check_operand(node, operand, dtypes)
        if spec.one_type and dtype is not None:
            if common is not None and dtype != common:
                raise QuantizationError(
                    f"{node.where}: all operands must have one type, got {common} and {dtype}"
                )
            common = dtype
    if spec.bias is not None:
        _check_bias(node, spec.bias)


def _check_operand(node: Node, operand: Operand, dtypes: Dtypes) -> DType | None:
    """One operand's scale and zero point; returns its integer type as far as it is known."""
    tensor = None if operand.tensor is None else node.required(operand.tensor)
    scale = None if operand.scale is None else node.required(operand.scale)
    zero_point = node.input(operand.zero_point)
    dtype = None if tensor is None else _dtype_of(tensor, dtypes)
    if zero_point is not None:
        dtype = _check_type(node, f"{operand.name}_zero_point", zero_point, operand.name, dtype)
    if dtype is not None and dtype not in _EIGHT_BITS:
        raise QuantizationError(
            f"{node.where}: {operand.name} must be {_names(_EIGHT_BITS)}, got {dtype}"
        )
    if scale is not None:
        _check_scale(node, f"{operand.name}_scale", scale)
        _check_same_shape(
            node, f"{operand.name}_scale", scale, f"{operand.name}_zero_point", zero_point
        )
    for kind, value in (("scale", scale), ("zero_point", zero_point)):
        if value is not None and value.data is not None:
            shape = tensor.shape if tensor is not None else node.outputs[0].shape
            _check_along(node, f"{operand.name}_{kind}", value.data.shape, operand, shape)
    if operand.tensor is None and dtype is not None:
        dtypes[node.outputs[0]] = dtype
    return dtype


def _check_along(
    node: Node, name: str, parameters: tuple[int, ...], operand: Operand, shape: Shape | None
) -> None:
    """One element, or as many as the operand is long along its axis."""
    size = _size(parameters)
    if size == 1:
        return
    if operand.axis is None:
        raise QuantizationError(f"{node.where}: {name} must have 1 element, got {size}")
    if len(parameters) > 1:
        # products may have them for every matrix of a stack, which is left to the product itself
        if operand.axis >= 0:  # of weights
            raise QuantizationError(
                f"{node.where}: {name} must have 1 dimension, got {len(parameters)}"
            )
    elif shape is not None and not -len(shape) <= operand.axis < len(shape):
        raise QuantizationError(
            f"{node.where}: {name} must have 1 element when {operand.name} has"
            f" {len(shape)} dimensions, got {size}"
        )
    elif shape is not None:
        _check_length(node, name, size, shape[operand.axis], f"axis {operand.axis}", one=True)


def _check_type(
    node: Node, name: str, zero_point: Value, of: str, dtype: DType | None
) -> DType | None:
    """The zero point's type must be that of the tensor it belongs to; returns what is known."""
    if zero_point.data is None:
        return dtype
    got: DType = zero_point.data.dtype
    if dtype is not None and got != dtype:
        raise QuantizationError(
            f"{node.where}: {name} must have the type of {of}, {dtype}, got {got}"
        )
    if got not in _DEQUANTIZED:
        raise QuantizationError(f"{node.where}: {name} must be {_names(_QUANTIZED)}, got {got}")
    return got


def _check_scale(node: Node, name: str, scale: Value) -> None:
    """Positive and finite floats, at least one."""
    if scale.data is None:
        return
    if scale.data.dtype not in _SCALES:
        raise QuantizationError(
            f"{node.where}: {name} must be {_names(_SCALES)}, got {scale.data.dtype}"
        )
    elements = scale.data.astype(np.float32).reshape(-1)
    if elements.size == 0:
        raise QuantizationError(f"{node.where}: {name} must have an element, it has none")
    bad = np.flatnonzero(~(np.isfinite(elements) & (elements > 0)))
    if bad.size:
        place = f" (element {bad[0]} of {elements.size})" if elements.size > 1 else ""
        raise QuantizationError(
            f"{node.where}: {name} must be positive and finite, got {elements[bad[0]]}{place}"
        )


def _check_same_shape(
    node: Node, scale_name: str, scale: Value, name: str, zero_point: Value | None
) -> None:
    """A zero point for every scale; () and (1,) are the same."""
    if scale.data is None or zero_point is None or zero_point.data is None:
        return
    want, got = scale.data.shape, zero_point.data.shape
    if want != got and not (_size(want) == _size(got) == 1):
        raise QuantizationError(
            f"{node.where}: {name} must have the shape of {scale_name}, {list(want)},"
            f" got {list(got)}"
        )


def _check_no_zero_point(node: Node, zero_point: Value | None) -> None:
    """ONNX: int32 (sums, biases) is symmetric."""
    if zero_point is not None and zero_point.data is not None and zero_point.data.any():
        raise QuantizationError(
            f"{node.where}: zero_point must be 0 when x is int32,"
            f" got {zero_point.data[zero_point.data != 0].flat[0]}"
        )


def _check_bias(node: Node, position: int) -> None:
    """int32, one for each output channel (axis 0 of the weights)."""
    bias, weights = node.input(position), node.required(3)
    if bias is None or bias.data is None:
        return
    if bias.data.dtype != np.int32:
        raise QuantizationError(f"{node.where}: bias must be int32, got {bias.data.dtype}")
    channels = weights.shape[0] if weights.shape else None
    if bias.data.ndim != 1:
        raise QuantizationError(f"{node.where}: bias must have 1 dimension, got {bias.data.ndim}")
    _check_length(node, "bias", bias.data.size, channels, "output channels")


def _check_length(
    node: Node, name: str, have: int, want: int | str | None, why: str, one: bool = False
) -> None:
    """`have` elements where `want` are needed; nothing to say when `want` is symbolic."""
    if isinstance(want, int) and have != want:
        rule = f"1 or {want}" if one else f"{want}"
        raise QuantizationError(
            f"{node.where}: {name} must have {rule} elements ({why}), got {have}"
        )


def _dtype_of(value: Value, dtypes: Dtypes) -> DType | None:
    """What the nodes before say, else what the file claims."""
    return dtypes.get(value, value.dtype)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _names(dtypes: frozenset[DType] | set[DType]) -> str:
    names = sorted(str(d) for d in dtypes)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
