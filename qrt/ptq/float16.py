"""float16: half the bytes, without scales.

"weights" stores constants as float16 behind a Cast and computes in float32 as before: what a CPU
wants. "full" computes in float16, too: what accelerators want. There an operator becomes float16
where ONNX's schema has it, and Casts stand wherever one that stays float32 meets one that does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs

from qrt.errors import QuantizationError, UnsupportedError
from qrt.ptq.draft import Draft, Model, label
from qrt.ptq.prepare import constants_to_arrays
from qrt.quant.affine import Array

FORMS = ("weights", "full")
LARGEST = float(np.finfo(np.float16).max)
# their results leave float16's range, or its digits, early
KEPT = (
    "CumSum", "DequantizeLinear", "DynamicQuantizeLinear", "Exp", "Pow", "QuantizeLinear", "Range",
    "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_SCALES = ("QuantizeLinear", "DequantizeLinear")


def to_float16(model: Model, form: str, keep_io: bool, keep: Sequence[str]) -> onnx.ModelProto:
    """See `qrt.to_float16`."""
    if form not in FORMS:
        raise QuantizationError(f"form is one of {', '.join(FORMS)}, got {form!r}")
    draft = Draft.of(model)
    constants_to_arrays(draft)
    for name in keep:
        if not any(_matches(node, name) for node in draft.nodes):
            raise QuantizationError(f"keep names '{name}': no operator or node of the model is so")
    return _store(draft, keep) if form == "weights" else _Half(draft, keep, keep_io).model()


def halved(name: str, array: Array) -> Array:
    """float16 of a constant. Values beyond its range become the largest it has, with a warning.

    Raises QuantizationError for NaN, which says nothing.
    """
    if np.isnan(array).any():
        raise QuantizationError(f"tensor '{name}' has {int(np.isnan(array).sum())} NaN")
    beyond = np.isfinite(array) & (np.abs(array) > LARGEST)
    if beyond.any():
        warnings.warn(
            f"{int(beyond.sum())} of {array.size} values of '{name}' lie beyond float16 and become"
            f" {LARGEST:.0f} or -{LARGEST:.0f}",
            stacklevel=4,
        )
        array = np.where(beyond, np.sign(array) * np.float32(LARGEST), array)
    return array.astype(np.float16)


def _matches(node: onnx.NodeProto, name: str) -> bool:
    return node.op_type == name or fnmatchcase(node.name, name)


def _is_kept(node: onnx.NodeProto, keep: Sequence[str]) -> bool:
    return any(_matches(node, name) for name in keep)


def _store(draft: Draft, keep: Sequence[str]) -> onnx.ModelProto:
    """Constants as float16 behind a Cast that has their name."""
    exact = {
        name for node in draft.nodes for name in node.input
        if node.op_type in _SCALES or _is_kept(node, keep)
    }  # fmt: skip
    casts, inputs = [], draft.inputs
    for name, array in list(draft.arrays.items()):
        # single numbers are exact at no cost
        if array.dtype == np.float32 and array.size > 1 and name not in exact | draft.outputs:
            del draft.arrays[name]
            stored = draft.constant(f"{name}_float16", halved(name, array))
            casts.append(draft.node("Cast", [stored], [name], to=TensorProto.FLOAT))
    if not casts:
        raise QuantizationError("nothing to convert: the model has no float32 constants")
    del draft.graph.input[:]  # old models list constants there, too
    draft.graph.input.extend(inputs)
    draft.nodes = [*casts, *draft.nodes]
    return draft.model()


class _Half:
    """One walk over the nodes. A tensor keeps its name for the form that is float32, except at the
    ends of a graph whose ends become float16."""

    def __init__(self, draft: Draft, keep: Sequence[str], keep_io: bool) -> None:
        self._draft, self._keep = draft, (*KEPT, *keep)
        self._floats = draft.floats()
        self._half: dict[str, str] = {}  # tensor: its float16 form
        self._float: dict[str, str] = {}  # tensor: its float32 form
        self._made: list[onnx.NodeProto] = []
        ends = set() if keep_io else draft.outputs | {value.name for value in draft.inputs}
        self._ends = ends & self._floats

    def model(self) -> onnx.ModelProto:
        """The rewritten model."""
        draft = self._draft
        for value in draft.inputs:
            if value.name in self._ends:
                self._half[value.name] = value.name
        count = 0
        for node in draft.nodes:
            half = self._half_places(node)
            count += half is not None
            ins, outs = half or ((), ())
            captured = {n for inner in draft.every([node]) for n in inner.input} - {*node.input}
            for name in captured & self._floats:
                if self._as_float(name) != name:
                    raise UnsupportedError(
                        f"{label(node)} reads '{name}' in a subgraph, an end of the graph that is"
                        " to become float16: use keep_io=True"
                    )
            for i, name in enumerate(node.input):
                if name in self._floats:
                    node.input[i] = self._as_half(name) if i in ins else self._as_float(name)
            self._made.append(node)
            for i, name in enumerate(node.output):
                if name in self._floats:
                    node.output[i] = self._produced(name, i in outs)
        if not count:
            raise QuantizationError("nothing to convert: no operator of the model runs in float16")
        for value in draft.graph.output:
            if value.name in self._ends:
                self._as_half(value.name)
            elif value.name in self._floats:
                self._as_float(value.name)
        for value in (*draft.graph.input, *draft.graph.output):
            if value.name in self._ends:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        draft.nodes = self._made
        return draft.model()

    def _produced(self, name: str, half: bool) -> str:
        """What a node calls its output, in float16 or not."""
        own = name in self._ends
        if half:
            self._half[name] = name if own else self._draft.fresh(f"{name}_float16")
            return self._half[name]
        self._float[name] = self._draft.fresh(f"{name}_float32") if own else name
        return self._float[name]

    def _as_half(self, name: str) -> str:
        if name not in self._half:
            array = self._draft.arrays.get(name)
            if array is not None:
                self._half[name] = self._draft.constant(f"{name}_float16", halved(name, array))
            else:
                source, own = self._as_float(name), name in self._ends
                self._half[name] = name if own else self._draft.fresh(f"{name}_float16")
                self._cast(source, self._half[name], TensorProto.FLOAT16)
        return self._half[name]

    def _as_float(self, name: str) -> str:
        if name in self._half and name not in self._float and name not in self._draft.arrays:
            own = name in self._ends
            self._float[name] = self._draft.fresh(f"{name}_float32") if own else name
            self._cast(self._half[name], self._float[name], TensorProto.FLOAT)
        return self._float.get(name, name)

    def _cast(self, name: str, out: str, to: int) -> None:
        self._made.append(self._draft.node("Cast", [name], [out], to=to))

    def _half_places(self, node: onnx.NodeProto) -> tuple[set[int], set[int]] | None:
        """Inputs and outputs that become float16; None for a node that stays as it is.

        A node becomes float16 where its schema has it for every type that is float32 here, and
        where its inputs decide the types of its outputs.
        """
        domain = "" if node.domain == "ai.onnx" else node.domain
        subgraphs = any(a.HasField("g") or a.graphs for a in node.attribute)
        if subgraphs or _is_kept(node, self._keep):
            return None
        try:
            schema = defs.get_schema(node.op_type, self._draft.opset(domain), domain)
        except defs.SchemaError:
            return None  # not ONNX's: who knows
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}

        def places(names: Sequence[str], formal: Sequence[Any]) -> dict[int, str]:
            """Type variables of the float32 tensors."""
            types = {
                i: formal[min(i, len(formal) - 1)].type_str
                for i, name in enumerate(names)
                if name in self._floats
            }
            return {i: kind for i, kind in types.items() if kind in allowed}

        ins, outs = places(node.input, schema.inputs), places(node.output, schema.outputs)
        kinds = {*ins.values(), *outs.values()}
        decided = set(outs.values()) <= set(ins.values())
        fits = all("tensor(float16)" in allowed[kind] for kind in kinds)
        return (set(ins), set(outs)) if outs and decided and fits else None
