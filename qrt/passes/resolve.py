"""Operators that turn into simpler ones once their input's shape is known.

Conv with auto_pad = Conv with pads; GlobalMaxPool = MaxPool over all of it; DepthToSpace and
SpaceToDepth = Reshape, Transpose, Reshape; Split = Slices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qrt.ir import Node, Value
from qrt.ops.windows import resolve as resolve_windows
from qrt.passes.arithmetic import integers, split_sizes


def resolve(node: Node) -> list[Node]:
    """The nodes that stand for `node`; itself where nothing is to be resolved."""
    rewrite = REWRITES.get((node.domain, node.op))
    return [node] if rewrite is None else rewrite(node)


def _auto_pad(node: Node) -> list[Node]:
    """pads of SAME_UPPER and SAME_LOWER (ONNX Conv 22)."""
    if "auto_pad" in node.attrs:
        spatial = node.required(0).static_shape[2:]
        windows = resolve_windows(node, spatial, tuple(node.attrs["kernel_shape"]))
        node.attrs["pads"] = [*windows.begins, *windows.ends]
        del node.attrs["auto_pad"]
    return [node]


def _global_max_pool(node: Node) -> list[Node]:
    spatial = list(node.required(0).static_shape[2:])
    domain = "qrt" if node.required(0).dtype == np.uint8 else ""
    attrs = {"kernel_shape": spatial}
    return [_like(node, "MaxPool", node.inputs, node.outputs, attrs, domain)]


def _depth_to_space(node: Node) -> list[Node]:
    n, c, h, w = node.required(0).static_shape
    block = int(node.attrs["blocksize"])
    inner = c // block**2
    if node.attrs.get("mode", "DCR") == "DCR":
        split, perm = (n, block, block, inner, h, w), [0, 3, 4, 1, 5, 2]
    else:
        split, perm = (n, inner, block, block, h, w), [0, 1, 4, 2, 5, 3]
    return _rearranged(node, split, perm, (n, inner, h * block, w * block))


def _space_to_depth(node: Node) -> list[Node]:
    n, c, h, w = node.required(0).static_shape
    block = int(node.attrs["blocksize"])
    split = (n, c, h // block, block, w // block, block)
    target = (n, c * block**2, h // block, w // block)
    return _rearranged(node, split, [0, 3, 5, 1, 2, 4], target)


def _rearranged(
    node: Node, split: tuple[int, ...], perm: list[int], target: tuple[int, ...]
) -> list[Node]:
    out = node.outputs[0]
    cut = Value(f"{out.name}/split", out.dtype)
    turned = Value(f"{out.name}/turned", out.dtype)
    return [
        _like(node, "Reshape", [node.inputs[0], _ints(out, "split_shape", split)], [cut]),
        _like(node, "Transpose", [cut], [turned], {"perm": perm}),
        _like(node, "Reshape", [turned, _ints(out, "shape", target)], [out]),
    ]


def _split(node: Node) -> list[Node]:
    """Each part is a Slice of its own."""
    x = node.required(0)
    axis = int(node.attrs.get("axis", 0)) % len(x.static_shape)
    arrays = [None if v is None else v.data for v in node.inputs]
    if len(arrays) > 1 and node.inputs[1] is not None and arrays[1] is None:
        return [node]
    given = integers(node, arrays, 1, "split")
    sizes = split_sizes(node, x.static_shape[axis], given, len(node.outputs))
    slices, start = [], 0
    for out, size in zip(node.outputs, sizes, strict=True):
        bounds = {"starts": start, "ends": start + size, "axes": axis}
        inputs = [x, *(_ints(out, name, (value,)) for name, value in bounds.items())]
        slices.append(_like(node, "Slice", inputs, [out]))
        start += size
    return slices


def _like(
    node: Node,
    op: str,
    inputs: list[Value | None] | list[Value],
    outputs: list[Value],
    attrs: dict[str, object] | None = None,
    domain: str = "",
) -> Node:
    """A node of another operator that stands for the same ONNX node."""
    return Node(
        op, list(inputs), outputs, attrs or {}, domain, node.name, node.index, 13, node.origin,
        node.why,
    )  # fmt: skip


def _ints(like: Value, name: str, values: tuple[int, ...]) -> Value:
    data = np.array(values, np.int64)
    return Value(f"{like.name}/{name}", data.dtype, data.shape, data)


REWRITES: dict[tuple[str, str], Callable[[Node], list[Node]]] = {
    ("qrt", "Conv"): _auto_pad,
    ("", "DepthToSpace"): _depth_to_space,
    ("", "GlobalMaxPool"): _global_max_pool,
    ("", "SpaceToDepth"): _space_to_depth,
    ("", "Split"): _split,
}
