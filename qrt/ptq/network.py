"""Network: a quantized model that runs forwards and backwards in NumPy, its parameters at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.ptq.backends import BOUNDED, MOVEMENT, PRODUCTS
from qrt.ptq.backprop import OPS, VIEWS, Back, viewed
from qrt.ptq.draft import Draft, attributes, label
from qrt.ptq.parameters import Activations, Bias, Weights
from qrt.quant.affine import Array, dequantize

Values = dict[str, Array]
Tape = list[tuple[Sequence[str], str, Back]]


class Network:
    """`draft`, a model with scales, as operators with gradients; `write` puts back what it learned.

    `shapes` are of what `VIEWS` give, without axis 0. Raises QuantizationError for an operator that
    has no gradient.
    """

    def __init__(self, draft: Draft, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._draft, self._shapes = draft, shapes
        self._nodes = path(draft)
        self._producers = draft.producers()
        self._weights: dict[str, Weights] = {}
        self._biases: dict[str, Bias] = {}
        self._activations: dict[str, Activations] = {}  # by the output of QuantizeLinear
        for node in self._nodes:
            if node.op_type == "QuantizeLinear":
                same = self._moved_grid(node)
                self._activations[node.output[0]] = same or Activations(self._grid(node, None))
            if node.op_type not in PRODUCTS:
                continue
            self._add_weights(node)
            self._add_bias(node)

    @property
    def parameters(self) -> list[Weights | Bias | Activations]:
        """All that are learned, each once."""
        grids = [g for out, g in self._activations.items() if not self._is_bounded(out)]
        found: list[Weights | Bias | Activations] = [
            *self._weights.values(), *self._biases.values(), *grids,
        ]  # fmt: skip
        return list({id(one): one for one in found}.values())

    def forward(self, inputs: Values) -> tuple[Values, Tape]:
        """Every tensor for these samples, and what going back needs."""
        values: Values = dict(inputs)
        tape: Tape = []
        stored = self._draft.arrays
        for name, weights in self._weights.items():
            values[name] = weights.real()
        for name, bias in self._biases.items():
            values[name] = bias.real()
        for node in self._nodes:
            out = node.output[0]
            is_constant = node.op_type == "DequantizeLinear" and node.input[0] in stored
            if out in values or is_constant:
                continue  # constants are made where they are read
            names = data_inputs(node)
            arrays = [self._value(values, n) for n in names]
            if node.op_type == "QuantizeLinear":
                y, back = self._quantize(node, arrays[0])
            elif node.op_type in ("DequantizeLinear", *VIEWS):
                shape = arrays[0].shape
                if node.op_type in VIEWS:
                    shape = (shape[0], *self._shapes[out])
                y, back = viewed(arrays[0], shape)
            else:
                y, back = OPS[node.op_type](attributes(node), *arrays)
            values[out] = y
            tape.append((names, out, back))
        return values, tape

    def backward(self, tape: Tape, slopes: Values) -> dict[int, list[Array]]:
        """Gradients by what each parameter learns, by its id, from those by some tensors."""
        for names, out, back in reversed(tape):
            slope = slopes.pop(out, None)
            if slope is None:
                continue
            for name, found in zip(names, back(slope), strict=False):
                if found is not None and name:
                    slopes[name] = slopes[name] + found if name in slopes else found
        grids = {id(one): one for one in self._activations.values()}
        learned = {key: one.gradients() for key, one in grids.items()}
        for name, weights in self._weights.items():
            learned[id(weights)] = weights.gradients(slopes[name])
        for name, bias in self._biases.items():
            learned[id(bias)] = bias.gradients(slopes[name])
        return learned

    def write(self) -> None:
        """Codes, scales and biases as learned, into the draft."""
        arrays = self._draft.arrays
        for name, weights in self._weights.items():
            arrays[self._producers[name].input[1]] = weights.scale()
        for out, grid in self._activations.items():
            node = self._producers[out]
            users = [n for n in self._draft.nodes if n.input and n.input[0] == out]
            for one in (node, *users):
                arrays[one.input[1]] = grid.scale()
        for node in self._nodes:
            name = node.input[2] if len(node.input) > 2 else ""
            if name in self._biases and node.op_type in ("Conv", "Gemm"):
                self._write_bias(node, name)

    def _write_bias(self, node: onnx.NodeProto, name: str) -> None:
        arrays, bias = self._draft.arrays, self._biases[name].real()
        if name in arrays:
            arrays[name] = bias
            return
        codes, scale = self._producers[name].input[:2]
        by_x = arrays[self._producers[node.input[0]].input[1]].astype(np.float64)
        by_w = arrays[self._producers[node.input[1]].input[1]]
        step = np.maximum(np.asarray(by_x * by_w, np.float32), np.finfo(np.float32).tiny)
        arrays[scale] = step
        arrays[codes] = np.rint(bias.astype(np.float64) / step).astype(np.int32)

    def _quantize(self, node: onnx.NodeProto, x: Array) -> tuple[Array, Back]:
        grid = self._activations[node.output[0]]
        y, inside, slope = grid.quantized(x)

        def back(g: Array) -> tuple[Array | None, ...]:
            grid.add(float(np.vdot(g, slope)))
            return (g * inside,)

        return y, back

    def _value(self, values: Values, name: str) -> Any:
        if not name:
            return None
        return values[name] if name in values else self._constant(name)

    def _constant(self, name: str) -> Array:
        """A constant that is not learned."""
        if name in self._draft.arrays:
            return self._draft.arrays[name]
        node = self._producers[name]
        codes = self._draft.arrays[node.input[0]]
        grid = self._grid(node, codes)
        return dequantize(codes.astype(grid.dtype), grid)

    def _add_weights(self, node: onnx.NodeProto) -> None:
        name = node.input[1]
        source = self._producers.get(name)
        if source is None or source.op_type != "DequantizeLinear" or name in self._weights:
            return
        codes = self._draft.arrays.get(source.input[0])
        if codes is not None:
            grid = self._grid(source, codes)
            self._weights[name] = Weights(codes.astype(grid.dtype), grid)

    def _add_bias(self, node: onnx.NodeProto) -> None:
        name = node.input[2] if len(node.input) > 2 else ""
        if node.op_type == "MatMul" or not name or name in self._biases:
            return
        array = self._draft.arrays.get(name)
        source = self._producers.get(name)
        if array is not None and array.dtype == np.float32:
            self._biases[name] = Bias(array.copy())
        elif source is not None and source.input[0] in self._draft.arrays:
            self._biases[name] = Bias(self._constant(name))

    def _grid(self, node: onnx.NodeProto, codes: Array | None) -> QParams:
        """The grid of a QuantizeLinear, or of a DequantizeLinear of constants."""
        arrays, attrs = self._draft.arrays, attributes(node)
        scale = arrays[node.input[1]]
        zero = arrays.get(node.input[2]) if len(node.input) > 2 else None
        stored = zero.dtype if zero is not None else codes.dtype if codes is not None else None
        name = np.dtype(np.uint8 if stored is None else stored).name
        bits = int(name.lstrip("uint"))
        dtype = np.dtype(name if bits >= 8 else f"{'u' if name[0] == 'u' else ''}int8")
        zero = np.zeros(scale.shape, dtype) if zero is None else zero.astype(dtype)
        narrow = codes is not None and name == "int8" and not zero.any() and codes.min() > -128
        block = attrs.get("block_size", 0) or None
        axis = attrs.get("axis", 1) if scale.ndim else None
        return QParams(scale, zero, dtype, axis, block, bits if bits not in (8, 16) else None,
                       bool(narrow))  # fmt: skip

    def _is_bounded(self, out: str) -> bool:
        """True for a grid that follows from the operator before it."""
        source = self._producers.get(self._producers[out].input[0])
        return source is not None and source.op_type in BOUNDED

    def _moved_grid(self, node: onnx.NodeProto) -> Activations | None:
        """The grid that this one is to equal: of what an operator only moved."""
        source = self._producers.get(node.input[0])
        if source is None or source.op_type not in MOVEMENT:
            return None
        before = self._producers.get(source.input[0])
        return None if before is None else self._activations.get(before.input[0])


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """Inputs that numbers come from; not scales, shapes."""
    if node.op_type in (*VIEWS, "QuantizeLinear", "DequantizeLinear"):
        return list(node.input[:1])
    return list(node.input)


def path(draft: Draft) -> list[onnx.NodeProto]:
    """The nodes that outputs are computed by, without those that only compute shapes."""
    needed, kept = set(draft.outputs), []
    for node in reversed(draft.nodes):
        if needed.isdisjoint(node.output):
            continue
        if node.op_type not in (*OPS, *VIEWS, "QuantizeLinear", "DequantizeLinear"):
            raise QuantizationError(
                f"{label(node)} has no gradient: reconstruct a model without it, or not at all"
            )
        needed.update(data_inputs(node))
        kept.append(node)
    return kept[::-1]


def cuts(draft: Draft) -> list[str]:
    """Tensors through which alone all that follows depends on what came before, outputs last."""
    nodes = path(draft)
    last = {name: i for i, node in enumerate(nodes) for name in data_inputs(node)}
    users: dict[str, list[str]] = {}
    for node in nodes:
        for name in data_inputs(node):
            users.setdefault(name, []).append(node.op_type)
    folded = {"Relu", "Clip", *VIEWS}  # what these give is compared instead of what they read
    live = {value.name for value in draft.inputs}
    found = []
    for i, node in enumerate(nodes):
        live = {name for name in (*live, node.output[0]) if last.get(name, -1) > i}
        if live == {node.output[0]} and not folded.issuperset(users[node.output[0]]):
            found.append(node.output[0])
    return [*(name for name in found if name not in draft.outputs), *sorted(draft.outputs)]
