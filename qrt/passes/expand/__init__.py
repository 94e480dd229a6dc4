"""Operators that stand for several: each as the nodes it means, one family a file.

`PROJECTIONS` are rewritten before quantization is recognised, `EXPANSIONS` once shapes are bound,
so that masks, positions and heads of known sizes are constants.
"""

from __future__ import annotations

from collections.abc import Callable

from qrt.errors import QrtError, at_node
from qrt.ir import Graph, Node
from qrt.passes.expand import bodies, gelus, norms, rotary
from qrt.passes.expand.group_query_attention import group_query_attention
from qrt.passes.expand.microsoft_attention import (
    PROJECTED,
    attention,
    multi_head_attention,
    project,
)
from qrt.passes.expand.onnx_attention import onnx_attention

Expansion = Callable[[Node], list[Node]]
MS = "com.microsoft"

PROJECTIONS: dict[tuple[str, str], Expansion] = {
    (MS, "Attention"): project,
    (MS, "QAttention"): project,
}
EXPANSIONS: dict[tuple[str, str], Expansion] = {
    ("", "CastLike"): bodies.cast_like,
    ("", "GroupNormalization"): bodies.group_normalization,
    ("", "InstanceNormalization"): bodies.instance_normalization,
    ("", "ReduceL1"): bodies.reduction,
    ("", "ReduceL2"): bodies.reduction,
    ("", "ReduceLogSum"): bodies.reduction,
    ("", "ReduceLogSumExp"): bodies.reduction,
    ("", "ReduceSumSquare"): bodies.reduction,
    ("", "Attention"): onnx_attention,
    ("", "RotaryEmbedding"): rotary.onnx_rotary,
    (MS, "Attention"): attention,
    (MS, "BiasGelu"): gelus.gelu,
    (MS, "EmbedLayerNormalization"): norms.embed,
    (MS, "FastGelu"): gelus.gelu,
    (MS, "Gelu"): gelus.gelu,
    (MS, "GroupQueryAttention"): group_query_attention,
    (MS, "MultiHeadAttention"): multi_head_attention,
    (MS, "QEmbedLayerNormalization"): norms.quantized_embed,
    (MS, "QuickGelu"): gelus.quick_gelu,
    (MS, "RotaryEmbedding"): rotary.microsoft_rotary,
    (MS, "SimplifiedLayerNormalization"): norms.simplified,
    (MS, "SkipLayerNormalization"): norms.skip,
    (MS, "SkipSimplifiedLayerNormalization"): norms.skip,
}


def expand_projections(graph: Graph) -> Graph:
    """Attention(x, w) = Attention of x @ w; `graph` is changed."""
    kept: list[Node] = []
    for node in graph.nodes:
        expansion = PROJECTIONS.get((node.domain, node.op))
        if expansion is None or PROJECTED in node.attrs:
            kept.append(node)
            continue
        try:
            kept.extend(expansion(node))
        except QrtError as error:
            at_node(error, node.where)
    graph.nodes = kept
    return graph
