"""A product of two activations whose sums may pass int32, seen once shapes are bound, is float.

(x - x_zp) @ (w - w_zp) * scale, then Quantize: as float32 where K * 255 * 255 does not fit int32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qrt.ir import Node, QParams, Value
from qrt.quant.affine import S8, Array
from qrt.quant.tables import clamp_table

F32 = np.dtype(np.float32)
INT32_LIMIT = 2**31


def float_deep_product(node: Node) -> list[Node]:
    """The nodes for a qrt.MatMul; itself where its sums fit or its weights are constant."""
    x, w, y = node.required(0), node.required(1), node.outputs[0]
    shape = w.static_shape
    depth = shape[-2] if len(shape) > 1 else 0
    if w.is_constant or depth * 255 * 255 < INT32_LIMIT:
        return [node]
    nodes: list[Node] = []
    after: QParams | None = node.attrs["y"]

    def add(op: str, inputs: list[Value], attrs: dict[str, object], out: Value) -> Value:
        domain = "" if op in ("MatMul", "Mul") else "qrt"
        why = f"sums over {depth} products may pass int32"
        nodes.append(
            Node(op, list(inputs), [out], dict(attrs), domain, node.name, node.index, 13,
                 node.origin, why, node.onnx_op)
        )  # fmt: skip
        return out

    def result(part: str, dtype: np.dtype[Any] = F32) -> Value:
        return Value(f"{y.name}/{part}", dtype)

    def constant(part: str, data: Array) -> Value:
        return Value(f"{y.name}/{part}", data.dtype, data.shape, data)

    one = np.ones((), np.float32)
    zero = np.asarray(node.attrs["w_zero_point"], S8)
    sides = [
        add("Dequantize", [side], {"x": qparams}, result(part))
        for part, side, qparams in (
            ("x", x, QParams(one, node.attrs["x"].zero_point, node.attrs["x"].dtype)),
            ("w", w, QParams(one, zero, S8)),
        )
    ]
    acc = add("MatMul", sides, {}, result("acc"))
    out = y if after is None else result("real")
    add("Mul", [acc, constant("scale", node.attrs["scale"])], {}, out)
    if after is not None:
        low, high = int(node.attrs["qmin"]), int(node.attrs["qmax"])
        cut = (low, high) != (after.qmin, after.qmax)
        codes = result("codes", after.dtype) if cut else y
        add("Quantize", [out], {"y": after}, codes)
        if cut:
            add("Lookup", [codes], {"table": clamp_table(low, high)}, y)
    return nodes
