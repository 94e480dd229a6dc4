"""Dynamic quantization: 8-bit weights, activations quantized by their own range at every run.

x @ w + b = float32(sums) * (x_scale * w_scale) + b, with sums by MatMulInteger or ConvInteger of
DynamicQuantizeLinear(x); one DynamicQuantizeLinear for all that read x. LSTM becomes
com.microsoft DynamicQuantizeLSTM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.ptq.draft import Draft, Model, attributes, halves_hint
from qrt.ptq.prepare import prepare
from qrt.quant.affine import Array, quantize
from qrt.quant.choose import choose_qparams

OPSET = 11  # DynamicQuantizeLinear
WEIGHT_DTYPES = ("int8", "uint8")
Quantized = tuple[str, str, str]  # names of integers, scale and zero point


def quantize_dynamic(
    model: Model, op_types: Sequence[str], weight_dtype: str, per_channel: bool
) -> onnx.ModelProto:
    """See `qrt.quantize_dynamic`."""
    if weight_dtype not in WEIGHT_DTYPES:
        raise QuantizationError(
            f"weight_dtype is one of {', '.join(WEIGHT_DTYPES)}, got {weight_dtype!r}"
        )
    if isinstance(op_types, str) or not op_types:
        raise QuantizationError(
            f"op_types are names of operators, of {', '.join(_REWRITES)}, got {op_types!r}"
        )
    unknown = [op for op in op_types if op not in _REWRITES]
    if unknown:
        raise QuantizationError(
            f"{unknown[0]} cannot be quantized dynamically, only {', '.join(_REWRITES)}"
        )
    draft = prepare(model)
    draft.need_opset(OPSET)
    return _Rewrite(draft, weight_dtype == "int8", per_channel).model(op_types)


class _Rewrite:
    """One walk over the nodes."""

    def __init__(self, draft: Draft, signed: bool, per_channel: bool) -> None:
        self._draft = draft
        self._signed = signed
        self._per_channel = per_channel
        self._floats = draft.floats()
        self._inputs: dict[str, Quantized] = {}
        self._weights: dict[tuple[str, int], tuple[Quantized, QParams]] = {}
        self._made: list[onnx.NodeProto] = []

    def model(self, op_types: Sequence[str]) -> onnx.ModelProto:
        """The rewritten model."""
        count = 0
        for node in self._draft.nodes:
            w = self._draft.arrays.get(node.input[1]) if len(node.input) > 1 else None
            rewrite = _REWRITES.get(node.op_type) if node.op_type in op_types else None
            if (
                rewrite is None
                or w is None
                or not self._fits(node, w)
                or not rewrite(self, node, w)
            ):
                self._made.append(node)
                continue
            count += 1
        if not count:
            raise QuantizationError(
                f"nothing to quantize: the model has no {' or '.join(op_types)} with constant"
                f" weights{halves_hint(self._draft)}"
            )
        self._draft.nodes = self._made
        return self._draft.model()

    def _fits(self, node: onnx.NodeProto, w: Array) -> bool:
        return (
            w.dtype == np.float32
            and w.ndim >= 2
            and w.size > 0
            and node.domain in ("", "ai.onnx")
            and node.input[0] in self._floats
        )

    def _conv(self, node: onnx.NodeProto, w: Array) -> bool:
        attrs = attributes(node)
        bias = self._draft.arrays.get(node.input[2]) if len(node.input) > 2 else None
        if len(node.input) > 2 and bias is None:
            return False
        column = (1, -1, *(1,) * (w.ndim - 2))
        shaped = None if bias is None else bias.reshape(column)
        self._product(node, "ConvInteger", w, 0, column, shaped, attrs)
        return True

    def _matmul(self, node: onnx.NodeProto, w: Array) -> bool:
        self._product(node, "MatMulInteger", w, w.ndim - 1, (-1,), None, {})
        return True

    def _gemm(self, node: onnx.NodeProto, w: Array) -> bool:
        attrs = attributes(node)
        bias = self._draft.arrays.get(node.input[2]) if len(node.input) > 2 else None
        plain = attrs.get("alpha", 1.0) == 1.0 and not attrs.get("transA", 0)
        if not plain or (len(node.input) > 2 and bias is None):
            return False
        if bias is not None:
            bias = bias * np.float32(attrs.get("beta", 1.0))
        turned = w.T if attrs.get("transB", 0) else w
        self._product(node, "MatMulInteger", turned, 1, (-1,), bias, {})
        return True

    def _lstm(self, node: onnx.NodeProto, w: Array) -> bool:
        draft = self._draft
        r = draft.arrays.get(node.input[2])
        if r is None or attributes(node).get("layout", 0):
            return False
        parts: list[str] = []
        turned = []
        for name, array in ((node.input[1], w), (node.input[2], r)):
            stored, scale, zero_point = self._stored(name, array.transpose(0, 2, 1), 0)
            turned.append(stored)
            parts += [scale, zero_point]
        inputs = [node.input[0], *turned, *node.input[3:]]
        inputs += [""] * (8 - len(inputs))
        attrs = {k: v for k, v in attributes(node).items() if k != "layout"}
        draft.need_domain("com.microsoft")
        made = draft.node(
            "DynamicQuantizeLSTM", [*inputs, *parts], list(node.output), "com.microsoft", **attrs
        )
        made.name = node.name or made.name
        self._made.append(made)
        return True

    def _product(
        self,
        node: onnx.NodeProto,
        op: str,
        w: Array,
        axis: int,
        column: tuple[int, ...],
        bias: Array | None,
        attrs: dict[str, Any],
    ) -> None:
        draft, made = self._draft, self._made
        x, x_scale, x_zero_point = self._quantized_input(node.input[0])
        stored, scale, zero_point = self._weight(node.input[1], w, axis, column)
        out = node.output[0]
        sums, real, factor = (draft.fresh(f"{out}_{part}") for part in ("sums", "real", "factor"))
        integer = draft.node(op, [x, stored, x_zero_point, zero_point], [sums], **attrs)
        integer.name = node.name or integer.name
        made.append(integer)
        made.append(draft.node("Cast", [sums], [real], to=onnx.TensorProto.FLOAT))
        made.append(draft.node("Mul", [x_scale, scale], [factor]))
        scaled = out if bias is None else draft.fresh(f"{out}_scaled")
        made.append(draft.node("Mul", [real, factor], [scaled]))
        if bias is not None:
            made.append(draft.node("Add", [scaled, draft.constant(f"{out}_bias", bias)], [out]))

    def _quantized_input(self, name: str) -> Quantized:
        if name not in self._inputs:
            a, b, c = (self._draft.fresh(f"{name}_{p}") for p in ("codes", "scale", "zero_point"))
            self._made.append(self._draft.node("DynamicQuantizeLinear", [name], [a, b, c]))
            self._inputs[name] = a, b, c
        return self._inputs[name]

    def _weight(self, name: str, w: Array, axis: int, column: tuple[int, ...]) -> Quantized:
        key = (name, axis)
        if key not in self._weights:
            q = self._grid(w, axis if self._per_channel else None)
            scale = q.scale.reshape(column) if q.scale.ndim else q.scale
            self._weights[key] = self._names(name, w, q, scale, per_tensor_zero=True), q
        return self._weights[key][0]

    def _stored(self, name: str, w: Array, axis: int) -> Quantized:
        """Weights with a scale and zero point per index of `axis`, as DynamicQuantizeLSTM has."""
        q = self._grid(w, axis)
        return self._names(name, w, q, q.scale, per_tensor_zero=False)

    def _grid(self, w: Array, axis: int | None) -> QParams:
        if self._signed:
            return choose_qparams(w, axis=axis, signed=True, symmetric=True, narrow=True)
        if axis is None:
            return choose_qparams(w)
        # the middle for all: a ConvInteger has one zero point for its weights
        symmetric = choose_qparams(w, axis=axis, signed=True, symmetric=True, narrow=True)
        middle = np.full(symmetric.scale.shape, 128, np.uint8)
        return QParams(symmetric.scale, middle, middle.dtype, axis)

    def _names(
        self, name: str, w: Array, q: QParams, scale: Array, *, per_tensor_zero: bool
    ) -> Quantized:
        draft = self._draft
        zero = q.zero_point
        if per_tensor_zero and zero.ndim:  # they are all the same
            zero = zero.reshape(-1)[0].reshape(())
        return (
            draft.constant(f"{name}_quantized", quantize(np.ascontiguousarray(w), q)),
            draft.constant(f"{name}_scale", scale),
            draft.constant(f"{name}_zero_point", zero),
        )


_REWRITES: dict[str, Callable[[_Rewrite, onnx.NodeProto, Array], bool]] = {
    "Conv": _Rewrite._conv,
    "Gemm": _Rewrite._gemm,
    "MatMul": _Rewrite._matmul,
    "LSTM": _Rewrite._lstm,
}
