"""Weights of few bits in blocks, activations float: ONNX's blocked DequantizeLinear or MatMulNBits.

rtn rounds to the nearest of the grid by the block's extremes. mse shrinks each block's range to the
least squared error. hqq alternates between codes and zero points under an l_p norm that forgives
outliers (Badri and Shaji 2023, half-quadratic quantization). gptq rounds one input channel after
the other and lets those to come make up for the error, by the inverse of x^T x of the data (Frantar
et al. 2023, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.ptq.calibrate import Runner
from qrt.ptq.draft import Draft, Model, attributes
from qrt.ptq.gptq import gptq
from qrt.ptq.moments import collect
from qrt.ptq.prepare import prepare
from qrt.ptq.samples import Samples
from qrt.quant.affine import Array, dequantize, quantize, spread_over
from qrt.quant.choose import choose_qparams
from qrt.quant.packing import pack

OPSET = 21  # blocks, int4
FORMS = ("blocked", "matmulnbits")
BITS = (2, 4, 8)
MSE_STEPS = 40
HQQ_ROUNDS, HQQ_P, HQQ_BETA, HQQ_GROWTH = 20, 0.7, 10.0, 1.01  # the authors' own


def quantize_weights(
    model: Model,
    bits: int,
    block_size: int,
    *,
    method: str,
    symmetric: bool,
    form: str,
    data: Any,
    runner: Runner,
) -> onnx.ModelProto:
    """See `qrt.quantize_weights`."""
    if bits not in BITS:
        raise QuantizationError(f"bits are one of {', '.join(map(str, BITS))}, got {bits}")
    if form not in FORMS:
        raise QuantizationError(f"form is one of {', '.join(FORMS)}, got {form!r}")
    if method not in METHODS and method != "gptq":
        raise QuantizationError(f"method is one of {', '.join((*METHODS, 'gptq'))}, got {method!r}")
    if block_size < 1 or (
        form == "matmulnbits" and (block_size < 16 or block_size & block_size - 1)
    ):
        rule = "a power of two from 16 on" if form == "matmulnbits" else "at least 1"
        raise QuantizationError(f"block_size must be {rule}, got {block_size}")
    if method == "gptq" and data is None:
        raise QuantizationError("gptq needs calibration_data")
    draft = prepare(model)
    products = _products(draft)
    if form == "blocked" or any(w.ndim > 2 for w in products.values()):
        draft.need_opset(OPSET)  # a Conv's weights are blocked in either form
        products = _products(draft)
    if not products:
        raise QuantizationError(
            "nothing to quantize: the model has no MatMul, Gemm or Conv with constant weights"
        )
    moments: dict[str, Array] = {}
    if method == "gptq":
        nodes = [n for n in draft.nodes if n.output[0] in products and n.op_type != "Conv"]
        found = collect(draft, nodes, Samples(data, draft.inputs), runner)
        moments = {name: entry.squares[0] for name, entry in found.items()}
    made: list[onnx.NodeProto] = []
    done: dict[tuple[str, bool], str] = {}
    for node in draft.nodes:
        w = products.get(node.output[0])
        if w is None:
            made.append(node)
            continue
        rows = _as_rows(node, w)  # (outputs, summed)
        key = (node.input[1], _is_turned(node))
        if form == "matmulnbits" and node.op_type != "Conv":
            q = _codes(rows, bits, block_size, symmetric, method, moments.get(node.output[0]))
            made += _matmul_nbits(draft, node, rows.shape, q, block_size)
            continue
        if key not in done:
            codes = _codes(rows, bits, block_size, symmetric, method, moments.get(node.output[0]))
            done[key] = _blocked(draft, made, node, w, codes)
        node.input[1] = done[key]
        made.append(node)
    draft.nodes = made
    return draft.model()


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


def _is_turned(node: onnx.NodeProto) -> bool:
    """True where weights are (outputs, summed) as they are."""
    return node.op_type == "Conv" or bool(attributes(node).get("transB", 0))


def _as_rows(node: onnx.NodeProto, w: Array) -> Array:
    """(outputs, summed): the taps of a Conv, outermost, follow its input channels."""
    if node.op_type == "Conv":
        return np.moveaxis(w, 1, -1).reshape(-1, w.shape[1])  # blocks stay within a tap
    return w if _is_turned(node) else w.T


class _Codes:
    """Integers (rows, columns) and their grid, blocks along the columns."""

    def __init__(self, q: Array, grid: QParams) -> None:
        self.q, self.grid = q, grid


def _codes(
    rows: Array, bits: int, block_size: int, symmetric: bool, method: str, moment: Array | None
) -> _Codes:
    base = METHODS["rtn" if method == "gptq" else method]
    grid = base(rows, bits, block_size, symmetric)
    if moment is None or moment.shape[0] != rows.shape[1]:
        return _Codes(quantize(rows, grid), grid)
    return _Codes(gptq(rows, grid, moment), grid)


def _rtn(rows: Array, bits: int, block_size: int, symmetric: bool) -> QParams:
    """Each block's own extremes."""
    size = min(block_size, rows.shape[1])
    return choose_qparams(
        rows, bits, symmetric=symmetric, signed=symmetric, axis=1, block_size=size
    )


def _mse(rows: Array, bits: int, block_size: int, symmetric: bool) -> QParams:
    """Each block's range shrunk to where its squared error is least."""
    grid = _rtn(rows, bits, block_size, symmetric)
    size = grid.block_size or 1
    starts = np.arange(0, rows.shape[1], size)
    best = np.full(grid.scale.shape, np.inf)
    scale = grid.scale.copy()
    for factor in np.linspace(0.6, 1.0, MSE_STEPS):
        tried = replace(grid, scale=np.asarray(grid.scale * factor, np.float32))
        error = (dequantize(quantize(rows, tried), tried).astype(np.float64) - rows) ** 2
        found = np.add.reduceat(error, starts, axis=1)
        better = found < best
        best, scale = np.where(better, found, best), np.where(better, tried.scale, scale)
    return replace(grid, scale=scale)


def _hqq(rows: Array, bits: int, block_size: int, symmetric: bool) -> QParams:
    """Zero points that the l_p norm of the error likes best; a symmetric grid keeps 0, as mse."""
    if symmetric:
        return _mse(rows, bits, block_size, symmetric)
    grid = _rtn(rows, bits, block_size, symmetric)
    size = grid.block_size or 1
    starts = np.arange(0, rows.shape[1], size)
    counts = np.diff(np.append(starts, rows.shape[1]))
    zero = grid.zero_point.astype(np.float64)
    scale = spread_over(grid.scale, rows.shape, grid).astype(np.float64)
    beta, best, chosen = HQQ_BETA, np.inf, grid.zero_point
    for _ in range(HQQ_ROUNDS):
        rounded = np.clip(np.rint(zero), grid.qmin, grid.qmax)
        tried = replace(grid, zero_point=rounded.astype(grid.dtype))
        q = quantize(rows, tried)
        error = rows - dequantize(q, tried)
        norm = float((np.abs(error) ** HQQ_P).sum())
        if norm < best:
            best, chosen = norm, tried.zero_point
        # generalised soft-thresholding: what is left of the error counts as an outlier
        size_of = np.abs(error)
        outlier = np.sign(error) * np.maximum(
            size_of - np.maximum(size_of, 1e-12) ** (HQQ_P - 1) / beta, 0
        )
        wanted = q.astype(np.float64) - (rows - outlier) / scale
        zero = np.add.reduceat(wanted, starts, axis=1) / counts
        beta *= HQQ_GROWTH
    return replace(grid, zero_point=chosen)


METHODS: dict[str, Callable[[Array, int, int, bool], QParams]] = {
    "rtn": _rtn,
    "mse": _mse,
    "hqq": _hqq,
}


def _blocked(
    draft: Draft, made: list[onnx.NodeProto], node: onnx.NodeProto, w: Array, codes: _Codes
) -> str:
    """Weights behind a DequantizeLinear with blocks; the name of the real tensor."""
    grid = codes.grid
    parts: dict[str, Array] = {"quantized": codes.q, "scale": grid.scale,
                               "zero_point": grid.zero_point}  # fmt: skip
    axis = 1
    if node.op_type == "Conv":
        spatial = w.shape[2:]
        for name, array in parts.items():
            wide = array.reshape(w.shape[0], *spatial, array.shape[-1])
            parts[name] = np.moveaxis(wide, -1, 1)
    elif not _is_turned(node):
        axis = 0
        parts = {name: array.T for name, array in parts.items()}
    stem = node.input[1]
    names = [
        draft.constant(f"{stem}_{name}", array if name == "scale" else few_bits(array, grid))
        for name, array in parts.items()
    ]
    if not grid.zero_point.any():
        names.pop()
    out = draft.fresh(f"{stem}_dequantized")
    attrs: dict[str, Any] = {"axis": axis, "block_size": grid.block_size}
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
    draft: Draft, node: onnx.NodeProto, shape: tuple[int, ...], codes: _Codes, block_size: int
) -> list[onnx.NodeProto]:
    """com.microsoft MatMulNBits; a Gemm's bias is added behind it."""
    draft.need_domain("com.microsoft")
    grid, (n, k) = codes.grid, shape
    bits = grid.bits or 8
    blocks = -(-k // block_size)
    middle = 1 << bits - 1
    signed = grid.dtype.kind == "i"
    raised = codes.q.astype(np.int64) + (middle if signed else 0)
    padded = np.full((n, blocks * block_size), middle, np.uint8)
    padded[:, :k] = raised
    packed = pack(padded, bits).reshape(n, blocks, block_size * bits // 8)
    stem = node.input[1]
    inputs = [node.input[0], draft.constant(f"{stem}_packed", packed),
              draft.constant(f"{stem}_scales", grid.scale.reshape(n, blocks))]  # fmt: skip
    if not signed:
        zeros = grid.zero_point.astype(np.uint8).reshape(n, blocks)
        lines = [pack(line, bits) for line in zeros]
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
