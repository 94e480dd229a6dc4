"""BatchNormalization folded into the float weights of the Conv or Gemm before it.

bn(conv(x, w) + b) = conv(x, w * g) + (b - mean) * g + beta, g = gamma / sqrt(variance + epsilon)
per output channel, computed in float64. Behind quantized weights recognition folds it into scale
and bias instead.
"""

from __future__ import annotations

import numpy as np

from qrt.ir import Graph, Node, Value
from qrt.quant.affine import Array


def fold_batchnorm(graph: Graph) -> Graph:
    """Fold where the product has constant weights and one reader."""
    producers, consumers = graph.producers(), graph.consumers()
    outputs = set(graph.outputs)
    kept: list[Node] = []
    for node in graph.nodes:
        product = producers.get(node.required(0)) if node.op == "BatchNormalization" else None
        factors = gain_and_shift(node) if product is not None else None
        if (
            product is None
            or factors is None
            or product.outputs[0] in outputs
            or len(consumers[product.outputs[0]]) != 1
            or not _scale(product, *factors)
        ):
            kept.append(node)
            continue
        product.outputs = [node.outputs[0]]
        product.origin = (*(product.origin or (product.name,)), node.name)
        producers[node.outputs[0]] = product
    graph.nodes = kept
    return graph


def gain_and_shift(node: Node) -> tuple[Array, Array] | None:
    """float64 (g, h) of BatchNormalization at inference, y = x * g + h; None when not constant."""
    if len(node.outputs) > 1 or node.attrs.get("training_mode", 0) or node.domain:
        return None
    arrays = [None if v is None else v.data for v in node.inputs[1:5]]
    if len(arrays) < 4 or any(a is None for a in arrays):
        return None
    gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
    gain = gamma / np.sqrt(variance + np.float32(node.attrs.get("epsilon", 1e-5)))
    return gain, beta - mean * gain


def _scale(product: Node, gain: Array, shift: Array) -> bool:
    """Put gain and shift into the weights and bias of `product`; False when it has none."""
    w, bias = product.input(1), product.input(2)
    if product.domain or product.op not in ("Conv", "Gemm") or w is None or w.data is None:
        return False
    if bias is not None and (bias.data is None or bias.data.size != gain.size):
        return False
    axis = 0 if product.op == "Conv" or product.attrs.get("transB", 0) else 1
    if w.data.dtype != np.float32 or w.data.shape[axis] != gain.size:
        return False
    beta = float(product.attrs.get("beta", 1.0)) if product.op == "Gemm" else 1.0
    along = gain.reshape([-1 if a == axis else 1 for a in range(w.data.ndim)])
    weights = (w.data * along).astype(np.float32)
    real = 0.0 if bias is None else bias.data.reshape(-1) * beta  # type: ignore[union-attr]
    total = np.asarray(real * gain + shift, np.float32)
    name = product.outputs[0].name
    inputs = [
        product.inputs[0],
        Value(f"{name}/weights", weights.dtype, weights.shape, weights),
        Value(f"{name}/bias", total.dtype, total.shape, total),
    ]
    product.inputs = inputs
    if product.op == "Gemm":
        product.attrs["beta"] = 1.0
    return True
