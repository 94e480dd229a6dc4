"""Operators of opsets 1 to 6 as later ones: one rewrite each, its docstring the equation.

Source: ONNX Changelog.md. What is in no table here means the same in opset 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from qrt.errors import ModelError
from qrt.ir.attrs import AttrReader
from qrt.ir.graph import Node, Value

BASE = 7  # the opset that nodes of older ones become nodes of

# attributes that said how memory may be used, or which output is wanted: no meaning is lost
DROPPED = ("consumed_inputs", "output_sequence")


class Rewriter:
    """Makes the nodes that stand for `node`; `fresh` makes a name that no value has."""

    def __init__(self, node: Node, fresh: Callable[[str], str]) -> None:
        self.node = node
        self.nodes: list[Node] = []
        self._fresh = fresh

    def constant(self, data: Any, dtype: Any = np.int64) -> Value:
        """A constant named after the node's output."""
        array = np.asarray(data, dtype)
        name = self._fresh(f"{self.node.outputs[0].name}/constant")
        return Value(name, array.dtype, array.shape, array)

    def add(self, op: str, *inputs: Value | None, version: int = BASE, **attrs: Any) -> Value:
        """Append a helper node; its output."""
        node = self.node
        out = Value(self._fresh(f"{node.outputs[0].name}/{op}"))
        made = Node(
            op, list(inputs), [out], attrs, "", node.name, node.index, version, node.origin,
            onnx_op=node.op,
        )  # fmt: skip
        self.nodes.append(made)
        return out

    def become(self, op: str, inputs: Sequence[Value | None], version: int, **attrs: Any) -> None:
        """Append the node itself, from here on an `op` of opset `version`."""
        node = self.node
        node.op, node.inputs, node.version, node.attrs = op, list(inputs), version, attrs
        self.nodes.append(node)


def modern(node: Node, fresh: Callable[[str], str]) -> list[Node]:
    """The nodes of opset 7 or later that mean what `node`, of an older one, does."""
    for name in DROPPED:
        node.attrs.pop(name, None)
    rewriter = Rewriter(node, fresh)
    rewrite = REWRITES.get(node.op)
    if rewrite is not None:
        rewrite(rewriter)
    if not rewriter.nodes:
        rewriter.become(node.op, node.inputs, BASE, **node.attrs)
    return rewriter.nodes


def _broadcast(made: Rewriter) -> None:
    """op(A, B, broadcast=1, axis) = op(A, B, ones after it), whose axes are A's from axis on."""
    node = made.node
    attrs = AttrReader(node)
    axis, wanted = attrs.int("axis", -1), attrs.bool("broadcast", False)
    attrs.done()
    a, b = node.required(0), node.required(1)
    if wanted and "axis" in node.attrs:
        b = _followed_by_ones(made, a, b, axis)
    made.become(node.op, [a, b], BASE)


def _followed_by_ones(made: Rewriter, a: Value, b: Value, axis: int) -> Value:
    """B reshaped to its shape and as many ones as A has axes after it. Ranks may be unknown yet."""
    if axis < -1:
        raise ModelError(f"{made.node.where}: axis must be 0 or more, got {axis}")
    if axis == -1:  # from the last axes of A on, as NumPy does
        return b
    shape = made.add("Shape", b)
    rank_a = made.add("Shape", made.add("Shape", a))
    after = made.add(
        "Sub", rank_a, made.add("Add", made.add("Shape", shape), made.constant([axis]))
    )
    ones = made.add("ConstantOfShape", after, version=9, value=np.array([1]))
    return made.add("Reshape", b, made.add("Concat", shape, ones, axis=0))


def _prelu(made: Rewriter) -> None:
    """One slope per channel stands along axis 1, whatever the rank."""
    x, slope = made.node.required(0), made.node.required(1)
    single = slope.data is not None and slope.data.size == 1
    made.become("PRelu", [x, slope if single else _followed_by_ones(made, x, slope, 1)], BASE)


def _cast(made: Rewriter) -> None:
    """`to` was the name of a TensorProto type until opset 6."""
    to = made.node.attrs.get("to")
    if isinstance(to, str):
        if to not in TensorProto.DataType.keys():  # noqa: SIM118 (an enum, no dict)
            raise ModelError(f"{made.node.where}: to={to!r} is no type of ONNX")
        to = TensorProto.DataType.Value(to)
    made.become("Cast", made.node.inputs, BASE, to=to)


def _concat(made: Rewriter) -> None:
    """axis was 1 by default until opset 4."""
    made.become("Concat", made.node.inputs, BASE, axis=AttrReader(made.node).int("axis", 1))


def _dropout(made: Rewriter) -> None:
    """is_test=1 is the Dropout of opset 7; else that of opset 12 with training_mode."""
    node = made.node
    attrs = AttrReader(node)
    ratio = attrs.float("ratio", 0.5)
    if attrs.bool("is_test", False):
        made.become("Dropout", node.inputs, BASE, ratio=ratio)
    else:
        inputs = [*node.inputs, made.constant(ratio, np.float32), made.constant(True, np.bool_)]
        made.become("Dropout", inputs, 12)


def _batchnorm(made: Rewriter) -> None:
    """is_test=1, and then one output, is that of opset 7; else that of opset 14 in training."""
    node = made.node
    attrs = {k: v for k, v in node.attrs.items() if k != "is_test"}
    if AttrReader(node).bool("is_test", False) or len(node.outputs) == 1:
        made.become("BatchNormalization", node.inputs, BASE, **attrs)
    else:
        attrs.pop("spatial", None)
        made.become("BatchNormalization", node.inputs, 14, **attrs, training_mode=1)


def _gemm(made: Rewriter) -> None:
    """C is broadcast to the result whether `broadcast` says so or not: without it, it fits."""
    attrs = {k: v for k, v in made.node.attrs.items() if k != "broadcast"}
    made.become("Gemm", made.node.inputs, BASE, **attrs)


def _integer_p(made: Rewriter) -> None:
    """p was a float until opset 2."""
    attrs = dict(made.node.attrs)
    if "p" in attrs:
        attrs["p"] = int(attrs["p"])
    made.become(made.node.op, made.node.inputs, BASE, **attrs)


def _pad(made: Rewriter) -> None:
    """`paddings` are pads."""
    attrs = {"pads" if k == "paddings" else k: v for k, v in made.node.attrs.items()}
    made.become("Pad", made.node.inputs, BASE, **attrs)


def _reshape(made: Rewriter) -> None:
    """The shape was an attribute until opset 5."""
    shape = made.node.attrs.get("shape")
    inputs = made.node.inputs if shape is None else [*made.node.inputs, made.constant(shape)]
    made.become("Reshape", inputs, BASE)


def _selu(made: Rewriter) -> None:
    """Other defaults until opset 6."""
    old = made.node.version < 6
    attrs = AttrReader(made.node)
    alpha = attrs.float("alpha", float(np.float32(1.6732 if old else 1.6732632423543772)))
    gamma = attrs.float("gamma", float(np.float32(1.0507 if old else 1.0507009873554805)))
    made.become("Selu", made.node.inputs, BASE, alpha=alpha, gamma=gamma)


def _split(made: Rewriter) -> None:
    """The lengths were an input in opset 1; they are again since opset 13."""
    if made.node.input(1) is not None:
        axis = AttrReader(made.node).int("axis", 0)
        made.become("Split", made.node.inputs, 13, axis=axis)


def _tile(made: Rewriter) -> None:
    """Tile(x, tiles, axis) repeats one axis: repeats are ones, but for `tiles` at `axis`."""
    node = made.node
    if node.version >= 6:
        return
    x, tiles, axis = node.required(0), node.required(1), node.required(2)
    rank = made.add("Shape", made.add("Shape", x))
    ones = made.add("ConstantOfShape", rank, version=9, value=np.array([1]))
    picked = [
        made.add("Reshape", made.add("Cast", v, to=int(TensorProto.INT64)), made.constant([1]))
        for v in (axis, tiles)
    ]
    made.become("Tile", [x, made.add("ScatterElements", ones, *picked, version=11)], BASE)


def _upsample(made: Rewriter) -> None:
    """height_scale and width_scale are the last two of four scales."""
    attrs = AttrReader(made.node)
    scales = [1.0, 1.0, attrs.float("height_scale"), attrs.float("width_scale")]
    made.become(
        "Upsample", made.node.inputs, BASE, mode=attrs.string("mode", "nearest"), scales=scales
    )


REWRITES: dict[str, Callable[[Rewriter], None]] = {
    **dict.fromkeys(
        ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"),
        _broadcast,
    ),
    "BatchNormalization": _batchnorm,
    "Cast": _cast,
    "Concat": _concat,
    "Dropout": _dropout,
    "Gemm": _gemm,
    "GlobalLpPool": _integer_p,
    "LpPool": _integer_p,
    "PRelu": _prelu,
    "Pad": _pad,
    "Reshape": _reshape,
    "Selu": _selu,
    "Split": _split,
    "Tile": _tile,
    "Upsample": _upsample,
}
