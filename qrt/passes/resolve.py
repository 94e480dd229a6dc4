"""Operators that turn into simpler ones once their input's shape is known.

Conv with auto_pad = Conv with pads; GlobalMaxPool = MaxPool over all of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qrt.ir import Node
from qrt.ops.windows import resolve as resolve_windows


def resolve(node: Node) -> Node:
    """The node that stands for `node`; itself where nothing is to be resolved."""
    rewrite = REWRITES.get((node.domain, node.op))
    return node if rewrite is None else rewrite(node)


def _auto_pad(node: Node) -> Node:
    """pads of SAME_UPPER and SAME_LOWER (ONNX Conv 22)."""
    if "auto_pad" in node.attrs:
        spatial = node.required(0).static_shape[2:]
        windows = resolve_windows(node, spatial, tuple(node.attrs["kernel_shape"]))
        node.attrs["pads"] = [*windows.begins, *windows.ends]
        del node.attrs["auto_pad"]
    return node


def _global_max_pool(node: Node) -> Node:
    attrs = {"kernel_shape": list(node.required(0).static_shape[2:])}
    domain = "qrt" if node.required(0).dtype == np.uint8 else ""
    return Node(
        "MaxPool", node.inputs, node.outputs, attrs, domain, node.name, node.index, 12,
        node.origin, node.why,
    )  # fmt: skip


REWRITES: dict[tuple[str, str], Callable[[Node], Node]] = {
    ("", "GlobalMaxPool"): _global_max_pool,
    ("qrt", "Conv"): _auto_pad,
}
