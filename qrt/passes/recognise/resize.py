"""Resize and Upsample: nearest moves codes, linear is float32 between DQ and Q."""

from __future__ import annotations

from dataclasses import dataclass

from qrt.ir import Node, QParams, Value
from qrt.passes.recognise.movement import declined, move
from qrt.passes.recognise.views import Codes, Pending, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.quant.affine import U8


def resize(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Resize (opset 10 to 19) and Upsample (7, 9)."""
    if not declined(walk, node):
        return move(walk, node, views)
    if node.attrs.get("mode") not in ("linear", "bilinear"):
        return declined(walk, node)
    x = walk.quantized(views[0], node.required(0))
    return "its input is not a quantized tensor" if x is None else Interpolated(node, *x)


@dataclass(eq=False)
class Interpolated(Pending):
    """Linear interpolation of a quantized tensor."""

    x: Codes
    qparams: QParams

    def emit(self, walk: Walk, like: Value, y: QParams | None, qmin: int, qmax: int) -> Value:
        if y is None:
            why = "its result is read as float32"
            return walk.emit_onnx(self.node, walk.reals(self.node), [like], why)[0]
        inputs: list[Value | None] = [walk.codes(self.x, self.node.required(0))]
        inputs += walk.reals(self.node, 1)
        attrs = {**self.node.attrs, "x": self.qparams, "y": y}
        out = walk.result(like, U8)
        return walk.emit("Resize", inputs, attrs, out, self.node, version=self.node.version)

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        return Codes(self.emit(walk, like, y, 0, 255)).clamped(qmin, qmax)
