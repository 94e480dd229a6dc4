"""Dynamic quantization: 8-bit weights, activations quantized by their own range at every run.

x @ w + b = float32(sums) * (x_scale * w_scale) + b, with sums by MatMulInteger or ConvInteger of
DynamicQuantizeLinear(x); one DynamicQuantizeLinear for all that read x. LSTM becomes
com.microsoft DynamicQuantizeLSTM. Where there are data, weights of products are rounded by what
they multiply behind all that is quantized before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.ptq.backends import PRODUCTS
from qrt.ptq.calibrate import Runner
from qrt.ptq.config import ROUNDINGS
from qrt.ptq.draft import Draft, Model, attributes, halves_hint
from qrt.ptq.prepare import prepare
from qrt.ptq.product import (
    bias_of,
    clamp_behind,
    from_rows,
    give_bias,
    outputs_first,
    product_of,
)
from qrt.ptq.rounding import BY_DATA
from qrt.ptq.rows import Rows
from qrt.ptq.samples import Samples
from qrt.quant.affine import Array, quantize
from qrt.quant.choose import choose_qparams

OPSET = 11  # DynamicQuantizeLinear
WEIGHT_DTYPES = ("int8", "uint8")
NEAREST, WITH_DATA = "nearest", "gptq"  # roundings where none is named
Quantized = tuple[str, str, str]  # names of integers, scale and zero point


def quantize_dynamic(
    model: Model,
    op_types: Sequence[str],
    weight_dtype: str,
    per_channel: bool,
    rounding: str | None,
    data: Any,
    runner: Runner,
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
    if rounding is None:
        rounding = NEAREST if data is None else WITH_DATA
    if rounding not in ROUNDINGS:
        raise QuantizationError(f"rounding is one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    if (rounding in BY_DATA) != (data is not None):
        need = "needs calibration_data" if rounding in BY_DATA else "takes no calibration_data"
        raise QuantizationError(f"rounding {rounding} {need}")
    draft = prepare(model)
    draft.need_opset(OPSET)
    rewrite = _Rewrite(draft, weight_dtype == "int8", per_channel)
    if data is not None:
        rewrite.round_by(rounding, Samples(data, draft.inputs, keep=True), runner)
    return rewrite.model(op_types)


class _Rewrite:
    """One walk over the nodes."""

    def __init__(self, draft: Draft, signed: bool, per_channel: bool) -> None:
        self._draft = draft
        self._signed = signed
        self._per_channel = per_channel
        self._floats = draft.floats()
        self._inputs: dict[str, Quantized] = {}
        self._weights: dict[tuple[str, bool], Quantized] = {}
        self._made: list[onnx.NodeProto] = []
        self._consumers = draft.consumers()
        self._rounding = NEAREST
        self._rows: Rows | None = None

    def round_by(self, rounding: str, samples: Samples, runner: Runner) -> None:
        """Round the weights of products so, by what they multiply on `samples`."""
        products = [
            node
            for node in self._draft.nodes
            if node.op_type in PRODUCTS and node.input[1] in self._draft.arrays
        ]
        self._rounding = rounding
        self._rows = Rows(self._draft, products, samples, runner)

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
        if not self._has_known_bias(node):
            return False
        column = (1, -1, *(1,) * (w.ndim - 2))
        self._product(node, "ConvInteger", w, column, attributes(node))
        return True

    def _matmul(self, node: onnx.NodeProto, w: Array) -> bool:
        self._product(node, "MatMulInteger", w, (-1,), {})
        return True

    def _gemm(self, node: onnx.NodeProto, w: Array) -> bool:
        attrs = attributes(node)
        plain = attrs.get("alpha", 1.0) == 1.0 and not attrs.get("transA", 0)
        if not plain or not self._has_known_bias(node):
            return False
        self._product(node, "MatMulInteger", w, (-1,), {})
        return True

    def _has_known_bias(self, node: onnx.NodeProto) -> bool:
        """True for a constant one, or none."""
        return len(node.input) < 3 or not node.input[2] or node.input[2] in self._draft.arrays

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
        column: tuple[int, ...],
        attrs: dict[str, Any],
    ) -> None:
        draft, made = self._draft, self._made
        stored, scale, zero_point = self._weight(node, w, column)
        x, x_scale, x_zero_point = self._quantized_input(node.input[0])
        out = node.output[0]
        sums, real, factor = (draft.fresh(f"{out}_{part}") for part in ("sums", "real", "factor"))
        integer = draft.node(op, [x, stored, x_zero_point, zero_point], [sums], **attrs)
        integer.name = node.name or integer.name
        made.append(integer)
        made.append(draft.node("Cast", [sums], [real], to=onnx.TensorProto.FLOAT))
        made.append(draft.node("Mul", [x_scale, scale], [factor]))
        bias = draft.arrays.get(node.input[2]) if len(node.input) > 2 else None
        scaled = out if bias is None else draft.fresh(f"{out}_scaled")
        made.append(draft.node("Mul", [real, factor], [scaled]))
        if bias is not None:
            bias = bias * np.float32(attributes(node).get("beta", 1.0))
            shaped = bias.reshape(column) if op == "ConvInteger" else bias
            made.append(draft.node("Add", [scaled, draft.constant(f"{out}_bias", shaped)], [out]))

    def _quantized_input(self, name: str) -> Quantized:
        if name not in self._inputs:
            a, b, c = (self._draft.fresh(f"{name}_{p}") for p in ("codes", "scale", "zero_point"))
            self._made.append(self._draft.node("DynamicQuantizeLinear", [name], [a, b, c]))
            self._inputs[name] = a, b, c
        return self._inputs[name]

    def _weight(self, node: onnx.NodeProto, w: Array, column: tuple[int, ...]) -> Quantized:
        """Weights as ConvInteger and MatMulInteger read them, rounded by data where there are any;
        the node's bias then makes up for what is left."""
        key = (node.input[1], outputs_first(node))
        if key not in self._weights:
            axis = 0 if outputs_first(node) else w.ndim - 1
            q = self._grid(w, axis if self._per_channel else None)
            codes = quantize(w, q)
            seen = None
            if self._rows is not None:
                seen = self._rows.seen(self._draft, self._made, node, node.input[0])
            if seen is not None:
                clamp = clamp_behind(self._draft, self._consumers, node)
                bias = bias_of(self._draft, node, w.shape[axis])
                product = product_of(node, w, q, bias, seen, clamp)
                rounded, moved = BY_DATA[self._rounding](product)
                codes = from_rows(node, rounded, w.shape).astype(q.dtype)
                if product.free:
                    give_bias(self._draft, node, moved)
            if node.op_type == "Gemm" and outputs_first(node):
                codes = codes.T
            scale = q.scale.reshape(column) if q.scale.ndim else q.scale
            self._weights[key] = self._names(node.input[1], codes, q, scale, per_tensor_zero=True)
        return self._weights[key]

    def _stored(self, name: str, w: Array, axis: int) -> Quantized:
        """Weights with a scale and zero point per index of `axis`, as DynamicQuantizeLSTM has."""
        q = self._grid(w, axis)
        codes = quantize(np.ascontiguousarray(w), q)
        return self._names(name, codes, q, q.scale, per_tensor_zero=False)

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
        self, name: str, codes: Array, q: QParams, scale: Array, *, per_tensor_zero: bool
    ) -> Quantized:
        draft = self._draft
        zero = q.zero_point
        if per_tensor_zero and zero.ndim:  # they are all the same
            zero = zero.reshape(-1)[0].reshape(())
        return (
            draft.constant(f"{name}_quantized", np.ascontiguousarray(codes)),
            draft.constant(f"{name}_scale", scale),
            draft.constant(f"{name}_zero_point", zero),
        )


_REWRITES: dict[str, Callable[[_Rewrite, onnx.NodeProto, Array], bool]] = {
    "Conv": _Rewrite._conv,
    "Gemm": _Rewrite._gemm,
    "MatMul": _Rewrite._matmul,
    "LSTM": _Rewrite._lstm,
}
