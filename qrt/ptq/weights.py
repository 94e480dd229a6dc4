"""Weights of few bits in blocks, activations float: ONNX's blocked DequantizeLinear or MatMulNBits.

rtn rounds to the nearest of the grid by the block's extremes. mse shrinks each block's range to the
least squared error. hqq alternates between codes and zero points under an l_p norm that forgives
outliers (Badri and Shaji 2023, half-quadratic quantization). gptq rounds one input channel after
the other and lets those to come make up for the error, by the inverse of x^T x of the data (Frantar
et al. 2023, algorithm 1). learned is AdaRound (adaround.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.ptq.calibrate import Runner
from qrt.ptq.draft import Draft, Model, attributes, halves_hint, label
from qrt.ptq.prepare import copied, prepare
from qrt.ptq.product import (
    as_rows,
    bias_of,
    clamp_behind,
    from_rows,
    give_bias,
    outputs_first,
    product_of,
)
from qrt.ptq.reconstruct import reconstruct as learn_scales
from qrt.ptq.rounding import BY_DATA
from qrt.ptq.rows import Rows, Seen
from qrt.ptq.samples import Samples
from qrt.quant.affine import Array, dequantize, quantize, spread_over
from qrt.quant.choose import choose_qparams
from qrt.quant.packing import pack

OPSETS = {2: 25, 4: 21, 8: 21}  # by bits: those that have blocks of them
FORMS = ("blocked", "matmulnbits")
USUAL_BLOCK = 32  # the default, which fits small networks, too: their blocks are just shorter
WITHOUT_DATA, WITH_DATA = "mse", "gptq"  # methods where none is named
MSE_STEPS = 40
HQQ_ROUNDS, HQQ_P, HQQ_BETA, HQQ_GROWTH = 20, 0.7, 10.0, 1.01  # the authors' own


def quantize_weights(
    model: Model,
    bits: int,
    block_size: int,
    *,
    method: str | None,
    symmetric: bool,
    form: str,
    data: Any,
    runner: Runner,
    reconstruct: bool = False,
) -> onnx.ModelProto:
    """See `qrt.quantize_weights`."""
    if type(bits) is not int or bits not in OPSETS:
        raise QuantizationError(f"bits are one of {', '.join(map(str, OPSETS))}, got {bits!r}")
    if form not in FORMS:
        raise QuantizationError(f"form is one of {', '.join(FORMS)}, got {form!r}")
    if method is None:
        method = WITHOUT_DATA if data is None else WITH_DATA
    if method not in (*METHODS, *BY_DATA):
        raise QuantizationError(
            f"method is one of {', '.join((*METHODS, *BY_DATA))}, got {method!r}"
        )
    if (
        type(block_size) is not int
        or block_size < 1
        or (form == "matmulnbits" and (block_size < 16 or block_size & block_size - 1))
    ):
        rule = "a power of two from 16 on" if form == "matmulnbits" else "at least 1"
        raise QuantizationError(f"block_size must be {rule}, got {block_size!r}")
    if data is None and (method in BY_DATA or reconstruct):
        what = method if method in BY_DATA else "reconstruct"
        raise QuantizationError(f"{what} needs calibration_data")
    draft = prepare(model)
    products = _products(draft)
    if form == "blocked" or any(w.ndim > 2 for w in products.values()):
        draft.need_opset(OPSETS[bits])  # a Conv's weights are blocked in either form
        products = _products(draft)
    if not products:
        raise QuantizationError(
            "nothing to quantize: the model has no MatMul, Gemm or Conv with constant weights"
            f"{halves_hint(draft)}"
        )
    _check_block(draft, products, block_size)
    samples = None if data is None else Samples(data, draft.inputs, keep=True)
    rows = None
    if method in BY_DATA and samples is not None:
        nodes = [n for n in draft.nodes if n.output[0] in products]
        rows = Rows(draft, nodes, samples, runner)
    exact = copied(draft) if reconstruct else None
    consumers = draft.consumers()
    made: list[onnx.NodeProto] = []
    done: dict[tuple[str, bool], str] = {}
    for node in draft.nodes:
        w = products.get(node.output[0])
        if w is None:
            made.append(node)
            continue
        key = (node.input[1], outputs_first(node))
        if key in done:
            node.input[1] = done[key]
            made.append(node)
            continue
        grid = METHODS.get(method, _mse)(w, _summed_axis(node, w), bits, block_size, symmetric)
        q = quantize(w, grid)
        seen = None if rows is None else rows.seen(draft, made, node, node.input[0])
        if seen is not None:
            q = _by_data(draft, node, w, grid, method, seen, clamp_behind(draft, consumers, node))
        if form == "matmulnbits" and node.op_type != "Conv":
            made += _matmul_nbits(draft, node, q, grid, block_size)
            continue
        node.input[1] = done[key] = _blocked(draft, made, node, q, grid)
        made.append(node)
    draft.nodes = made
    if exact is None or samples is None:
        return draft.model()
    return learn_scales(draft.model(), exact, samples, runner)


def _by_data(
    draft: Draft,
    node: onnx.NodeProto,
    w: Array,
    grid: QParams,
    method: str,
    seen: Seen,
    clamp: tuple[float, float],
) -> Array:
    """Codes of a node's weights by what it multiplies; its bias changes with them."""
    bias = bias_of(draft, node, len(as_rows(node, w)))
    product = product_of(node, w, grid, bias, seen, clamp)
    codes, moved = BY_DATA[method](product)
    if product.free:
        give_bias(draft, node, moved)
    return from_rows(node, codes, w.shape).astype(grid.dtype)


def _check_block(draft: Draft, products: Mapping[str, Array], block_size: int) -> None:
    """Raise QuantizationError for blocks longer than what any product sums, rounded up to 2**n."""
    nodes = {node.output[0]: node for node in draft.nodes if node.output[0] in products}
    sums = {name: w.shape[_summed_axis(nodes[name], w)] for name, w in products.items()}
    longest = max(sums, key=lambda name: sums[name])
    most = max(1 << (sums[longest] - 1).bit_length(), USUAL_BLOCK)
    if block_size > most:
        raise QuantizationError(
            f"block_size {block_size} fits no weight: the longest sum, of {label(nodes[longest])},"
            f" has {sums[longest]} terms; take up to {most}"
        )


def _products(draft: Draft) -> dict[str, Array]:
    """Weights of the nodes to quantize, by output: MatMul, Gemm, and Conv of one group."""
    found = {}
    for node in draft.nodes:
        w = draft.arrays.get(node.input[1]) if len(node.input) > 1 else None
        if w is None or w.dtype != np.float32 or node.domain not in ("", "ai.onnx"):
            continue
        attrs = attributes(node)
        if (
            (node.op_type == "MatMul" and w.ndim == 2)
            or node.op_type == "Gemm"
            or (node.op_type == "Conv" and attrs.get("group", 1) == 1 and w.shape[1] > 1)
        ):
            found[node.output[0]] = w
    return found


def _summed_axis(node: onnx.NodeProto, w: Array) -> int:
    """The axis of blocks: a Conv's stay within a tap."""
    return 1 if outputs_first(node) else w.ndim - 2


def _rtn(w: Array, axis: int, bits: int, block_size: int, symmetric: bool) -> QParams:
    """Each block's own extremes."""
    size = min(block_size, w.shape[axis])
    return choose_qparams(
        w, bits, symmetric=symmetric, signed=symmetric, axis=axis, block_size=size
    )


def _mse(w: Array, axis: int, bits: int, block_size: int, symmetric: bool) -> QParams:
    """Each block's range shrunk to where its squared error is least."""
    grid = _rtn(w, axis, bits, block_size, symmetric)
    starts = np.arange(0, w.shape[axis], grid.block_size)
    best = np.full(grid.scale.shape, np.inf)
    scale = grid.scale.copy()
    for factor in np.linspace(0.6, 1.0, MSE_STEPS):
        tried = replace(grid, scale=np.asarray(grid.scale * factor, np.float32))
        error = (dequantize(quantize(w, tried), tried).astype(np.float64) - w) ** 2
        found = np.add.reduceat(error, starts, axis=axis)
        better = found < best
        best, scale = np.where(better, found, best), np.where(better, tried.scale, scale)
    return replace(grid, scale=scale)


def _hqq(w: Array, axis: int, bits: int, block_size: int, symmetric: bool) -> QParams:
    """Zero points that the l_p norm of the error likes best; a symmetric grid keeps 0, as mse."""
    if symmetric:
        return _mse(w, axis, bits, block_size, symmetric)
    grid = _rtn(w, axis, bits, block_size, symmetric)
    size = grid.block_size or 1
    starts = np.arange(0, w.shape[axis], size)
    lengths = np.diff(np.append(starts, w.shape[axis]))
    counts = lengths.reshape([-1 if a == axis else 1 for a in range(w.ndim)])
    zero = grid.zero_point.astype(np.float64)
    scale = spread_over(grid.scale, w.shape, grid).astype(np.float64)
    beta, best, chosen = HQQ_BETA, np.inf, grid.zero_point
    for _ in range(HQQ_ROUNDS):
        rounded = np.clip(np.rint(zero), grid.qmin, grid.qmax)
        tried = replace(grid, zero_point=rounded.astype(grid.dtype))
        q = quantize(w, tried)
        error = w - dequantize(q, tried)
        norm = float((np.abs(error) ** HQQ_P).sum())
        if norm < best:
            best, chosen = norm, tried.zero_point
        # generalised soft-thresholding: what is left of the error counts as an outlier
        size_of = np.abs(error)
        outlier = np.sign(error) * np.maximum(
            size_of - np.maximum(size_of, 1e-12) ** (HQQ_P - 1) / beta, 0
        )
        wanted = q.astype(np.float64) - (w - outlier) / scale
        zero = np.add.reduceat(wanted, starts, axis=axis) / counts
        beta *= HQQ_GROWTH
    return replace(grid, zero_point=chosen)


# grids from weights alone, blocks along an axis
METHODS: dict[str, Callable[[Array, int, int, int, bool], QParams]] = {
    "rtn": _rtn,
    "mse": _mse,
    "hqq": _hqq,
}


def _blocked(
    draft: Draft, made: list[onnx.NodeProto], node: onnx.NodeProto, q: Array, grid: QParams
) -> str:
    """Weights behind a DequantizeLinear with blocks; the name of the real tensor."""
    stem = node.input[1]
    names = [
        draft.constant(f"{stem}_quantized", few_bits(q, grid)),
        draft.constant(f"{stem}_scale", grid.scale),
    ]
    if grid.zero_point.any():
        names.append(draft.constant(f"{stem}_zero_point", few_bits(grid.zero_point, grid)))
    out = draft.fresh(f"{stem}_dequantized")
    attrs: dict[str, Any] = {"axis": grid.axis, "block_size": grid.block_size}
    made.append(draft.node("DequantizeLinear", names, [out], **attrs))
    return out


def few_bits(q: Array, grid: QParams) -> Array:
    """Integers in the dtype that ONNX packs: int2, int4, uint2, uint4, or as they are."""
    import ml_dtypes

    if grid.bits is None:
        return np.ascontiguousarray(q)
    kind = f"{'u' if grid.dtype.kind == 'u' else ''}int{grid.bits}"
    return np.ascontiguousarray(q).astype(getattr(ml_dtypes, kind))


def _matmul_nbits(
    draft: Draft, node: onnx.NodeProto, q: Array, grid: QParams, block_size: int
) -> list[onnx.NodeProto]:
    """com.microsoft MatMulNBits; a Gemm's bias is added behind it."""
    draft.need_domain("com.microsoft")
    codes, scales, zeros = (as_rows(node, a) for a in (q, grid.scale, grid.zero_point))
    n, k = codes.shape
    bits = grid.bits or 8
    blocks = -(-k // block_size)
    middle = 1 << bits - 1
    signed = grid.dtype.kind == "i"
    raised = codes.astype(np.int64) + (middle if signed else 0)
    padded = np.full((n, blocks * block_size), middle, np.uint8)
    padded[:, :k] = raised
    packed = pack(padded, bits).reshape(n, blocks, block_size * bits // 8)
    stem = node.input[1]
    inputs = [node.input[0], draft.constant(f"{stem}_packed", packed),
              draft.constant(f"{stem}_scales", scales.reshape(n, blocks))]  # fmt: skip
    if not signed:
        lines = [pack(line, bits) for line in zeros.astype(np.uint8).reshape(n, blocks)]
        inputs.append(draft.constant(f"{stem}_zero_points", np.stack(lines)))
    attrs = attributes(node)
    bias = node.input[2] if len(node.input) > 2 else ""
    out = draft.fresh(f"{node.output[0]}_product") if bias else node.output[0]
    made = [
        draft.node("MatMulNBits", inputs, [out], "com.microsoft", K=k, N=n, bits=bits,
                   block_size=block_size)
    ]  # fmt: skip
    if attrs.get("alpha", 1.0) != 1.0 or attrs.get("transA", 0) or attrs.get("beta", 1.0) != 1.0:
        raise QuantizationError(
            f"Gemm '{node.name}' has alpha, beta or transA, which MatMulNBits has not:"
            ' take form="blocked"'
        )
    if bias:
        made.append(draft.node("Add", [out, bias], [node.output[0]]))
    return made
