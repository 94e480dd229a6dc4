"""Operators that turn into simpler ones once their input's shape is known.

Conv with auto_pad = Conv with pads; Conv over three axes = over two (`conv3d`), MaxPool too
(`max_pool3d`); GlobalMaxPool = MaxPool over all of it; Mean = Sum / count; a product whose bias
differs from row to row = one product per row; one whose sums may pass int32 is float
(`deep_products`); attention and kin are written out (`expand`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node, Value
from qrt.ops.windows import resolve as resolve_windows
from qrt.passes.conv3d import unfold_depth
from qrt.passes.deep_products import float_deep_product
from qrt.passes.expand import EXPANSIONS
from qrt.passes.max_pool3d import split_depth
from qrt.quant.affine import Array


def resolve(node: Node) -> list[Node]:
    """The nodes that stand for `node`; itself where nothing is to be resolved."""
    rewrite = REWRITES.get((node.domain, node.op))
    return [node] if rewrite is None else rewrite(node)


def _conv(node: Node) -> list[Node]:
    """pads of SAME_UPPER and SAME_LOWER (ONNX Conv 22); three axes become two."""
    if "auto_pad" in node.attrs:
        spatial = node.required(0).static_shape[2:]
        windows = resolve_windows(node, spatial, tuple(node.attrs["kernel_shape"]))
        node.attrs["pads"] = [*windows.begins, *windows.ends]
        del node.attrs["auto_pad"]
    return unfold_depth(node) if len(node.attrs["kernel_shape"]) == 3 else [node]


def _global_max_pool(node: Node) -> list[Node]:
    attrs = {"kernel_shape": list(node.required(0).static_shape[2:])}
    domain = "qrt" if node.required(0).dtype == np.uint8 else ""
    return _max_pool(_like(node, "MaxPool", node.inputs, node.outputs, attrs, domain))


def _max_pool(node: Node) -> list[Node]:
    """Three axes become two, where kernels take the type and nobody asks for indices."""
    spatial = len(node.required(0).static_shape) - 2
    fits = len(node.outputs) == 1 and node.required(0).dtype in (np.uint8, np.float32)
    return split_depth(node) if fits and spatial == len(node.attrs["kernel_shape"]) == 3 else [node]


def _rows(node: Node) -> list[Node]:
    """The machine's bias is (N); Gemm's may be (M, N): row i is a product with bias[i]."""
    biases = [None if v is None else v.data for v in node.inputs[2:4]]
    counts = {b.shape[0] for b in biases if b is not None and b.ndim == 2}
    if not counts:
        return float_deep_product(node)
    x, y = node.required(0), node.outputs[0]
    m = x.static_shape[0]
    if counts != {m}:
        raise ModelError(f"{node.where}: its bias has {max(counts)} rows, its result {m}")
    nodes, parts = [], []
    for i in range(m):
        row, part = Value(f"{x.name}/row{i}", x.dtype), Value(f"{y.name}/row{i}", y.dtype)
        bounds = [_constant(f"{row.name}/{a}", np.array([b])) for a, b in _bounds(i)]
        picked = [
            None if b is None else _constant(f"{part.name}/bias", b[i] if b.ndim == 2 else b)
            for b in biases
        ]
        nodes.append(_like(node, "Slice", [x, *bounds], [row]))
        nodes.append(
            _like(node, "MatMul", [row, node.inputs[1], *picked], [part], node.attrs, "qrt")
        )
        parts.append(part)
    return [*nodes, _like(node, "Concat", parts, [y], {"axis": 0})]


def _bounds(i: int) -> tuple[tuple[str, int], ...]:
    return ("starts", i), ("ends", i + 1), ("axes", 0)


def _constant(name: str, data: Array) -> Value:
    return Value(name, data.dtype, data.shape, data)


def _like(
    node: Node,
    op: str,
    inputs: list[Value | None] | list[Value],
    outputs: list[Value],
    attrs: Mapping[str, object] | None = None,
    domain: str = "",
) -> Node:
    """A node of another operator (as of opset 13) that stands for the same ONNX node."""
    return Node(
        op, list(inputs), outputs, dict(attrs or {}), domain, node.name, node.index, 13,
        node.origin, node.why, node.onnx_op,
    )  # fmt: skip


def _mean(node: Node) -> list[Node]:
    """Mean = Sum / count, of tensors that broadcast."""
    x, y = node.required(0), node.outputs[0]
    total = Value(f"{y.name}/sum", y.dtype)
    count = _constant(f"{y.name}/count", np.array(len(node.inputs), x.dtype))
    return [
        _like(node, "Sum", node.inputs, [total]),
        _like(node, "Div", [total, count], [y]),
    ]


REWRITES: dict[tuple[str, str], Callable[[Node], list[Node]]] = {
    **EXPANSIONS,
    ("", "GlobalMaxPool"): _global_max_pool,
    ("", "MaxPool"): _max_pool,
    ("", "Mean"): _mean,
    ("qrt", "Conv"): _conv,
    ("qrt", "MatMul"): _rows,
    ("qrt", "MaxPool"): _max_pool,
}
