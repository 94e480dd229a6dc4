"""A convolution over three axes is one over two, with the taps of the first among the channels.

conv3d(x, w)[n, o, d] = conv2d(X[n, d], W)[o], X[n, d] = concat over k of x[n, :, d * stride + k *
dilation], W = w with its first kernel axis moved before the input channels of each group. Padding
is the zero point, so it adds nothing. Shapes are bound.
"""

from __future__ import annotations

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node, QParams, Value
from qrt.ops.windows import resolve as resolve_windows
from qrt.quant.affine import Array


def unfold_depth(node: Node) -> list[Node]:
    """The nodes of a qrt.Conv over (N, C, D, H, W): Pad, Slices, Concat, Conv, and movement."""
    w = node.required(1)
    assert w.data is not None
    out, channels, taps = w.data.shape[:3]
    shape, group = node.required(0).static_shape, int(node.attrs["group"])
    if len(shape) != 5 or shape[1] != channels * group or out % group:
        raise ModelError(
            f"{node.where}: x must be (N, C, D, H, W) and w (M, C / group, ...) with M divisible by"
            f" group {group}, got {list(shape)} and {list(w.data.shape)}"
        )
    batch, _, _, height, width = shape
    windows = resolve_windows(node, node.required(0).static_shape[2:], w.data.shape[2:])
    depth = windows.counts[0]
    build = _Builder(node)
    x = build.padded(windows.begins[0], windows.ends[0])
    parts = []
    for k in range(taps):
        start = k * windows.dilations[0]
        stop = start + (depth - 1) * windows.strides[0] + 1
        part = build.sliced(x, start, stop, windows.strides[0])
        parts.append(build.reshaped(part, (batch, group, channels, depth, height, width)))
    x = parts[0] if taps == 1 else build.add("Concat", parts, axis=2)
    total = group * taps * channels
    x = build.reshaped(x, (batch, total, depth, height, width))
    x = build.reshaped(build.swapped(x), (batch * depth, total, height, width))
    y = build.convolved(x, w.data.transpose(0, 2, 1, 3, 4).reshape(out, -1, *w.data.shape[3:]))
    y = build.reshaped(y, (batch, depth, out, *windows.counts[1:]))
    build.swapped(y, node.outputs[0])
    return build.nodes


class _Builder:
    """Nodes that stand for one convolution; every method appends one and gives its result."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[Node] = []
        self.constants = 0

    def add(self, op: str, inputs: list[Value], out: Value | None = None, **attrs: object) -> Value:
        """An ONNX operator as of opset 13."""
        node = self.node
        out = out or Value(f"{node.outputs[0].name}/{len(self.nodes)}", inputs[0].dtype)
        self.nodes.append(
            Node(op, list(inputs), [out], attrs, "", node.name, node.index, 13, node.origin)
        )
        return out

    def constant(self, data: Array) -> Value:
        self.constants += 1
        name = f"{self.node.outputs[0].name}/constant{self.constants}"
        return Value(name, data.dtype, data.shape, data)

    def padded(self, begin: int, end: int) -> Value:
        x, qparams = self.node.required(0), self.node.attrs["x"]
        assert isinstance(qparams, QParams)
        if begin == end == 0:
            return x
        widths = np.array([0, 0, begin, 0, 0, 0, 0, end, 0, 0])
        zero_point = self.node.input(5) or self.constant(qparams.zero_point)
        return self.add("Pad", [x, self.constant(widths), zero_point])

    def sliced(self, x: Value, start: int, stop: int, step: int) -> Value:
        numbers = [self.constant(np.array([v])) for v in (start, stop, 2, step)]
        return self.add("Slice", [x, *numbers])

    def reshaped(self, x: Value, shape: tuple[int, ...]) -> Value:
        return self.add("Reshape", [x, self.constant(np.array(shape))])

    def swapped(self, x: Value, out: Value | None = None) -> Value:
        return self.add("Transpose", [x], out, perm=[0, 2, 1, 3, 4])

    def convolved(self, x: Value, w: Array) -> Value:
        node = self.node
        y = Value(f"{node.outputs[0].name}/{len(self.nodes)}", node.outputs[0].dtype)
        attrs = dict(node.attrs)
        for name in ("kernel_shape", "strides", "dilations"):
            attrs[name] = attrs[name][1:]
        begins, ends = node.attrs["pads"][1:3], node.attrs["pads"][4:6]
        attrs["pads"] = [*begins, *ends]
        inputs = [x, self.constant(np.ascontiguousarray(w)), *node.inputs[2:]]
        self.nodes.append(
            Node(
                "Conv",
                inputs,
                [y],
                attrs,
                "qrt",
                node.name,
                node.index,
                1,
                node.origin,
                onnx_op=node.onnx_op,
            )
        )
        return y
