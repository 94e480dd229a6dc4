"""Ranks: how many axes every tensor has, and those lengths that no input shape can change.

Recognition needs ranks (which axes GlobalAveragePool means, what a bias broadcasts along) before
the input shapes are known. A length that is not known is None; `infer` of the operators finds it
when shapes are bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qrt.ir import Graph, Node, Value
from qrt.ir.graph import Dim, Shape
from qrt.passes.arithmetic import integers, reshape_target
from qrt.passes.spellings import QONNX_DOMAINS, QONNX_OPS, SPELLINGS, operands_of

Rule = Callable[[Node], "Shape | None"]


def infer_ranks(graph: Graph) -> Graph:
    """Give every value a shape, as far as the rules below know one."""
    for node in graph.nodes:
        name = node.op.removeprefix("QLinear") if node.op.startswith("QLinear") else node.op
        rule = RULES.get(name)
        try:
            if node.op in ("Split", "DynamicQuantizeLinear"):
                _several(node)
            elif rule is not None and node.outputs[0].shape is None:
                node.outputs[0].shape = rule(node)
        except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
            # the node breaks a rule of its operator, whose `infer` will say which
            continue
        for value in node.outputs:
            value.dtype = value.dtype or _dtype(node, name)
    return graph


def _dtype(node: Node, name: str) -> np.dtype[Any] | None:
    """The type of the outputs, of operators that keep or quantize a tensor."""
    if node.op == "DynamicQuantizeLinear":
        return np.dtype(np.uint8)
    if node.op == "DequantizeLinear":
        return node.required(1).dtype
    if node.domain in QONNX_DOMAINS:
        return np.dtype(np.float32)
    source: Value | None = None
    if node.op == "QuantizeLinear":
        source = node.input(2)
        return np.dtype(np.uint8) if source is None else source.dtype
    if node.op in SPELLINGS:
        if node.input(SPELLINGS[node.op].y) is None:
            return np.dtype(np.float32)
        source = node.input(SPELLINGS[node.op].y + 1) or node.input(operands_of(node)[0][0])
    elif name in MOVEMENT and node.domain == "":
        source = node.input(0)
    return None if source is None else source.dtype


def _shape(node: Node, i: int = 0) -> Shape | None:
    value = node.input(i)
    return None if value is None else value.shape


def _constant(value: Value | None) -> list[int] | None:
    if value is None or value.data is None:
        return None
    return [int(v) for v in value.data.reshape(-1)]


def _unknown(rank: int) -> Shape:
    return (None,) * rank


def _several(node: Node) -> None:
    """Split cuts one axis; DynamicQuantizeLinear gives scale and zero point too."""
    shape = _shape(node)
    if node.op == "DynamicQuantizeLinear":
        node.outputs[0].shape = shape
        for value, dtype in zip(node.outputs[1:], (np.float32, np.uint8), strict=False):
            value.shape, value.dtype = (), np.dtype(dtype)
    elif shape is not None:
        axis = int(node.attrs.get("axis", 0)) % len(shape)
        for value in node.outputs:
            value.shape = value.shape or (*shape[:axis], None, *shape[axis + 1 :])


def _same(node: Node) -> Shape | None:
    return _shape(node)


def _broadcast(node: Node) -> Shape | None:
    shapes = [v.shape for v in node.inputs if v is not None]
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes) or not known:
        return None
    rank = max(len(s) for s in known)
    aligned = [(1,) * (rank - len(s)) + s for s in known]
    return tuple(_broadcast_dim(dims) for dims in zip(*aligned, strict=True))


def _broadcast_dim(dims: tuple[Dim, ...]) -> Dim:
    others = {d for d in dims if d != 1}
    if not others:
        return 1
    fixed = [d for d in others if isinstance(d, int)]
    return fixed[0] if fixed else next(iter(others)) if len(others) == 1 else None


def _qlinear_binary(node: Node) -> Shape | None:
    return _broadcast(Node("Add", [node.input(0), node.input(3)], node.outputs))


def _conv(node: Node) -> Shape | None:
    x, w = _shape(node), _shape(node, 3 if node.op == "QLinearConv" else 1)
    if x is None:
        return None
    return (x[0], w[0] if w is not None else None, *_unknown(len(x) - 2))


def _pool(node: Node) -> Shape | None:
    x = _shape(node)
    if x is None:
        return None
    if node.attrs.get("channels_last", 0):
        return (x[0], *_unknown(len(x) - 2), x[-1])
    return (*x[:2], *_unknown(len(x) - 2))


def _global_pool(node: Node) -> Shape | None:
    x = _shape(node)
    if x is None:
        return None
    if node.attrs.get("channels_last", 0):
        return (x[0], *(1,) * (len(x) - 2), x[-1])
    return (*x[:2], *(1,) * (len(x) - 2))


def _matmul(node: Node) -> Shape | None:
    a, b = _shape(node), _shape(node, 3 if node.op == "QLinearMatMul" else 1)
    if a is None or b is None or not a or not b:
        return None
    batch = _unknown(max(len(a), len(b), 2) - 2)
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


def _matmul_nbits(node: Node) -> Shape | None:
    x = _shape(node)
    return None if not x else (*x[:-1], int(node.attrs["N"]))


def _gemm(node: Node) -> Shape | None:
    a, b = _shape(node), _shape(node, 3 if node.op == "QGemm" else 1)
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return (None, None)
    rows = a[1] if node.attrs.get("transA", 0) else a[0]
    return (rows, b[0] if node.attrs.get("transB", 0) else b[1])


def _transpose(node: Node) -> Shape | None:
    x = _shape(node)
    if x is None:
        return None
    return tuple(x[i] for i in node.attrs.get("perm") or reversed(range(len(x))))


def _reshape(node: Node) -> Shape | None:
    x, target = _shape(node), _constant(node.input(1)) or node.attrs.get("shape")
    if target is None:
        length = _shape(node, 1)
        known = length is not None and len(length) == 1 and isinstance(length[0], int)
        return _unknown(int(length[0])) if known and length else None  # type: ignore[arg-type]
    if x is not None and all(isinstance(d, int) for d in x):
        return reshape_target(x, target, bool(node.attrs.get("allowzero", 0)))  # type: ignore[arg-type]
    return tuple(d if d > 0 else None for d in target)


def _flatten(node: Node) -> Shape | None:
    return (None, None)


def _axes(node: Node) -> list[int] | None:
    return integers(node, [None if v is None else v.data for v in node.inputs], 1, "axes")


def _squeeze(node: Node) -> Shape | None:
    x, axes = _shape(node), _axes(node)
    if x is None or (axes is None and any(d is None or isinstance(d, str) for d in x)):
        return None
    gone = {a % len(x) for a in axes} if axes else {i for i, d in enumerate(x) if d == 1}
    return tuple(d for i, d in enumerate(x) if i not in gone)


def _unsqueeze(node: Node) -> Shape | None:
    x, axes = _shape(node), _axes(node)
    if x is None or axes is None:
        return None
    rank = len(x) + len(axes)
    new, rest = {a % rank for a in axes}, iter(x)
    if len(new) < len(axes):
        return None
    return tuple(1 if i in new else next(rest) for i in range(rank))


def _concat(node: Node) -> Shape | None:
    values = node.inputs[2::3] if node.op == "QLinearConcat" else node.inputs
    shapes = [v.shape for v in values if v is not None]
    known = next((s for s in shapes if s is not None), None)
    if known is None or not known:
        return None
    axis = int(node.attrs.get("axis", 1)) % len(known)
    total: Dim = 0
    for shape in shapes:
        length = None if shape is None else shape[axis]
        total = total + length if isinstance(total, int) and isinstance(length, int) else None
    return (*known[:axis], total, *known[axis + 1 :])


def _gather(node: Node) -> Shape | None:
    x, indices = _shape(node), _shape(node, 1)
    if x is None or indices is None:
        return None
    axis = int(node.attrs.get("axis", 0)) % len(x)
    return (*x[:axis], *indices, *x[axis + 1 :])


def _gather_block(node: Node) -> Shape | None:
    x, indices = _shape(node), _shape(node, 1)
    if x is None or indices is None:
        return None
    axis = int(node.attrs.get("gather_axis", 0)) % len(x)
    return (*x[:axis], *indices, *_unknown(len(x) - axis - 1))


def _slice(node: Node) -> Shape | None:
    x = _shape(node)
    return None if x is None else _unknown(len(x))


def _reduce(node: Node) -> Shape | None:
    x, axes = _shape(node), _axes(node)
    if x is None:
        return None
    if node.input(1) is not None and axes is None:
        return _unknown(len(x)) if node.attrs.get("keepdims", 1) else None
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        return x
    gone = {a % len(x) for a in axes} if axes else set(range(len(x)))
    if node.attrs.get("keepdims", 1):
        return tuple(1 if i in gone else d for i, d in enumerate(x))
    return tuple(d for i, d in enumerate(x) if i not in gone)


def _attention(node: Node) -> Shape | None:
    """(batch, length, columns), but for ONNX's of four dimensions."""
    x = _shape(node)
    if node.domain == "":
        return None if x is None else _unknown(len(x))
    return _unknown(3)


def _expand(node: Node) -> Shape | None:
    x, target = _shape(node), _shape(node, 1)
    if x is None or target is None or len(target) != 1 or not isinstance(target[0], int):
        return None
    return _unknown(max(len(x), target[0]))


def _shape_of(node: Node) -> Shape | None:
    x = _shape(node)
    if x is None:
        return (None,)
    return (len(x[slice(int(node.attrs.get("start", 0)), node.attrs.get("end"))]),)


SAME = (
    "BatchNormalization", "Cast", "Clip", "CumSum", "DequantizeLinear", "Dropout", "Identity",
    "InstanceNormalization", "LayerNormalization", "LeakyRelu", "LogSoftmax", "LpNormalization",
    "PRelu", "QuantizeLinear", "Relu", "Sigmoid", "Softmax", "Hardmax", "Abs", "Celu", "Ceil",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Log", "Mish", "Neg", "Not",
    "Reciprocal", "Round", "Selu", "Shrink", "Sign", "Softplus", "Softsign", "Sqrt", "Swish",
    "Tanh", "ThresholdedRelu", "Trilu", "Sin", "Cos", "RMSNormalization", "RotaryEmbedding",
    "SkipLayerNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization",
    "BiasGelu", "FastGelu", "QuickGelu", *QONNX_OPS,
)  # fmt: skip
BROADCAST = (
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
    "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where",
)  # fmt: skip
# the first output has the first input's type
MOVEMENT = (
    "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GlobalMaxPool",
    "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze",
    "Tile", "Transpose", "Unsqueeze", "Upsample",
)  # fmt: skip
REDUCE = ("Max", "Mean", "Min", "Prod", "Sum", "L1", "L2", "LogSumExp", "SumSquare")

ATTENTION = (
    "Attention", "EmbedLayerNormalization", "GroupQueryAttention", "MultiHeadAttention",
    "QEmbedLayerNormalization",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(BROADCAST, lambda n: _qlinear_binary(n) if n.domain else _broadcast(n)),
    **dict.fromkeys((f"Reduce{name}" for name in REDUCE), _reduce),
    **dict.fromkeys(ATTENTION, _attention),
    "AveragePool": _pool,
    "Concat": _concat,
    "Conv": _conv,
    "ConvInteger": _conv,
    "DepthToSpace": _slice,
    "DynamicQuantizeMatMul": _matmul,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherBlockQuantized": _gather_block,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "LpPool": _pool,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "MatMulNBits": _matmul_nbits,
    "MaxPool": _pool,
    "Pad": _slice,
    "QGemm": _gemm,
    "Reshape": _reshape,
    "Resize": _slice,
    "Shape": _shape_of,
    "Size": lambda node: (),
    "Slice": _slice,
    "SpaceToDepth": _slice,
    "Squeeze": _squeeze,
    "Tile": _slice,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _slice,
}
