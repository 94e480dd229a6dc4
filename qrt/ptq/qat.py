"""Import of models trained with quantization: QDQ with scales that were learned.

Frameworks leave weights as float32 behind QuantizeLinear and DequantizeLinear, biases as float32,
and pairs wherever training rounded. Here the pairs come off, their scales are noted, and the same
writer as for static quantization puts them back, bit for bit: weights as integers, biases as int32.
Nothing else is rounded that training did not round, unless data are given: then the ranges of what
has no scale are seen on them, as in static quantization.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from qrt.errors import ModelError, QuantizationError
from qrt.ir import QParams
from qrt.ptq.backends import PRODUCTS
from qrt.ptq.calibrate import Runner, observe
from qrt.ptq.config import Grid, QuantConfig
from qrt.ptq.draft import Draft, Model, attributes
from qrt.ptq.plan import Plan, make_plan
from qrt.ptq.prepare import constants_to_arrays, drop_identities
from qrt.ptq.qoperator import check_form, drop_unread, in_form
from qrt.ptq.samples import Samples
from qrt.ptq.static import activation_qparams, insert
from qrt.quant.affine import dequantize, make_qparams, quantize

INTEGERS = tuple(np.dtype(t) for t in (np.uint8, np.int8, np.uint16, np.int16))
_BIAS = np.dtype(np.int32)


def import_qat(
    model: Model,
    data: Any,
    runner: Runner,
    progress: Callable[[int], None] = lambda done: None,
    form: str = "qdq",
) -> onnx.ModelProto:
    """`model` with its own scales, its weights integers; see the module.

    Raises ModelError when it has no scales. Warns when activations between quantized operators have
    none and there are no data.
    """
    check_form(form)
    draft = Draft.of(model)
    constants_to_arrays(draft)
    drop_identities(draft)
    known = strip_pairs(draft)
    if not known:
        raise ModelError(
            "the model has no scales to import: no QuantizeLinear and DequantizeLinear around"
            " tensors with constant scales; quantize it with another recipe"
        )
    given = _given(draft)
    plan = _plan(draft, known, given, complete=data is not None)
    observers = {}
    if data is not None and plan.observers():
        samples = Samples(data, draft.inputs)
        observers = observe(draft, plan.observers(), samples, runner, progress)
    qparams = activation_qparams(plan, observers) | given
    made = Draft(insert(draft, plan, QuantConfig(), qparams))
    drop_identities(made)
    return in_form(made.model(), form)


def strip_pairs(draft: Draft) -> dict[str, QParams]:
    """Take pairs with constant scales out of `draft`, which is float then; their scales by tensor.

    A tensor with two different pairs keeps the second, and pairs of per-channel activations, blocks
    and other types stay, too.
    """
    return _Strip(draft).known_scales()


class _Strip:
    """One walk over the nodes."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._producers, self._consumers = draft.producers(), draft.consumers()
        self._known: dict[str, QParams] = {}
        self._renamed: dict[str, str] = {}  # what came through a pair: what went in
        self._captured = draft.captured()
        self._apart: dict[str, str] = {}
        self._kept: list[onnx.NodeProto] = []

    def known_scales(self) -> dict[str, QParams]:
        """See `strip_pairs`."""
        for node in self._draft.nodes:
            for i, name in enumerate(node.input):
                node.input[i] = self._renamed.get(name, name)
            if not (self._is_turned_constant(node) or self._is_stripped(node)):
                self._kept.append(node)
        self._draft.nodes = self._kept
        self._name_outputs()
        drop_unread(self._draft)
        return self._known

    def _is_turned_constant(self, node: onnx.NodeProto) -> bool:
        arrays = self._draft.arrays
        if node.op_type != "Transpose" or node.input[0] not in arrays:
            return False
        name, out = node.input[0], node.output[0]
        perm = list(attributes(node).get("perm", range(arrays[name].ndim)[::-1]))
        arrays[out] = np.ascontiguousarray(arrays[name].transpose(perm))
        if name in self._known:
            q = self._known[name]
            self._known[out] = q if q.axis is None else replace(q, axis=perm.index(q.axis))
        return True

    def _is_stripped(self, node: onnx.NodeProto) -> bool:
        """True for a DequantizeLinear that is not needed once its scale is noted."""
        arrays, out = self._draft.arrays, node.output[0]
        q = _grid(self._draft, node) if node.op_type == "DequantizeLinear" else None
        if q is None:
            return False
        if node.input[0] in arrays:
            arrays[out] = dequantize(arrays[node.input[0]], q)
            if q.dtype != _BIAS:
                self._known[out] = q
            return True
        maker, clip = self._producers.get(node.input[0]), None
        if maker is not None and maker.op_type == "Clip":  # fewer integers, as some frameworks have
            maker, clip = self._producers.get(maker.input[0]), maker
        if maker is None or maker.op_type != "QuantizeLinear" or q.dtype == _BIAS:
            return False
        before = _grid(self._draft, maker)
        if before is None or not q.same_as(before):
            return False
        if maker.input[0] in arrays:
            return self._is_weight(maker.input[0], clip, q, out)
        return clip is None and q.axis is None and self._is_activation(maker, q, out)

    def _is_weight(self, name: str, clip: onnx.NodeProto | None, q: QParams, out: str) -> bool:
        arrays = self._draft.arrays
        codes = quantize(arrays[name], q)
        if clip is not None:
            low, high = (arrays.get(limit) for limit in [*clip.input[1:3], "", ""][:2])
            if low is None or high is None:
                return False
            codes = np.clip(codes, low, high)
        arrays[out], self._known[out] = dequantize(codes, q), q
        return True

    def _is_activation(self, maker: onnx.NodeProto, q: QParams, out: str) -> bool:
        x, outputs = maker.input[0], self._draft.outputs
        if out in self._captured:
            return False
        readers = self._consumers.get(maker.output[0], [])
        if (
            any(reader.op_type != "DequantizeLinear" for reader in readers)
            or maker.output[0] in outputs
            or (x in self._known and not self._known[x].same_as(q))
            or (out in outputs and x not in self._producers)
        ):
            return False
        users = self._consumers.get(x, ())
        if x in outputs or not all(self._rounds_to(user, q) for user in users):
            x = self._rounded(x, maker)  # others read it as it is
        self._known[x], self._renamed[out] = q, x
        return True

    def _rounds_to(self, node: onnx.NodeProto, q: QParams) -> bool:
        grid = _grid(self._draft, node) if node.op_type == "QuantizeLinear" else None
        return grid is not None and grid.same_as(q)

    def _rounded(self, x: str, maker: onnx.NodeProto) -> str:
        """A name of its own for what `maker` rounds, by an Identity in front of it."""
        if maker.output[0] not in self._apart:
            out = self._apart[maker.output[0]] = self._draft.fresh(f"{x}_rounded")
            self._kept.append(self._draft.node("Identity", [x], [out]))
        return self._apart[maker.output[0]]

    def _name_outputs(self) -> None:
        """Outputs of the graph that came through a pair keep their names."""
        renamed = self._renamed
        back = {renamed[name]: name for name in self._draft.outputs if name in renamed}
        for node in self._draft.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = back.get(name, name)
        for name, out in back.items():
            self._known[out] = self._known.pop(name)


def _grid(draft: Draft, node: onnx.NodeProto) -> QParams | None:
    """The constant integer grid of a QuantizeLinear or DequantizeLinear."""
    arrays, attrs = draft.arrays, attributes(node)
    scale = arrays.get(node.input[1])
    has_zero = len(node.input) > 2 and bool(node.input[2])
    zero_point = arrays.get(node.input[2]) if has_zero else None
    if scale is None or (has_zero and zero_point is None) or attrs.get("block_size", 0):
        return None
    if zero_point is not None:
        dtype = zero_point.dtype
    elif node.op_type == "DequantizeLinear" and node.input[0] in arrays:
        dtype = arrays[node.input[0]].dtype
    else:
        dtype = np.dtype(np.uint8)
    if dtype not in (*INTEGERS, _BIAS) or attrs.get("output_dtype", 0):
        return None
    try:
        q = make_qparams(scale, zero_point, dtype, attrs.get("axis", 1))
    except QuantizationError:
        return None
    if q.axis is not None and q.axis < 0 and node.input[0] in arrays:
        q = replace(q, axis=q.axis + arrays[node.input[0]].ndim)
    return q


def _given(draft: Draft) -> dict[str, QParams]:
    """Grids of what a DequantizeLinear that stays gives: of inputs that are integers, for one."""
    found = {}
    for node in draft.nodes:
        q = _grid(draft, node) if node.op_type == "DequantizeLinear" else None
        if q is not None and q.axis is None and q.dtype != _BIAS:
            found[node.output[0]] = q
    return found


def _plan(
    draft: Draft, known: dict[str, QParams], given: dict[str, QParams], complete: bool
) -> Plan:
    """Where pairs go: where they were, and, to `complete`, around all that runs in integers."""
    plan = make_plan(draft, QuantConfig())
    plan.known = known
    arrays, consumers = draft.arrays, draft.consumers()
    for name in given:
        plan.grids.pop(name, None)
    for name, q in known.items():
        if name not in arrays:
            plan.grids[name] = Grid(8 * q.dtype.itemsize, q.dtype.kind == "i")
            plan.shared.pop(name, None)
            plan.bounded.pop(name, None)
    for node in plan.nodes:
        y = node.output[0]
        if node.op_type == "Relu" and node.input[0] in known and y in plan.grids and y not in known:
            plan.shared[y] = node.input[0]  # exact: 0 is on every grid
    # training rounded the sum of a product and its bias, not the product
    for node in plan.nodes:
        users = consumers.get(node.output[0], [])
        inner = node.op_type in PRODUCTS and node.output[0] not in known and len(users) == 1
        if inner and users[0].op_type == "Add" and users[0].output[0] in known:
            for name in (node.output[0], *(n for n in users[0].input if n in arrays)):
                plan.grids.pop(name, None)
    wanted = set(plan.observers()) | set(plan.bounded)
    if not complete:
        plan.grids = {name: g for name, g in plan.grids.items() if plan.source(name) in known}
        plan.shared = {a: b for a, b in plan.shared.items() if a in plan.grids}
        plan.bounded = {}
        if wanted - set(arrays):
            warnings.warn(
                f"{len(wanted - set(arrays))} activations between quantized operators have no scale"
                f" and stay float32, '{min(wanted - set(arrays))}' among them: calibration data"
                " would give them one",
                stacklevel=4,
            )
    plan.nodes = [
        node
        for node in plan.nodes
        if node.op_type not in PRODUCTS
        or (
            node.input[0] in plan.grids.keys() | given.keys()
            and (complete or node.input[1] in known or node.input[1] not in arrays)
        )
    ]
    integer = {id(node) for node in plan.nodes if node.op_type in PRODUCTS}
    for name in known:
        if name in arrays and any(id(user) not in integer for user in consumers.get(name, ())):
            plan.grids[name] = Grid()
    return plan


__all__ = ["import_qat", "strip_pairs"]
