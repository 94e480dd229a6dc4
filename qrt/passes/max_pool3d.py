"""A maximum over windows of three axes is one over the last two, then one over the first.

max over (d, h, w) = max over d of max over (h, w); pads, strides, dilations and ceil_mode are each
axis' own, and a window never lies outside of the image, so both are exact. Shapes are bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.ir import Node, Value
from qrt.ops.windows import resolve as resolve_windows


def split_depth(node: Node) -> list[Node]:
    """The nodes of a MaxPool over (N, C, D, H, W): two of two axes, and Reshapes around them."""
    x, y = node.required(0), node.outputs[0]
    batch, channels, depth, *plane = x.static_shape
    windows = resolve_windows(node, x.static_shape[2:], tuple(node.attrs["kernel_shape"]))
    build = _Builder(node)

    def pooled(source: Value, axes: Sequence[int], out_shape: Sequence[int]) -> Value:
        """The maximum along `axes` (one: along rows, over columns of one)."""
        alone = [] if len(axes) == 2 else [1]
        ends = [*(windows.begins[a] for a in axes), *(0 for _ in alone)]
        ends += [*(windows.ends[a] for a in axes), *(0 for _ in alone)]
        attrs = {
            "kernel_shape": [*(node.attrs["kernel_shape"][a] for a in axes), *alone],
            "strides": [*(windows.strides[a] for a in axes), *alone],
            "dilations": [*(windows.dilations[a] for a in axes), *alone],
            "pads": ends,
            "ceil_mode": int(node.attrs.get("ceil_mode", 0)),
        }
        return build.reshaped(build.add("MaxPool", [source], attrs, node.domain), out_shape)

    deep, *flat = windows.counts
    images = build.reshaped(x, (batch, channels * depth, *plane))
    columns = pooled(images, (1, 2), (batch, channels, depth, math.prod(flat)))
    pooled(columns, (0,), (batch, channels, deep, *flat))
    build.nodes[-1].outputs = [y]
    return build.nodes


class _Builder:
    """Nodes that stand for `node`."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[Node] = []

    def add(
        self, op: str, inputs: list[Value | None], attrs: dict[str, Any], domain: str = ""
    ) -> Value:
        """One more node, of opset 13 where it is ONNX's; its output."""
        node, y = self.node, self.node.outputs[0]
        out = Value(f"{y.name}/depth{len(self.nodes)}", y.dtype)
        made = Node(
            op, inputs, [out], attrs, domain, node.name, node.index, 13, node.origin, node.why,
            node.onnx_op,
        )  # fmt: skip
        self.nodes.append(made)
        return out

    def reshaped(self, x: Value, shape: Sequence[int]) -> Value:
        """`x` in another shape of as many elements."""
        data = np.array(shape, np.int64)
        name = f"{self.node.outputs[0].name}/shape{len(self.nodes)}"
        target = Value(name, data.dtype, data.shape, data)
        return self.add("Reshape", [x, target], {"allowzero": 1})
