"""QONNX's quantizers (QuantizeLinear and DequantizeLinear in one): IntQuant, BipolarQuant, Trunc.

Equations: IntQuant of up to 8 bits = DQ(clamp(Q(x))); of a constant, the integers that its
definition gives; of a function of one 8-bit tensor, another such function. What is left is computed
as defined, by float operators. Q rounds before it adds the zero point, QONNX after: on ties, and
within a rounding error of them, the two may differ by one where the zero point is not zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.errors import ModelError, QuantizationError
from qrt.ir import Node, QParams, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.recognise.views import Fixed, Mapped, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.quant import qonnx
from qrt.quant.affine import S8, U8, Array, make_qparams, unsigned

F32 = np.dtype(np.float32)
COMPUTED = "its parameters are computed while the model runs"


@dataclass(frozen=True)
class Parameters:
    """What an IntQuant says: float32 arrays that broadcast to x, limits, how to round."""

    scale: Array
    zero_point: Array
    bounds: tuple[float, float]
    mode: str

    @property
    def rounding(self) -> qonnx.Rounding:
        return qonnx.ROUNDINGS[self.mode]


def int_quant(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """IntQuant, which was called Quant."""
    found = _parameters(walk, node)
    if found is None:
        return COMPUTED
    x = views[0]
    assert x is not None
    constant = _constant(walk, x, node)
    y = _integers(found, node.required(0))
    if constant is not None:
        _check_shape(node, constant, found.scale)
        steps = qonnx.int_steps(
            constant, found.scale, found.zero_point, found.bounds, found.rounding
        )
        if y is not None and not np.isnan(steps).any():
            return Fixed(steps.astype(y.dtype), y)
        real = (steps - found.zero_point) * found.scale
        return Plain(walk.constant(real, node.outputs[0]))
    if y is not None and y.per_tensor and found.rounding is np.rint:
        raised = 128 if y.dtype == S8 else 0
        qmin, qmax = (int(bound) + raised for bound in found.bounds)
        codes_like = walk.stand_in(None, node.outputs[0])
        codes_like.dtype = None
        walk.absorbed = [node]
        codes = walk.quantize(x, unsigned(y), codes_like, qmin, qmax)
        walk.absorbed = []
        codes.dtype = y.dtype
        return Mapped.dequantized(codes, y, node)
    if isinstance(x, Mapped) and found.scale.size == found.zero_point.size == 1:
        scale, zero_point = found.scale.reshape(()), found.zero_point.reshape(())
        reals = qonnx.int_quant(x.reals, scale, zero_point, found.bounds, found.rounding)
        return x.mapped(reals, node)
    chain = Chain(walk, node)
    value = chain.steps(walk.real(x, node.required(0)), found.scale, found.zero_point)
    value = chain.rounded(chain.clipped(value, found.bounds), found.mode)
    return chain.done(value, found.zero_point, found.scale)


def bipolar_quant(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """BipolarQuant: two values."""
    scale = _floats(walk, node, 1)
    if scale is None:
        return COMPUTED
    _check_scale(node, scale)
    x = views[0]
    assert x is not None
    constant = _constant(walk, x, node)
    if constant is not None:
        _check_shape(node, constant, scale)
        found = Parameters(scale, np.zeros(1, np.float32), (-1, 1), "ROUND")
        y = _integers(found, node.required(0))
        signs = np.where(constant >= 0, 1, -1).astype(np.int8)
        if y is not None:
            return Fixed(signs, y)
        return Plain(walk.constant(signs * scale, node.outputs[0]))
    if isinstance(x, Mapped) and scale.size == 1:
        return x.mapped(qonnx.bipolar_quant(x.reals, scale.reshape(())), node)
    chain = Chain(walk, node)
    positive = chain.add("GreaterOrEqual", walk.real(x, node.required(0)), np.float32(0))
    return chain.done(chain.add("Where", positive, scale, -scale), None, None)


def trunc(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Trunc: fewer bits, of a tensor on a grid."""
    scale, zero_point, bits = (_floats(walk, node, i) for i in (1, 2, 3))
    last = len(node.inputs) - 1
    if last not in (4, 5):
        raise ModelError(f"Trunc must have 5 or 6 inputs, got {last + 1}")
    out_scale = _floats(walk, node, 4) if last == 5 else scale
    out_bits = _floats(walk, node, last)
    if scale is None or zero_point is None or bits is None or out_bits is None or out_scale is None:
        return COMPUTED
    attrs = AttrReader(node)
    mode = _mode(attrs, "FLOOR")
    signed, narrow = attrs.bool("signed", True), attrs.bool("narrow", False)
    attrs.done()
    _check_scale(node, scale)
    _check_scale(node, out_scale)
    bounds = None
    if last == 5:
        divisor = np.exp2(np.rint(np.log2(out_scale / scale))).astype(np.float32)
        bounds = qonnx.limits(_bits(out_bits), signed, narrow)
    else:
        divisor = np.asarray(2.0 ** (_bits(bits) - _bits(out_bits)), np.float32)
    numbers = scale, zero_point, divisor, out_scale
    x = views[0]
    assert x is not None
    constant = _constant(walk, x, node)
    how: Any = {"bounds": bounds, "rounding": qonnx.ROUNDINGS[mode]}
    if constant is not None:
        real = qonnx.trunc(constant, *numbers, **how)
        return Plain(walk.constant(real, node.outputs[0]))
    if isinstance(x, Mapped) and all(n.size == 1 for n in numbers):
        real = qonnx.trunc(x.reals, *(n.reshape(()) for n in numbers), **how)
        return x.mapped(real, node)
    chain = Chain(walk, node)
    steps = chain.steps(walk.real(x, node.required(0)), scale, zero_point)
    steps = chain.add("Div", chain.rounded(steps, "ROUND"), divisor)
    if bounds is not None:
        steps = chain.clipped(steps, bounds)
        zero_point = zero_point / divisor
    return chain.done(chain.rounded(steps, mode), zero_point, out_scale)


class Chain:
    """Float operators of ONNX that stand for `node`, one after the other."""

    def __init__(self, walk: Walk, node: Node) -> None:
        self._walk, self._node = walk, node

    def add(self, op: str, *inputs: Value | Array | np.float32 | None) -> Value:
        """The output of one more operator."""
        walk, like = self._walk, self._node.outputs[0]
        values = [
            v if isinstance(v, Value) or v is None else walk.constant(np.asarray(v), like)
            for v in inputs
        ]
        dtype = np.dtype(np.bool_) if op == "GreaterOrEqual" else F32
        out = Value(walk.fresh_name(like.name), dtype, like.shape)
        return walk.emit(op, values, {}, out, self._node, "", 13)

    def steps(self, x: Value, scale: Array, zero_point: Array) -> Value:
        """x / scale + zero_point."""
        steps = self.add("Div", x, scale)
        return self.add("Add", steps, zero_point) if zero_point.any() else steps

    def clipped(self, x: Value, bounds: tuple[float, float]) -> Value:
        """x between `bounds`."""
        return self.add("Clip", x, np.float32(bounds[0]), np.float32(bounds[1]))

    def rounded(self, x: Value, mode: str) -> Value:
        """`mode` of qonnx.ROUNDINGS."""
        direct = {"ROUND": "Round", "HALF_EVEN": "Round", "CEIL": "Ceil", "FLOOR": "Floor"}
        if mode in direct:
            return self.add(direct[mode], x)
        size = self.add("Abs", x)
        if mode == "HALF_UP":
            size = self.add("Add", size, np.float32(0.5))
        elif mode == "HALF_DOWN":
            size = self.add("Sub", size, np.float32(0.5))
        size = self.add("Ceil" if mode in ("UP", "HALF_DOWN") else "Floor", size)
        return self.add("Mul", self.add("Sign", x), size)

    def done(self, x: Value, zero_point: Array | None, scale: Array | None) -> View:
        """(x - zero_point) * scale."""
        if zero_point is not None and zero_point.any():
            x = self.add("Sub", x, zero_point)
        return Plain(x if scale is None else self.add("Mul", x, scale))


def _parameters(walk: Walk, node: Node) -> Parameters | None:
    scale, zero_point, bits = (_floats(walk, node, i) for i in (1, 2, 3))
    attrs = AttrReader(node)
    signed, narrow = attrs.bool("signed", True), attrs.bool("narrow", False)
    mode = _mode(attrs, "ROUND")
    attrs.done()
    if scale is None or zero_point is None or bits is None:
        return None
    _check_scale(node, scale)
    if not np.isfinite(zero_point).all():
        raise QuantizationError("zeropt must be finite")
    return Parameters(scale, zero_point, qonnx.limits(_bits(bits), signed, narrow), mode)


def _integers(found: Parameters, x: Value) -> QParams | None:
    """The parameters as those of 8-bit integers; None where they are none."""
    low, high = found.bounds
    dtype = U8 if low >= 0 else S8
    limits = np.iinfo(dtype)
    if low < limits.min or high > limits.max:
        return None
    zero_point = found.zero_point
    if (zero_point != np.rint(zero_point)).any() or not (
        (zero_point >= limits.min) & (zero_point <= limits.max)
    ).all():
        return None
    rank = None if x.shape is None else len(x.shape)
    scale, axis = found.scale, None
    if scale.size > 1 or zero_point.size > 1:
        if rank is None or scale.ndim != rank:
            return None
        wide = [i for i, length in enumerate(scale.shape) if length != 1]
        if len(wide) != 1 or zero_point.size not in (1, scale.size):
            return None
        axis = wide[0]
    return make_qparams(scale.reshape(-1), zero_point.reshape(-1).astype(dtype), dtype, axis)


def _constant(walk: Walk, x: View, node: Node) -> Array | None:
    if isinstance(x, Fixed):
        return x.floats()
    array = walk.array(node.required(0)) if isinstance(x, Plain) else None
    if array is not None and array.dtype != F32:
        raise ModelError(f"X must be float32, got {array.dtype}")
    return array


def _floats(walk: Walk, node: Node, i: int) -> Array | None:
    if node.input(i) is None:
        raise ModelError(f"input {i} is required, it is left out")
    array = walk.array(node.input(i))
    return None if array is None else array.astype(np.float32)


def _mode(attrs: AttrReader, default: str) -> str:
    mode = attrs.string("rounding_mode", default).upper()
    if mode not in qonnx.ROUNDINGS:
        raise ModelError(f"rounding_mode must be {', '.join(qonnx.ROUNDINGS)}, got {mode!r}")
    return mode


def _bits(array: Array) -> float:
    if array.size != 1:
        raise ModelError(f"a bitwidth must be one number, got {array.size}")
    bits = float(array.reshape(()))
    if not (bits == int(bits) and 1 <= bits <= 32):
        raise ModelError(f"a bitwidth must be a whole number from 1 to 32, got {bits}")
    return bits


def _check_scale(node: Node, scale: Array) -> None:
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise QuantizationError("a scale must be positive and finite")


def _check_shape(node: Node, x: Array, scale: Array) -> None:
    """The scale must not widen x."""
    if np.broadcast_shapes(x.shape, scale.shape) != x.shape:
        raise ModelError(f"scale of {list(scale.shape)} does not fit X of {list(x.shape)}")


Recognise = Callable[[Walk, Node, "list[View | None]"], Outcome]
RECOGNISERS: dict[str, Recognise] = {
    "BipolarQuant": bipolar_quant,
    "IntQuant": int_quant,
    "Quant": int_quant,
    "Trunc": trunc,
}
