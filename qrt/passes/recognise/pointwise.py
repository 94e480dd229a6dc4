"""Element-wise operators on one quantized tensor: they compose into one table.

Equation: f(DQ(codes)) is a function of the codes, whatever f is; g(f(x), h(x)) too, and with
constants in the place of g's other argument. Between two tensors Add and Mul are machine operators.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qrt.ir import Node, QParams, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.recognise import dynamic
from qrt.passes.recognise.product import Product
from qrt.passes.recognise.views import Clipped, Codes, Fixed, Mapped, Pending, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.quant import functions
from qrt.quant.affine import S8, U8, Array

MACHINE = ("Add", "Mul")  # on two tensors
FLOAT_READER = "its result is read as float32"


def unary(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Any operator of functions.UNARY."""
    x = views[0]
    if isinstance(x, Mapped):
        return x.mapped(functions.unary(node.op, x.reals, node.attrs), node)
    if isinstance(x, Fixed):
        return Plain(walk.constant(functions.unary(node.op, x.floats(), node.attrs), _out(node)))
    return "its input is not a quantized tensor"


def clip(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Relu and Clip: a table, a narrower clamp of what is not quantized yet, or integers."""
    bounds = clip_bounds(walk, node)
    if bounds is None:
        return "its bounds are computed while the model runs"
    x = views[0]
    if isinstance(x, Mapped):
        return x.mapped(functions.clip(x.reals, *bounds), node)
    if isinstance(x, Fixed):
        return Plain(walk.constant(functions.clip(x.floats(), *bounds), _out(node)))
    if isinstance(x, Codes):  # opset 12 and 14: straight on integers, whose codes are raised by 128
        raised = 128 if x.dtype == S8 else 0
        low, high = (int(np.clip(b + raised, 0, 255)) for b in np.nan_to_num(bounds))
        return x.clamped(low, high)
    if x is None or isinstance(x, Plain):
        return "its input is not a quantized tensor"
    return Clipped(x, node, *bounds)


def clip_bounds(walk: Walk, node: Node) -> tuple[np.float32, np.float32] | None:
    """(low, high) of Relu or Clip, from attributes before opset 11, from inputs since."""
    low, high = np.float32(-np.inf), np.float32(np.inf)
    if node.op == "Relu":
        return np.float32(0), high
    if node.version < 11:
        limit = float(np.finfo(np.float32).max)
        attrs = AttrReader(node)
        return np.float32(attrs.float("min", -limit)), np.float32(attrs.float("max", limit))
    bounds = [low, high]
    for i in (0, 1):
        value = node.input(i + 1)
        if value is not None:
            array = walk.array(value)
            if array is None or array.size != 1:
                return None
            bounds[i] = np.float32(array.reshape(())[()])
    return bounds[0], bounds[1]


def binary(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Operators of two or more arguments, NumPy broadcasting; Sum, Max and Min pairwise."""
    result = dynamic.binary(walk, node, views)
    if result is not None:
        return result
    view = views[0]
    if len(views) == 1:
        assert view is not None
        return view
    for i in range(1, len(views)):
        result = _pair(walk, node, view, views[i], i)
        if isinstance(result, (str, list)):
            return result
        if i + 1 < len(views) and not isinstance(result, Mapped):
            return "more than two tensors meet in it"
        view = result
    assert result is not None
    return result


def _pair(walk: Walk, node: Node, a: View | None, b: View | None, i: int) -> Outcome:
    """One operator of two views, inputs 0 and `i` of `node`."""
    op = "Add" if node.op == "Sum" else node.op
    like_a, like_b = node.required(0), node.required(i)
    if isinstance(a, Mapped):
        scalar = _scalar(walk, b, like_b, like_a)
        if scalar is not None:
            return a.mapped(functions.binary(op, a.reals, scalar), node)
    if isinstance(b, Mapped):
        scalar = _scalar(walk, a, like_a, like_b)
        if scalar is not None:
            return b.mapped(functions.binary(op, scalar, b.reals), node)
    if isinstance(a, Mapped) and isinstance(b, Mapped) and a.root is b.root:
        return a.mapped(functions.binary(op, a.reals, b.reals), node)
    if op == "Add" and i == 1:
        for product, other in ((a, like_b), (b, like_a)):
            constant = walk.array(other)
            if isinstance(product, Product) and constant is not None:
                return product.with_bias(walk, constant)
    operands = walk.quantized(a, like_a), walk.quantized(b, like_b)
    for operand, like in zip(operands, (like_a, like_b), strict=True):
        if operand is None:
            return f"its operand '{like.name}' is not a quantized tensor"
    if op not in MACHINE:
        return f"{op} of two quantized tensors has no integer kernel"
    assert operands[0] is not None and operands[1] is not None
    return Pair(node, op, operands[0], operands[1])


@dataclass(eq=False)
class Pair(Pending):
    """Add or Mul of two quantized tensors."""

    op: str
    a: tuple[Codes, QParams]
    b: tuple[Codes, QParams]

    def emit(self, walk: Walk, like: Value, y: QParams | None, qmin: int, qmax: int) -> Value:
        node = self.node
        if y is None:
            return walk.emit_onnx(node, walk.reals(node), [like], FLOAT_READER)[0]
        inputs = [walk.codes(self.a[0], node.required(0)), walk.codes(self.b[0], node.required(1))]
        attrs = {"a": self.a[1], "b": self.b[1], "y": y, "qmin": qmin, "qmax": qmax}
        return walk.emit(self.op, inputs, attrs, walk.result(like, U8), node)


def _scalar(walk: Walk, view: View | None, value: Value, other: Value) -> Array | None:
    """The one float32 element of a constant that does not widen the rank of `other`."""
    array = walk.array(value)
    if array is None or array.size != 1 or array.dtype != np.float32:
        return None
    if array.ndim > 0 and (other.shape is None or array.ndim > len(other.shape)):
        return None
    return array.reshape(())


def _out(node: Node) -> Value:
    return node.outputs[0]
