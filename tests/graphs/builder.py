"""Build a random quantized graph node by node, computing its values along the way.

The values are needed to choose scales that suit them, so that outputs are not all saturated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.contract.linear import dequantized
from tests.contract.node import Node
from tests.contract.operators import OPERATORS
from tests.contract.values import Average, Dequantized, Product, Value, quantize, real

from . import draw
from .draw import Array


@dataclass(frozen=True)
class Tensor:
    """A quantized tensor of the graph: activation or weights, its integers and parameters.

    `scale` float32 and `zero_point` of the tensor's type have shape () or, with an `axis`, (n,).
    """

    name: str
    q: Array
    scale: Array
    zero_point: Array
    axis: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.q.shape

    @property
    def parameters(self) -> tuple[np.float32, int]:
        """Scale and zero point of a per-tensor one."""
        return np.float32(self.scale), int(self.zero_point)

    @property
    def rank(self) -> int:
        return self.q.ndim

    def value(self) -> Dequantized:
        return dequantized(self.q, self._spread(self.scale), self._spread(self.zero_point))

    def _spread(self, parameter: Array) -> Array:
        if self.axis is None:
            return parameter
        shape = [1] * self.q.ndim
        shape[self.axis] = parameter.size
        return parameter.reshape(shape)


@dataclass(frozen=True)
class Real:
    """A float tensor of the graph."""

    name: str
    value: Value


class Builder:
    """Collects nodes. `spelling` is 'qdq' or 'qop'; operators without a QOperator spelling are
    written with QuantizeLinear and DequantizeLinear in both."""

    def __init__(self, rng: np.random.Generator, spelling: str, opset: int) -> None:
        """An empty graph; `rng` makes all choices."""
        self.rng = rng
        self.spelling = spelling
        self.opset = opset
        kind = draw.pick(rng, ("free", "free", "exact", "ties", "ties"))
        self.exact, self.ties = kind == "exact", kind == "ties"
        self.dtype = draw.pick(rng, (draw.U8, draw.S8))
        self.inputs: dict[str, Array] = {}
        self._input_infos: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._dequantized: dict[str, Real] = {}
        self._count = 0

    # the graph's edges

    def input(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """A graph input: quantized, or float and quantized at once; its scale may suit `like`."""
        q = draw.integers(self.rng, shape, self.dtype)
        scale = self.scale_for(0.05, None if like is None else float(like.scale))
        zero = draw.zero_point(self.rng, self.dtype)
        name = self._fresh("x")
        if draw.chance(self.rng, 0.5):
            self._declare_input(name, q)
            return self._tensor(name, q, scale, zero)
        noise = self.rng.uniform(-0.7, 0.7, q.shape) if not self.exact else 0.5
        x = np.asarray((q.astype(np.float64) - zero + noise) * scale).astype(np.float32)
        self._declare_input(name, x)
        return self.quantize(Real(name, x), self.dtype, (scale, zero))

    def integers(self, q: Array, scale: Array, zero_point: Array, axis: int | None) -> Tensor:
        """A graph input of integers of any type."""
        name = self._fresh("x")
        self._declare_input(name, q)
        return Tensor(name, q, scale, zero_point, axis)

    def constant(self, array: Array, hint: str = "c") -> str:
        name = self._fresh(hint)
        self._initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def output(self, y: Tensor | Real) -> None:
        """A graph output: quantized tensors sometimes dequantized first."""
        if isinstance(y, Tensor) and draw.chance(self.rng, 0.4):
            y = self.dequantize(y)
        array = y.q if isinstance(y, Tensor) else real(y.value)
        self._outputs.append(_value_info(y.name, array))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, "random", self._input_infos, self._outputs, self._initializers
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    # nodes

    def node(self, op: str, inputs: Sequence[str], domain: str = "", **attrs: Any) -> str:
        """Append a node and return the name of its output, computing nothing."""
        return self.node_outputs(op, inputs, 1, domain, **attrs)[0]

    def node_outputs(
        self, op: str, inputs: Sequence[str], count: int, domain: str = "", **attrs: Any
    ) -> list[str]:
        """Append a node with `count` outputs and return their names."""
        names = [self._fresh("t") for _ in range(count)]
        while inputs and inputs[-1] == "":
            inputs = inputs[:-1]
        self._nodes.append(helper.make_node(op, inputs, names, domain=domain, **attrs))
        return names

    def described(self, op: str, attrs: dict[str, Any]) -> Node:
        """A node of the default domain as the contract's operators read it."""
        return Node(op, "", self.opset, ("",), ("",), attrs)

    def outcome(self, op: str, operands: Sequence[Value | None], **attrs: Any) -> Value:
        """What the float operator `op` gives, appending nothing."""
        value = OPERATORS["", op](self.described(op, attrs), list(operands))
        assert not isinstance(value, tuple)
        return value

    def float_node(self, op: str, operands: Sequence[Real | None], **attrs: Any) -> Real:
        """Append a float operator."""
        values = [None if o is None else o.value for o in operands]
        value = self.outcome(op, values, **attrs)
        name = self.node(op, ["" if o is None else o.name for o in operands], **attrs)
        return Real(name, value)

    def real_constant(self, array: Array, hint: str = "c") -> Real:
        return Real(self.constant(array, hint), array)

    def dequantize(self, t: Tensor) -> Real:
        """DequantizeLinear; consumers of one tensor sometimes share it."""
        if t.name in self._dequantized and draw.chance(self.rng, 0.5):
            return self._dequantized[t.name]
        inputs = [t.name, self.constant(t.scale, "scale"), self._zero_input(t.zero_point)]
        attrs: dict[str, Any] = {} if t.axis is None else {"axis": t.axis}
        y = Real(self.node("DequantizeLinear", inputs, **attrs), t.value())
        self._dequantized[t.name] = y
        return y

    def quantize(
        self,
        x: Real,
        dtype: np.dtype[Any] | None = None,
        parameters: tuple[np.float32, int] | None = None,
        unit: float | None = None,
    ) -> Tensor:
        """QuantizeLinear with parameters that suit `x`, of the graph's type or another. `unit`: a
        number that the values are multiples of, if there is one."""
        dtype = self.output_type() if dtype is None else dtype
        scale, zero = parameters or self.parameters_for(x.value, dtype, unit)
        y = self._tensor(
            "", quantize(x.value, np.asarray(scale), np.asarray(zero), dtype), scale, zero
        )
        inputs = [x.name, self.constant(y.scale, "scale"), self._zero_input(y.zero_point)]
        name = self.node("QuantizeLinear", inputs)
        return self._tensor(name, y.q, scale, zero)

    def qlinear_node(
        self,
        op: str,
        operands: Sequence[Tensor],
        value: Value,
        bias: str | None = None,
        parameters: tuple[np.float32, int] | None = None,
        **attrs: Any,
    ) -> Tensor:
        """A QOperator with inputs (x, scale, zero point)... [bias] y_scale, y_zero_point [bias]."""
        microsoft = op not in ("QLinearConv", "QLinearMatMul")
        dtype = operands[0].q.dtype if microsoft else self.output_type()
        unit = math.prod(float(t.scale.flat[0]) for t in operands[: 2 if op == "QLinearMul" else 1])
        scale, zero = parameters or self.parameters_for(value, dtype, unit)
        q = quantize(value, np.asarray(scale), np.asarray(zero), dtype)
        y = self._tensor("", q, scale, zero)
        of_y = [self.constant(y.scale, "scale"), self.constant(y.zero_point, "zero")]
        inputs: list[str] = []
        for t in operands:
            zero_name = self.constant(t.zero_point, "zero")
            inputs += [t.name, self.constant(t.scale, "scale"), zero_name]
        if op == "QLinearConcat":
            inputs = of_y + inputs
        elif op == "QGemm":
            inputs = [*inputs, bias or "", *of_y]
        else:
            inputs = [*inputs, *of_y, bias or ""]
        name = self.node(op, inputs, domain="com.microsoft" if microsoft else "", **attrs)
        return self._tensor(name, q, scale, zero)

    # choices

    def output_type(self) -> np.dtype[Any]:
        return draw.other(self.dtype) if draw.chance(self.rng, 0.1) else self.dtype

    def parameters_for(
        self, value: Value, dtype: np.dtype[Any], unit: float | None = None
    ) -> tuple[np.float32, int]:
        """Scale and zero point for a tensor; the unit of sums is known."""
        if isinstance(value, Product):
            unit = float(value.scale.flat[0])
        elif isinstance(value, Average):
            unit = float(value.scale) / float(value.count.flat[0])
        near, zero = draw.output_parameters(self.rng, real(value), dtype)
        return self.scale_for(near, unit), zero

    def scale_for(self, near: float, unit: float | None = None) -> np.float32:
        """A scale near `near` of the graph's kind: free, a power of two, or making ties."""
        if self.ties and unit:
            return draw.tying_scale(self.rng, near, unit)
        return draw.scale(self.rng, near, self.exact)

    def weights(self, shape: Sequence[int], axis: int | None) -> Tensor:
        """Quantized initializer; with an `axis` one scale (and sometimes zero point) per index."""
        if self.spelling == "qdq" and self.opset < 13:
            axis = None  # QuantizeLinear has no axis yet
        dtype = draw.pick(self.rng, (draw.S8, draw.S8, draw.U8))
        q = draw.integers(self.rng, shape, dtype)
        count = 1 if axis is None else shape[axis]
        middle = 0 if dtype == draw.S8 else 128
        zeros = [middle if draw.chance(self.rng, 0.6) else draw.zero_point(self.rng, dtype)] * count
        if draw.chance(self.rng, 0.2):
            zeros = [draw.zero_point(self.rng, dtype) for _ in range(count)]
        first = self.scale_for(0.01)
        near = self.rng.uniform(0.003, 0.03, count - 1)
        scales = [first, *(self.scale_for(size, float(first)) for size in near)]
        name = self.constant(q, "w")
        if axis is None:
            return self._tensor(name, q, scales[0], zeros[0])
        return Tensor(name, q, np.array(scales, np.float32), np.array(zeros, dtype), axis)

    # names

    def moved(self, name: str, t: Tensor, q: Array) -> Tensor:
        """The tensor `name` that holds integers of `t` in another order."""
        return Tensor(name, q, t.scale, t.zero_point)

    def _tensor(self, name: str, q: Array, scale: np.float32, zero: int) -> Tensor:
        return Tensor(name, q, np.asarray(scale), np.array(zero, q.dtype))

    def _zero_input(self, zero_point: Array) -> str:
        absent = zero_point.dtype in (draw.U8, np.int32) and not zero_point.any()
        if absent and draw.chance(self.rng, 0.5):
            return ""
        return self.constant(zero_point, "zero")

    def _declare_input(self, name: str, array: Array) -> None:
        self.inputs[name] = array
        self._input_infos.append(_value_info(name, array))

    def _fresh(self, hint: str) -> str:
        self._count += 1
        return f"{hint}{self._count}"


def _value_info(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
    )
