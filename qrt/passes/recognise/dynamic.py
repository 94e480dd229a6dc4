"""Dynamic quantization: integer products whose scale and zero point the data says.

    ConvInteger, MatMulInteger -> Cast(float32) -> Mul(x_scale * w_scale) [-> Add bias]
    = Conv, MatMul (domain qrt) with a float result, and x_scale and x_zero_point as inputs

Every step is computed as it is spelled: float32(acc) * factor with factor = x_scale * w_scale
rounded before, then + bias. What of it the graph leaves out is left out; without Cast the result is
the sums, int32. A result that something else reads too is where the chain ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from qrt.ir import Node, QParams, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.recognise.product import INT32_LIMIT, Weights, per_channel
from qrt.passes.recognise.views import Codes, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.passes.recognise.windows import window_attrs
from qrt.quant.affine import S8, U8, Array, flip, spread
from qrt.quant.products import largest_sum, signed_weights

MAX_SPATIAL = 3  # axes that a convolution slides over
F32 = np.dtype(np.float32)
ONE = np.ones((), np.float32)


@dataclass(eq=False)
class Scales(View):
    """x_scale * w_scale: one element that the data says, times a constant."""

    node: Node
    x_scale: Value
    w_scale: Array

    def real(self, walk: Walk, like: Value) -> Value:
        return walk.emit_onnx(self.node, walk.reals(self.node), [like])[0]


@dataclass(eq=False)
class Sums(View):
    """Integer sums of a product and what was done to them since, by `nodes`.

    `zero_point` is x's: a code that is known, or a uint8 tensor; `w_zero_point` is the same of
    weights that are computed. `scale` is float32, a scalar or (channels,); None until the sums
    are multiplied. `bias` is float32 (channels,) or (1,).
    """

    nodes: tuple[Node, ...]
    op: str
    x: Codes
    zero_point: int | Value
    weights: Weights
    channels: int
    attrs: dict[str, Any] = field(default_factory=dict)
    w_zero_point: Value | None = None
    is_float: bool = False
    x_scale: Value | None = None
    scale: Array | None = None
    bias: Array | None = None

    def real(self, walk: Walk, like: Value) -> Value:
        first = self.nodes[0]
        zero = 0 if isinstance(self.zero_point, Value) else self.zero_point
        bias = None
        if self.bias is not None:
            column = np.broadcast_to(self.bias, (self.channels,))
            bias = walk.constant(column, self.nodes[-1].outputs[0])
        inputs = [
            walk.codes(self.x, first.required(0)),
            self.weights.value(walk, first.required(1)),
            None,
            bias,
            self.x_scale,
            self.zero_point if isinstance(self.zero_point, Value) else None,
            self.w_zero_point,
        ]
        scale = ONE if self.scale is None else self.scale
        attrs = {
            **self.attrs,
            "x": QParams(ONE, np.asarray(zero, np.uint8), U8),
            "w_zero_point": self.weights.zero_point.astype(np.int32),
            "scale": np.ascontiguousarray(np.broadcast_to(scale, (self.channels,))),
            "y": None,
            "sums": not self.is_float,
        }
        walk.absorbed = list(self.nodes[:-1])
        out = walk.result(like, F32 if self.is_float else np.dtype(np.int32))
        return walk.emit(self.op, inputs, attrs, out, self.nodes[-1])

    def then(self, node: Node, **changes: Any) -> Sums:
        """What `node` makes of it."""
        return replace(self, nodes=(*self.nodes, node), **changes)


def dynamic_quantize_linear(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """It reads floats, whatever made them: the machine's operator is ONNX's."""
    return ""


def conv_integer(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """ConvInteger (opset 10): one to three spatial axes, constant weights."""
    w = walk.array(node.input(1))
    if w is None:
        return "its weights are computed while the model runs"
    kernel = list(w.shape[2:])
    if not 1 <= len(kernel) <= MAX_SPATIAL:
        return f"it slides over {len(kernel)} axes, qrt over 1 to {MAX_SPATIAL}"
    reader = AttrReader(node)
    attrs = window_attrs(reader, kernel)
    attrs["group"] = reader.int("group", 1)
    reader.done()
    weights = _weights(walk, node, axis=0)
    if isinstance(weights, str):
        return weights
    return _sums(walk, node, views, "Conv", weights, w.shape[0], math.prod(w.shape[1:]), attrs)


def matmul_integer(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """MatMulInteger (opset 10): NumPy broadcasting; the right operand may be an activation."""
    AttrReader(node).done()
    shape = node.required(1).shape
    if shape is None or len(shape) < 2:
        return "its right operand is no matrix"
    if not isinstance(shape[-1], int) or not isinstance(shape[-2], int):
        return "the size of its right operand is not known"
    weights = _weights(walk, node, axis=-1)
    if isinstance(weights, str):
        return weights
    return _sums(walk, node, views, "MatMul", weights, shape[-1], shape[-2], {})


def matmul_integer_to_float(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """com.microsoft MatMulIntegerToFloat: a, b, a_scale, b_scale, a_zp, b_zp, float bias."""
    AttrReader(node).done()
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (node.input(i) for i in range(7))
    plain = _like(node, "MatMulInteger", [a, b, a_zero, b_zero])
    sums = matmul_integer(walk, plain, views[:2])
    return _to_float(walk, sums, a_scale, b_scale, bias)


def dynamic_quantize_matmul(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """com.microsoft DynamicQuantizeMatMul: float a, b, b_scale, b_zp, float bias."""
    AttrReader(node).done()
    a, b, b_scale, b_zero, bias = (node.input(i) for i in range(5))
    assert a is not None and views[0] is not None
    for constant in (b, b_scale, *(v for v in (b_zero, bias) if v is not None)):
        if walk.array(constant) is None:
            return "only its left operand may be computed"
    source = walk.real(views[0], a)
    if source not in walk.dynamic:
        names = [walk.fresh_name(a.name) for _ in range(3)]
        made = [
            Value(names[0], U8, a.shape), Value(names[1], F32, ()), Value(names[2], U8, ())
        ]  # fmt: skip
        quantize = _like(node, "DynamicQuantizeLinear", [source])
        quantize.outputs, quantize.version = made, 11
        walk.append(quantize)
        walk.dynamic[source] = made
    q, x_scale, zero = walk.dynamic[source]
    plain = _like(node, "MatMulInteger", [q, b, zero, b_zero])
    sums = matmul_integer(walk, plain, [walk.view(q), views[1]])
    return _to_float(walk, sums, x_scale, b_scale, bias)


def _like(node: Node, op: str, inputs: list[Value | None]) -> Node:
    """The part `op` of `node`."""
    return Node(
        op, inputs, node.outputs, {}, "", node.name, node.index, 10,
        (node.name or f"{node.op}#{node.index}",), onnx_op=node.op,
    )  # fmt: skip


def _to_float(
    walk: Walk, sums: Outcome, x_scale: Value | None, w_scale: Value | None, bias: Value | None
) -> Outcome:
    """float32(sums) * (x_scale * w_scale) + bias; all but x_scale are constants."""
    if not isinstance(sums, Sums):
        return sums
    factor, offsets = walk.array(w_scale), walk.array(bias)
    if factor is None or (bias is not None and offsets is None):
        return "the scale of its weights or its bias is computed while the model runs"
    for constant in (factor, offsets):
        if constant is not None and constant.size not in (1, sums.channels):
            return f"{constant.size} scales or biases for {sums.channels} columns"
    known = walk.array(x_scale)
    if known is not None:
        if known.size != 1:
            return "the scale of its left operand differs from row to row"
        factor, x_scale = np.asarray(known.reshape(()) * factor, F32), None
    elif x_scale is None or x_scale.shape not in ((), (1,)):
        return "the scale of its left operand may be one per row"
    factor = factor.reshape(()) if factor.size == 1 else factor.reshape(-1)
    if offsets is not None:
        offsets = offsets.reshape(-1)
    return replace(sums, is_float=True, x_scale=x_scale, scale=factor, bias=offsets)


def _sums(
    walk: Walk,
    node: Node,
    views: list[View | None],
    op: str,
    weights: Weights,
    channels: int,
    depth: int,
    attrs: dict[str, Any],
) -> Outcome:
    assert views[0] is not None
    x = walk.as_codes(views[0], node.required(0))
    if x is None:
        return "its input is not an 8-bit tensor"
    zero_point = _zero_point(walk, node.input(2), x.dtype)
    if isinstance(zero_point, str):
        return zero_point
    w_zero_point = None
    if weights.codes is not None:
        zero = _zero_point(walk, node.input(3), weights.codes.dtype)
        if isinstance(zero, str):
            return zero
        if isinstance(zero, Value):
            w_zero_point = zero
        else:
            weights = replace(weights, zero_point=np.asarray(zero - 128, np.int32))
    worst = depth * 255 * 255
    if weights.q is not None:
        free = QParams(ONE, np.zeros((), np.uint8), U8)
        worst = int(largest_sum(weights.q, weights.zero_point, free, weights.axis).max(initial=0))
    if worst >= INT32_LIMIT:
        return f"its sums may reach {worst}, more than int32 holds"
    return Sums((node,), op, x, zero_point, weights, channels, attrs, w_zero_point)


def _weights(walk: Walk, node: Node, axis: int) -> Weights | str:
    """Input 1 of `node` with the scale 1; constants that several nodes read are one."""
    value, zero = node.required(1), node.input(3)
    q, zero_point = walk.array(value), walk.array(zero)
    if q is None or (zero is not None and zero_point is None):
        if axis == 0:
            return "the zero point of its weights is computed while the model runs"
        codes = walk.as_codes(walk.view(value), value)
        if codes is None:
            return "its right operand is not an 8-bit tensor"
        return Weights(ONE, np.zeros((), np.int32), axis, codes=codes)
    if zero_point is None:
        zero_point = np.zeros((), q.dtype)
    if q.dtype not in (U8, S8) or zero_point.dtype != q.dtype:
        return f"its weights are {q.dtype}, their zero point {zero_point.dtype}"
    if zero_point.size == 1:
        zero_point = zero_point.reshape(())
    elif zero_point.ndim != 1 or zero_point.size != q.shape[axis]:
        return f"the zero point of its weights has the shape {list(zero_point.shape)}"
    key = (value, zero_point.tobytes(), axis)
    if key not in walk.weights:
        along = None if zero_point.ndim == 0 else axis % q.ndim
        signed, zeros = signed_weights(q, spread(zero_point, q.ndim, along))
        walk.weights[key] = Weights(ONE, zeros.reshape(-1) if zeros.ndim else zeros, axis, signed)
    found: Weights = walk.weights[key]
    return found


def _zero_point(walk: Walk, value: Value | None, dtype: np.dtype[Any]) -> int | Value | str:
    """The zero point of an operand as a code: known, a uint8 tensor of one element, or why not."""
    if value is None:
        return 128 if dtype == S8 else 0
    constant = walk.array(value)
    if constant is not None:
        if constant.dtype != dtype:
            return f"its operand is {dtype}, the zero point {constant.dtype}"
        if constant.size != 1 and not (constant.size and (constant == constant.flat[0]).all()):
            return "the zero points of its rows differ"
        return int((constant if dtype == U8 else flip(constant)).flat[0])
    if value.shape not in ((), (1,)):
        return "its zero point may be one per row"
    codes = walk.as_codes(walk.view(value), value)
    if codes is None or codes.dtype != dtype:
        return "its zero point is of another type than its operand"
    return walk.codes(codes, value)


def cast(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Cast of integer sums to float32."""
    x = views[0]
    if not isinstance(x, Sums) or x.is_float:
        return "it has no integer form"
    if node.attrs.get("to") != onnx.TensorProto.FLOAT or not _ends_here(walk, node, 0):
        return "its sums are not read as float32 alone"
    return x.then(node, is_float=True)


def binary(walk: Walk, node: Node, views: list[View | None]) -> Outcome | None:
    """Mul by a scale and Add of a bias; None where the operator is about something else."""
    if len(views) != 2 or node.op not in ("Mul", "Add"):
        return None
    for i in (0, 1):
        x, other = views[i], node.required(1 - i)
        if isinstance(x, Sums) and x.is_float and _ends_here(walk, node, i):
            changed = (_scaled if node.op == "Mul" else _biased)(walk, node, x, other)
            if changed is not None:
                return changed
    if node.op == "Mul":
        for i in (0, 1):
            scale, factor = node.required(i), walk.array(node.input(1 - i))
            if factor is not None and factor.dtype == F32 and _is_scalar(walk, scale):
                return Scales(node, scale, factor)
    return None


def _scaled(walk: Walk, node: Node, x: Sums, other: Value) -> Sums | None:
    """`x` times `other`: scales, one element, or constants per channel."""
    if x.scale is not None or x.bias is not None:
        return None
    view = walk.view(other)
    constant = walk.array(other)
    x_scale = None
    if isinstance(view, Scales):
        x_scale, constant = view.x_scale, view.w_scale
    elif _is_scalar(walk, other):
        x_scale, constant = other, ONE
    scale = _vector(node, x, constant)
    return None if scale is None else x.then(node, x_scale=x_scale, scale=scale)


def _biased(walk: Walk, node: Node, x: Sums, other: Value) -> Sums | None:
    """`x` plus constants per channel."""
    bias = None if x.bias is not None else _vector(node, x, walk.array(other))
    return None if bias is None else x.then(node, bias=bias.reshape(-1))


def _vector(node: Node, x: Sums, constant: Array | None) -> Array | None:
    """float32 constants, one or one per channel of `node`'s result; None where they are not."""
    shape = node.outputs[0].shape
    if constant is None or constant.dtype != F32:
        return None
    if constant.ndim == 0:
        return constant
    if shape is None:
        return None
    return per_channel(constant, len(shape), 1 if x.op == "Conv" else -1, x.channels)


def _is_scalar(walk: Walk, value: Value) -> bool:
    """True for one float32 that is computed, and that widens no tensor's rank."""
    view = walk.view(value)
    return isinstance(view, Plain) and view.value.data is None and (
        view.value.dtype == F32 and view.value.shape == ()
    )


def _ends_here(walk: Walk, node: Node, i: int) -> bool:
    """True when nothing but input `i` of `node` reads that tensor."""
    return walk.uses[node.required(i)] == 1
