"""Pad absorbed: what a window operator reads beyond the tensor is what Pad would have put there.

conv(pad(x, x_zero_point)) = conv with larger pads; an average over such a Pad counts its elements
(count_include_pad); a maximum ignores the smallest code.
"""

from __future__ import annotations

from qrt.ir import Graph, Node, QParams, Value


def absorb_pads(graph: Graph) -> Graph:
    """Pad of spatial axes by constants goes into Conv, AveragePool and MaxPool (domain qrt)."""
    pads = {
        n.outputs[0]: n
        for n in graph.nodes
        if n.op == "Pad" and not n.domain and n.attrs.get("mode", "constant") == "constant"
    }
    for node in graph.nodes:
        x = node.inputs[0] if node.inputs else None
        if x in pads and node.domain == "qrt" and node.op in ("Conv", "AveragePool", "MaxPool"):
            _absorb(node, pads[x])
    return graph


def _absorb(node: Node, pad: Node) -> None:
    widths = _spatial_widths(pad)
    if widths is None or "auto_pad" in node.attrs:
        return
    if node.op == "Conv" and node.input(5) is not None:  # what its zero point is, the data says
        return
    fill, own = pad.input(2), node.attrs["pads"]
    if len(widths) != len(own) or fill is None or fill.data is None:
        return
    code = int(fill.data.reshape(())[()])
    qparams: QParams | None = node.attrs.get("x")
    if qparams is not None and code != int(qparams.zero_point):
        return
    if node.op == "MaxPool" and (code != 0 or node.attrs["ceil_mode"]):
        return
    if node.op == "AveragePool":
        # the pool's own padding may not be counted, what Pad adds always is
        if node.attrs["ceil_mode"] or (any(own) and not node.attrs["count_include_pad"]):
            return
        node.attrs["count_include_pad"] = 1
    node.attrs["pads"] = [a + b for a, b in zip(own, widths, strict=True)]
    node.inputs[0] = pad.required(0)
    node.origin = (*pad.origin, *node.origin)


def _spatial_widths(pad: Node) -> list[int] | None:
    """Begins, then ends of the axes after the first two; None when others are padded or cut."""
    widths: Value | None = pad.input(1)
    if widths is None or widths.data is None or pad.input(3) is not None:
        return None
    flat = [int(v) for v in widths.data.reshape(-1)]
    rank = len(flat) // 2
    begins, ends = flat[:rank], flat[rank:]
    if any(begins[:2]) or any(ends[:2]) or min(flat, default=0) < 0:
        return None
    return [*begins[2:], *ends[2:]]
