"""Averages of quantized tensors: AveragePool, GlobalAveragePool, ReduceMean, and Softmax.

Equations: docs/machine.md "Averages" and "Softmax".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qrt.ir import Node, QParams, Value
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axes, normalized_axis
from qrt.passes.recognise.views import Codes, Pending, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.passes.recognise.windows import window_attrs
from qrt.quant.affine import U8


@dataclass(eq=False)
class Reduction(Pending):
    """A machine operator of one quantized tensor that gives 8 bit or float32."""

    op: str
    x: Codes
    qparams: QParams
    attrs: dict[str, Any] = field(default_factory=dict)
    clamps: bool = True  # has qmin and qmax; else a table clamps its output

    def emit(self, walk: Walk, like: Value, y: QParams | None, qmin: int, qmax: int) -> Value:
        x = walk.codes(self.x, self.node.required(0))
        attrs = {**self.attrs, "x": self.qparams, "y": y}
        if self.clamps:
            attrs |= {"qmin": qmin, "qmax": qmax}
        dtype = np.dtype(np.float32) if y is None else U8
        return walk.emit(self.op, [x], attrs, walk.result(like, dtype), self.node)

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        codes = Codes(self.emit(walk, like, y, qmin, qmax))
        return codes if self.clamps else codes.clamped(qmin, qmax)


def average_pool(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """AveragePool (opset 1 to 22)."""
    x = walk.quantized(views[0], node.required(0))
    if x is None:
        return "its input is not a quantized tensor"
    reader = AttrReader(node)
    attrs = window_attrs(reader)
    attrs["ceil_mode"] = int(reader.bool("ceil_mode", False))
    attrs["count_include_pad"] = int(reader.bool("count_include_pad", False))
    reader.done()
    return Reduction(node, "AveragePool", *x, attrs)


def global_average_pool(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """GlobalAveragePool: a mean over all but the first two axes."""
    x = walk.quantized(views[0], node.required(0))
    shape = node.required(0).shape
    if x is None:
        return "its input is not a quantized tensor"
    if shape is None:
        return "the rank of its input is not known"
    axes = tuple(range(2, len(shape)))
    return Reduction(node, "ReduceMean", *x, {"axes": axes, "keepdims": 1})


def reduce_mean(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """ReduceMean: axes are an attribute before opset 18, an input since; none means all."""
    x = walk.quantized(views[0], node.required(0))
    shape = node.required(0).shape
    if x is None:
        return "its input is not a quantized tensor"
    if shape is None:
        return "the rank of its input is not known"
    attrs = AttrReader(node)
    axes = attrs.ints("axes", ())
    keepdims, noop = attrs.bool("keepdims", True), attrs.bool("noop_with_empty_axes", False)
    attrs.done()
    if node.input(1) is not None:
        array = walk.array(node.input(1))
        if array is None:
            return "its axes are computed while the model runs"
        axes = [int(a) for a in array.reshape(-1)]
    if not axes:
        if noop:
            assert views[0] is not None
            return views[0]
        axes = list(range(len(shape)))
    resolved = normalized_axes(tuple(axes), len(shape))
    return Reduction(node, "ReduceMean", *x, {"axes": resolved, "keepdims": int(keepdims)})


def softmax(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Softmax along one axis; before opset 13 along all from `axis` on, seen as one."""
    x = walk.quantized(views[0], node.required(0))
    shape = node.required(0).shape
    if x is None:
        return "its input is not a quantized tensor"
    if shape is None:
        return "the rank of its input is not known"
    modern = node.version >= 13
    attrs = AttrReader(node)
    axis = normalized_axis(attrs.int("axis", -1 if modern else 1), len(shape))
    attrs.done()
    axes = (axis,) if modern else tuple(range(axis, len(shape)))
    return Reduction(node, "Softmax", *x, {"axes": axes}, clamps=False)
