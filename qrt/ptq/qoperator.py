"""The QOperator form of a QDQ model: DequantizeLinear -> op -> QuantizeLinear as one operator.

The table of operators is the one by which qrt reads that form (`passes/spellings.py`), the other
way round. What has no such operator stays as it is, between its DequantizeLinear and
QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.loader.qoperators import MS, QOPERATORS
from qrt.passes.spellings import SPELLINGS, Spelling
from qrt.ptq.backends import CLAMPS, MOVEMENT
from qrt.ptq.draft import Draft, Model, attributes
from qrt.quant.affine import Array, quantize

FORMS = ("qdq", "qoperator")
# declared by ONNX Runtime, but run by none of its providers for CPUs
_NOT_RUN = ("QLinearReduceMean",)
# float operator: (domain, its integer form)
TARGETS: dict[str, tuple[str, str]] = {
    spelling.op: ("" if ("", name) in QOPERATORS else MS, name)
    for name, spelling in SPELLINGS.items()
    if name not in _NOT_RUN
}
# ONNX's own operators that take 8-bit integers as they are, in ONNX Runtime, too
ON_CODES = tuple(op for op in MOVEMENT if op != "GlobalMaxPool")
OPSET = 13  # from which they do
NARROW = (np.dtype(np.int8), np.dtype(np.uint8))
_SAME = 1e-6  # relative: a bias is in steps of x_scale * w_scale, however that was rounded


@dataclass(frozen=True)
class Codes:
    """Names of integers, their scale and zero point; `axis` as DequantizeLinear has it."""

    codes: str
    scale: str
    zero_point: str
    axis: int | None

    @property
    def names(self) -> tuple[str, str, str]:
        """As a QLinear operator lists them."""
        return self.codes, self.scale, self.zero_point


def check_form(form: str) -> None:
    """Raise QuantizationError for a form that is none."""
    if form not in FORMS:
        raise QuantizationError(f"form is one of {', '.join(FORMS)}, got {form!r}")


def in_form(model: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """`model` (QDQ) in one of `FORMS`."""
    return model if form == "qdq" else to_qoperator(model)


def to_qoperator(model: Model) -> onnx.ModelProto:
    """`model` (QDQ) with QLinear operators of ONNX and com.microsoft wherever there is one."""
    draft = Draft.of(model)
    return _Rewrite(draft).model()


class _Rewrite:
    """One walk over the nodes."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._consumers = draft.consumers()
        self._lasting = draft.outputs | draft.captured()  # read by more than nodes
        self._real: dict[str, Codes] = {}
        self._gone: set[int] = set()  # ids of nodes that others took in

    def model(self) -> onnx.ModelProto:
        """The rewritten model."""
        draft = self._draft
        made: list[onnx.NodeProto] = []
        for node in draft.nodes:
            if id(node) in self._gone:
                continue
            if node.op_type == "DequantizeLinear":
                self._remember(node)
            made += self._rewritten(node) or [node]
        draft.nodes = made
        drop_unread(draft)
        return draft.model()

    def _remember(self, node: onnx.NodeProto) -> None:
        attrs = attributes(node)
        arrays = [self._draft.arrays.get(name) for name in node.input[1:3]]
        if len(arrays) < 2 or any(a is None for a in arrays) or attrs.get("block_size", 0):
            return
        axis = attrs.get("axis", 1) if arrays[0].size > 1 else None  # type: ignore[union-attr]
        codes, scale, zero_point = node.input[:3]
        self._real[node.output[0]] = Codes(codes, scale, zero_point, axis)

    def _rewritten(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if node.domain not in ("", "ai.onnx") or self._draft.opset() < OPSET:
            return None
        if node.op_type in ON_CODES:
            return self._moved(node)
        if node.op_type in CLAMPS:
            return self._clamped(node)
        if node.op_type in TARGETS:
            return self._spelled(node)
        return None

    def _moved(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Integers move as reals do."""
        x = self._narrow(node.input[0])
        ends = [self._quantizer(name) for name in node.output if name]
        if x is None or x.axis is not None or any(
            end is None or not self._same_grid(x, end) for end in ends
        ):  # fmt: skip
            return None
        node.input[0] = x.codes
        found = iter(ends)
        node.output[:] = [self._taken(next(found)) if name else "" for name in node.output]
        return [node]

    def _clamped(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """A clamp by itself, on one grid."""
        x, end = self._narrow(node.input[0]), self._quantizer(node.output[0])
        if x is None or end is None or x.axis is not None or not self._same_grid(x, end):
            return None
        limits = self._limits(node, end)
        if limits is None:
            return None
        return [self._clip(x.codes, self._taken(end), limits, end)]

    def _spelled(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        domain, name = TARGETS[node.op_type]
        spelling = SPELLINGS[name]
        operands = self._operands(node, spelling)
        attrs = self._attributes(node)
        if operands is None or attrs is None:
            return None
        bias = self._bias(node, spelling, operands)
        if bias is None:
            return None
        clamp, end = self._end(node)
        rule = QOPERATORS[domain, name]
        if end is None:
            if name != "QGemm" or len(self._consumers.get(node.output[0], ())) > 1:
                return None  # only that one has a form whose result is real
            inputs = self._inputs(spelling, operands, bias)
            return [self._named(name, domain, inputs, node.output[0], attrs, node)]
        limits = self._limits(clamp, end) if clamp is not None else None
        if clamp is not None and limits is None:
            return None
        y = self._draft.arrays[end.input[2]].dtype
        if rule.one_type and any(self._dtype(x) != y for x in operands):
            return None
        inputs = self._inputs(spelling, operands, bias, tuple(end.input[1:3]))
        if clamp is not None:
            self._gone.add(id(clamp))
        out = self._taken(end)
        whole = limits is None or limits == (np.iinfo(y).min, np.iinfo(y).max)
        sums = out if whole else self._draft.fresh(f"{out}_unclamped")
        made = [self._named(name, domain, inputs, sums, attrs, node)]
        if limits is not None and not whole:
            made.append(self._clip(sums, out, limits, end))
        return made

    def _operands(self, node: onnx.NodeProto, spelling: Spelling) -> list[Codes] | None:
        """The quantized inputs, where each has parameters as the operator takes them."""
        axes = [axis for _, axis in spelling.operands] or [None] * len(node.input)
        if node.op_type == "Gemm" and attributes(node).get("transB", 0):
            axes[1] = 0
        found = []
        for name, axis in zip(node.input, axes, strict=False):
            x = self._narrow(name)
            if x is None:
                return None
            if x.axis is not None:
                rank = self._draft.arrays[x.codes].ndim if x.codes in self._draft.arrays else 0
                if axis is None or not rank or x.axis % rank != axis % rank:
                    return None
            found.append(x)
        return found

    def _bias(
        self, node: onnx.NodeProto, spelling: Spelling, operands: Sequence[Codes]
    ) -> str | None:
        """The name of the int32 sums to start from; "" for none, None where they are no such."""
        if spelling.bias is None or len(node.input) < 3 or not node.input[2]:
            return ""
        bias, arrays = self._real.get(node.input[2]), self._draft.arrays
        if bias is None or bias.codes not in arrays or arrays[bias.codes].dtype != np.int32:
            return None
        x, w = (arrays[operand.scale].astype(np.float64) for operand in operands)
        scale = arrays[bias.scale]
        if arrays[bias.zero_point].any() or not np.allclose(scale, x * w, rtol=_SAME, atol=0):
            return None
        return bias.codes

    @staticmethod
    def _inputs(
        spelling: Spelling, operands: Sequence[Codes], bias: str, y: tuple[str, ...] = ()
    ) -> list[str]:
        """Every name at its place."""
        places = [i for i, _ in spelling.operands] or range(2, 2 + 3 * len(operands), 3)
        named = {i + j: name for i, x in zip(places, operands, strict=True)
                 for j, name in enumerate(x.names)}  # fmt: skip
        named |= {spelling.y + i: name for i, name in enumerate(y)}
        if spelling.bias is not None and bias:
            named[spelling.bias] = bias
        return [named.get(i, "") for i in range(max(named) + 1)]

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any] | None:
        """As the integer form has them; None where it lacks one."""
        attrs = attributes(node)
        if node.op_type == "Gemm" and attrs.pop("beta", 1.0) != 1.0:
            return None
        if node.op_type == "AveragePool" and any(d != 1 for d in attrs.pop("dilations", ())):
            return None
        if node.op_type == "Softmax":
            attrs = {"axis": -1, "opset": self._draft.opset(), **attrs}
        return attrs

    def _end(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto | None, onnx.NodeProto | None]:
        """The clamp that alone reads the result, if any, and the QuantizeLinear behind it."""
        out = node.output[0]
        users = self._consumers.get(out, [])
        if len(users) == 1 and users[0].op_type in CLAMPS and out not in self._lasting:
            return users[0], self._quantizer(users[0].output[0])
        return None, self._quantizer(out)

    def _quantizer(self, name: str) -> onnx.NodeProto | None:
        """The QuantizeLinear to 8 bits that alone reads a tensor."""
        users = self._consumers.get(name, [])
        if len(users) != 1 or name in self._lasting:
            return None
        end = users[0]
        if end.op_type != "QuantizeLinear" or len(end.input) < 3 or end.input[0] != name:
            return None
        scale, zero_point = (self._draft.arrays.get(n) for n in end.input[1:3])
        if scale is None or zero_point is None or scale.size != 1:
            return None
        return end if zero_point.dtype in NARROW else None

    def _narrow(self, name: str) -> Codes | None:
        x = self._real.get(name)
        return x if x is not None and self._dtype(x) in NARROW else None

    def _dtype(self, x: Codes) -> np.dtype[Any]:
        zero_point: Array = self._draft.arrays[x.zero_point]
        return np.dtype(zero_point.dtype)

    def _same_grid(self, x: Codes, end: onnx.NodeProto) -> bool:
        arrays = self._draft.arrays
        return all(
            arrays[a].dtype == arrays[b].dtype and arrays[a].reshape(()) == arrays[b].reshape(())
            for a, b in zip(x.names[1:], end.input[1:3], strict=True)
        )

    def _limits(self, clamp: onnx.NodeProto, end: onnx.NodeProto) -> tuple[int, int] | None:
        """Codes between which a clamp keeps; None where its limits are not constant.

        Rounding is monotone: quantize(clip(x, low, high)) = clip(quantize(x), quantize(low),
        quantize(high)).
        """
        arrays = self._draft.arrays
        scale, zero_point = (arrays[name].reshape(()) for name in end.input[1:3])
        low, high = -np.inf, np.inf
        if clamp.op_type == "Relu":
            low = 0.0
        else:
            names = [*clamp.input[1:3], "", ""][:2]
            if any(name and name not in arrays for name in names):
                return None
            low, high = (
                float(arrays[name].reshape(())) if name else other
                for name, other in zip(names, (low, high), strict=True)
            )
        grid = QParams(scale, zero_point, zero_point.dtype)
        bounds = np.iinfo(zero_point.dtype)
        ends = [
            int(quantize(np.array(value, np.float32), grid)) if np.isfinite(value) else other
            for value, other in ((low, bounds.min), (high, bounds.max))
        ]
        return ends[0], ends[1]

    def _clip(
        self, x: str, out: str, limits: tuple[int, int], end: onnx.NodeProto
    ) -> onnx.NodeProto:
        dtype = self._draft.arrays[end.input[2]].dtype
        low, high = (
            self._draft.constant(f"{out}_{which}", np.array(value, dtype))
            for which, value in zip(("least", "most"), limits, strict=True)
        )
        return self._draft.node("Clip", [x, low, high], [out])

    def _taken(self, end: onnx.NodeProto | None) -> str:
        """The integers that `end` made, which something else makes from now on."""
        assert end is not None
        self._gone.add(id(end))
        return str(end.output[0])

    def _named(
        self,
        op: str,
        domain: str,
        inputs: Sequence[str],
        out: str,
        attrs: dict[str, Any],
        node: onnx.NodeProto,
    ) -> onnx.NodeProto:
        """The operator in place of `node`, under its name."""
        made = self._draft.node(op, inputs, [out], domain, **attrs)
        made.name = node.name or made.name
        if domain:
            self._draft.need_domain(domain)
        return made


def drop_unread(draft: Draft) -> None:
    """Leave out nodes whose results nothing reads."""
    kept = draft.nodes
    while True:
        read = {name for node in draft.every(kept) for name in node.input} | draft.outputs
        found = [node for node in kept if read.intersection(node.output)]
        if len(found) == len(kept):
            break
        kept = found
    draft.nodes = kept
