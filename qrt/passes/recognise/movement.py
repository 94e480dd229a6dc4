"""Operators that move elements and compute nothing: they move codes, and DequantizeLinear sinks.

Equations: move(DQ(q)) = DQ(move(q)); Q(move(x)) = move(Q(x)); table[move(q)] = move(table[q]).
A maximum over a window is a movement too, where the function before it never decreases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node, QParams, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.arithmetic import evaluate
from qrt.passes.recognise.views import Blocked, Codes, Fixed, Kept, Mapped, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.passes.recognise.windows import window_attrs
from qrt.quant.affine import S8, U8, Array, dequantize, quantize
from qrt.quant.tables import is_monotone

# these may give more elements than they take, so that a table belongs before them
GROWING = ("Expand", "Tile", "Resize", "Upsample", "Gather")
RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
EXTREMES = ("MaxPool", "GlobalMaxPool")


def move(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Any movement with one data input and one output."""
    why = declined(walk, node)
    if why:
        return why
    x = views[0]
    if isinstance(x, Plain):
        codes = walk.as_codes(x, node.required(0))
        if codes is None or x.value.is_constant:
            return "" if codes is None else _move_constant(walk, node, x)
        x = codes
    if isinstance(x, Codes):
        if node.op == "Pad":
            fill = walk.array(node.input(2))
            value = 0 if fill is None else int(fill.reshape(())[()])
            return move_codes(walk, node, x, value + (128 if x.dtype == S8 else 0))
        return move_codes(walk, node, x, 0)
    if isinstance(x, Fixed):
        return _move_fixed(walk, node, x)
    if isinstance(x, Blocked):
        return _move_blocked(walk, node, x)
    if isinstance(x, Kept):
        return _move_kept(walk, node, x)
    if isinstance(x, Mapped):
        return _move_mapped(walk, node, x)
    assert x is not None
    return Moved(x, node)


def split(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Split of codes; each part keeps the table that is still to come."""
    x = views[0]
    if isinstance(x, Plain):
        x = walk.as_codes(x, node.required(0)) or x
    if not isinstance(x, (Codes, Mapped)) or x.root.is_constant:
        return "" if isinstance(x, Plain) else "what it splits is not quantized yet"
    twin = _twin(node)
    inputs = [x.root, *walk.reals(node, 1)]
    outs = [walk.result(v, U8) for v in node.outputs]
    twin.inputs, twin.outputs = inputs, outs
    walk.append(twin)
    if isinstance(x, Codes):
        return [replace(x, root=out) for out in outs]
    return [_over(x, out) for out in outs]


def move_codes(walk: Walk, node: Node, x: Codes, fill: int) -> Codes:
    """The movement of `node` on codes; `fill` is the code that Pad pads with."""
    # a table waits for what follows, unless more elements would go through it, or did already
    late = x.table is not None and node.op not in (*GROWING, "Pad") and not walk.has_lookup(x)
    late = late and (node.op not in EXTREMES or is_monotone(x.table))
    root = x.root if late else walk.codes(x, node.required(0))
    out = walk.result(node.outputs[0], U8)
    moved = MACHINE.get(node.op, _emit_plain)(walk, node, root, out, fill)
    return replace(x, root=moved, table=x.table if late else None)


def declined(walk: Walk, node: Node) -> str:
    """Why a movement cannot be done on integers, or ''."""
    if node.op == "MaxPool" and len(node.outputs) > 1:
        return "its second output, Indices, is used"
    if node.op in ("Resize", "Upsample"):
        if node.attrs.get("mode", "nearest") != "nearest":
            return f"mode {node.attrs['mode']} computes"
        if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
            roi = walk.array(node.input(1))
            if roi is None or (roi < 0).any() or (roi > 1).any():
                return "tf_crop_and_resize fills what lies outside"
    if node.op == "Pad" and node.input(2) is not None:
        fill = walk.array(node.input(2))
        if fill is None:
            return "its fill value is computed while the model runs"
        if fill.size != 1:
            raise ModelError(f"the fill value must be one number, got shape {list(fill.shape)}")
    return ""


@dataclass(eq=False)
class Moved(View):
    """A movement of what is not quantized yet: Q(move(x)) = move(Q(x))."""

    inner: View
    node: Node

    def real(self, walk: Walk, like: Value) -> Value:
        x = walk.real(self.inner, self.node.required(0))
        return walk.emit_onnx(self.node, [x, *walk.reals(self.node, 1)], [like])[0]

    def quantize(self, walk: Walk, y: QParams, like: Value, qmin: int, qmax: int) -> Codes:
        source = self.node.required(0)
        if self.node.op != "Pad":
            codes = walk.quantize(self.inner, y, source, qmin, qmax)
            return move_codes(walk, self.node, codes, 0)
        code = int(quantize(pad_value(walk, self.node), y))
        padded = move_codes(walk, self.node, walk.quantize(self.inner, y, source), code)
        return padded.clamped(qmin, qmax)


def pad_value(walk: Walk, node: Node) -> Array:
    """float32: what Pad in mode constant fills with."""
    fill = walk.array(node.input(2))
    value = node.attrs.get("value", 0.0) if fill is None else fill.reshape(())[()]
    return np.asarray(value, np.float32)


def _move_mapped(walk: Walk, node: Node, x: Mapped) -> View:
    """A function of codes moves by moving the codes."""
    if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
        value = pad_value(walk, node)
        have = x.quantized()
        code = quantize(value, x.qparams)
        if have is None or dequantize(code, x.qparams) != value:
            return Moved(x, node)
        return Mapped.dequantized(move_codes(walk, node, have[0], int(code)), have[1], node)
    if node.op in EXTREMES and not is_monotone_real(x.reals):
        return Moved(x, node)
    if x.codes is not None:
        codes = move_codes(walk, node, x.codes, 0)
        return Mapped.dequantized(codes, x.qparams, x.node)
    return _over(x, move_codes(walk, node, Codes(x.root), 0).root)


def is_monotone_real(reals: Array) -> bool:
    """True when the float of a code never decreases as the code grows."""
    return bool((np.diff(reals) >= 0).all())


def _over(x: Mapped, root: Value) -> Mapped:
    """The same function of another tensor of codes."""
    codes = None if x.codes is None else replace(x.codes, root=root)
    return replace(x, root=root, codes=codes)


def _move_constant(walk: Walk, node: Node, x: Plain) -> Outcome:
    """Integers that are constant move now, as the type they have."""
    assert x.value.data is not None
    moved = _evaluate(walk, node, x.value.data)
    return "" if moved is None else Plain(walk.constant(moved, node.outputs[0]))


def _move_fixed(walk: Walk, node: Node, x: Fixed) -> Outcome:
    """A dequantized constant: its integers move, and the axis of its scales with them."""
    if node.op in ("Pad", *EXTREMES):
        moved = _evaluate(walk, node, x.floats())
        return "" if moved is None else Plain(walk.constant(moved, node.outputs[0]))
    q = _evaluate(walk, node, x.q)
    if q is None:
        # as Gather of an embedding: its integers move while the model runs
        have = x.quantized(walk, node.required(0))
        return "" if have is None else _move_mapped(walk, node, Mapped.dequantized(*have, node))
    if x.qparams.per_tensor:
        return Fixed(q, x.qparams, x.bits)
    shape = [1] * x.q.ndim
    shape[x.qparams.axis or 0] = x.qparams.scale.size
    index = np.arange(x.qparams.scale.size).reshape(shape)
    moved_index = _evaluate(walk, node, np.broadcast_to(index, x.q.shape))
    assert moved_index is not None
    for axis in range(q.ndim):
        line = np.moveaxis(moved_index, axis, 0).reshape(q.shape[axis], -1)
        if line.size and (line == line[:, :1]).all():
            picked = line[:, 0]
            scale, zero_point = x.qparams.scale[picked], x.qparams.zero_point[picked]
            return Fixed(q, QParams(scale, zero_point, x.qparams.dtype, axis), x.bits)
    moved = _evaluate(walk, node, x.floats())
    assert moved is not None
    return Plain(walk.constant(moved, node.outputs[0]))


def _move_blocked(walk: Walk, node: Node, x: Blocked) -> Outcome:
    """Blocks follow a Transpose; any other movement takes them apart."""
    if node.op == "Transpose":
        rank = x.q.ndim
        order = list(node.attrs.get("perm") or reversed(range(rank)))
        if sorted(order) == list(range(rank)):
            q, scale, zero_point = (
                None if a is None else np.ascontiguousarray(a.transpose(order))
                for a in (x.q, x.scale, x.zero_point)
            )
            assert q is not None and scale is not None
            return Blocked(q, scale, zero_point, order.index(x.axis), x.block, x.bits)
    coded = x.coded()
    if coded is not None:
        return _move_kept(walk, node, Kept(coded))
    moved = _evaluate(walk, node, x.floats())
    return "" if moved is None else Plain(walk.constant(moved, node.outputs[0]))


def _move_kept(walk: Walk, node: Node, x: Kept) -> Outcome:
    """Codes follow a Transpose, and axes of 1 that come and go."""
    shape = x.source.shape
    if node.op == "Transpose":
        order = tuple(node.attrs.get("perm") or reversed(range(len(shape))))
        if sorted(order) == list(range(len(shape))):
            return Kept(x.source.transposed(order))
    if node.op in RESHAPES:
        # what becomes of the shape is what becomes of a tensor that takes no memory
        moved = _evaluate(walk, node, np.broadcast_to(np.zeros((), np.uint8), shape))
        coded = None if moved is None else x.source.reshaped(moved.shape)
        if coded is not None:
            return Kept(coded)
    moved = _evaluate(walk, node, x.floats())
    return "" if moved is None else Plain(walk.constant(moved, node.outputs[0]))


def _evaluate(walk: Walk, node: Node, x: Array) -> Array | None:
    """The movement of a constant, when its other inputs are constant too."""
    others = [walk.array(v) for v in node.inputs[1:]]
    if any(a is None and v is not None for a, v in zip(others, node.inputs[1:], strict=True)):
        return None
    results = evaluate(node, [x, *others])
    return None if results is None else results[0]


def _emit_plain(walk: Walk, node: Node, root: Value, out: Value, fill: int) -> Value:
    """The ONNX operator itself, on uint8."""
    twin = _twin(node)
    twin.inputs, twin.outputs = [root, *walk.reals(node, 1)], [out]
    walk.append(twin)
    return out


def _emit_pad(walk: Walk, node: Node, root: Value, out: Value, fill: int) -> Value:
    """Pad as of opset 13, its fill value a code."""
    twin = _twin(node)
    pads: Value | None
    if node.version < 11:
        pads = walk.constant(np.array(AttrReader(node).ints("pads"), np.int64), node.outputs[0])
    else:
        pads = walk.real(walk.view(node.required(1)), node.required(1))
    mode = node.attrs.get("mode", "constant")
    code = walk.constant(np.array(fill, np.uint8), node.outputs[0]) if mode == "constant" else None
    twin.inputs, twin.outputs = [root, pads, code, *walk.reals(node, 3)], [out]
    twin.attrs, twin.version = {"mode": mode}, max(node.version, 13)
    walk.append(twin)
    return out


def _emit_max_pool(walk: Walk, node: Node, root: Value, out: Value, fill: int) -> Value:
    reader = AttrReader(node, ("storage_order",))
    attrs = window_attrs(reader)
    attrs["ceil_mode"] = int(reader.bool("ceil_mode", False))
    reader.done()
    return walk.emit("MaxPool", [root], attrs, out, node)


def _emit_resize(walk: Walk, node: Node, root: Value, out: Value, fill: int) -> Value:
    """qrt.Resize; `shapes` resolves its indices when the shapes are known."""
    inputs: list[Value | None] = [root, *walk.reals(node, 1)]
    return walk.emit("Resize", inputs, dict(node.attrs), out, node, version=node.version)


MACHINE: dict[str, Callable[[Walk, Node, Value, Value, int], Value]] = {
    "MaxPool": _emit_max_pool,
    "Pad": _emit_pad,
    "Resize": _emit_resize,
    "Upsample": _emit_resize,
}


def _twin(node: Node) -> Node:
    """A copy to be given other inputs and outputs."""
    return Node(
        node.op, [], [], dict(node.attrs), node.domain, node.name, node.index, node.version,
        (node.name or f"{node.op}#{node.index}",), onnx_op=node.onnx_op,
    )  # fmt: skip
