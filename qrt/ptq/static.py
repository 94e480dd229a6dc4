"""Static quantization: QuantizeLinear and DequantizeLinear around every operator to be integer.

For each quantized operator its activations, in and out, get a grid; weights are stored as integers,
biases as int32 in steps of x_scale * w_scale. Tensors that only move share the grid of what they
move; ranges known beforehand (Sigmoid, Softmax) are not measured. A Relu or Clip behind a product
stays between it and the QuantizeLinear, where engines fold it. What comes out is ONNX's QDQ form
(docs "Quantization": opset 13, per channel 13, 16 bits 21).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.ptq.backends import BOUNDED, CLAMPS, MOVEMENT, PRODUCTS, backend_of
from qrt.ptq.calibrate import Runner, feeds_of, observe
from qrt.ptq.config import Grid, QuantConfig, config_of
from qrt.ptq.draft import Draft, Model, attributes, label
from qrt.ptq.gptq import gptq
from qrt.ptq.moments import Moments, collect
from qrt.ptq.observers import Observer
from qrt.ptq.prepare import prepare
from qrt.quant.affine import Array, dequantize, quantize
from qrt.quant.choose import choose_qparams, qparams_of_ranges

OPSET, WIDE_OPSET = 13, 21  # per channel; 16 bits and blocks
MAX_BIAS = 2**30  # steps; as many are left for the sums


@dataclass
class Plan:
    """What becomes of the model: quantized nodes, and the grid of each activation tensor.

    `shared` maps a tensor to the one whose grid it has. `notes` says why what stays float does.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    bounded: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def source(self, name: str) -> str:
        """The tensor whose grid `name` has."""
        while name in self.shared:
            name = self.shared[name]
        return name


def quantize_static(
    model: Model,
    data: Any,
    config: QuantConfig | str | None,
    runner: Runner,
    progress: Callable[[int], None] = lambda done: None,
) -> onnx.ModelProto:
    """A QDQ model of float `model`, its ranges seen on `data` (see `feeds_of`).

    Raises ModelError for a model that is quantized already, InputError for data that are empty or
    do not fit, QuantizationError for a config that names what is not there, and for values that
    are not finite.
    """
    chosen = config_of(config)
    draft = prepare(model)
    draft.need_opset(WIDE_OPSET if _is_wide(chosen) else OPSET)
    plan = make_plan(draft, chosen)
    kinds = {
        name: grid.observer
        for name, grid in plan.grids.items()
        if name not in plan.shared and name not in plan.bounded
    }
    needs_moments = chosen.bias_correction or chosen.rounding != "nearest"
    if needs_moments:
        data = list(feeds_of(data, draft.inputs))  # an iterator would be used up
    observers = observe(draft, kinds, feeds_of(data, draft.inputs), runner, progress)
    moments: dict[str, Moments] = {}
    if needs_moments:
        products = [n for n in plan.nodes if n.op_type in PRODUCTS and n.input[1] in draft.arrays]
        moments = collect(draft, products, feeds_of(data, draft.inputs), runner)
    return insert(draft, plan, chosen, activation_qparams(plan, observers), moments)


def make_plan(draft: Draft, config: QuantConfig) -> Plan:
    """Which nodes and tensors are quantized."""
    floats, consumers = draft.floats(), draft.consumers()
    runs = backend_of(config.backend).ops
    ops = runs if config.op_types is None else config.op_types
    check_names(draft, config)
    plan = Plan()
    for node in draft.nodes:
        rule = config.rule(node.op_type, node.name)
        if node.op_type not in ops or node.domain not in ("", "ai.onnx"):
            continue
        if rule.skip:
            plan.notes[label(node)] = "the config skips it"
            continue
        inputs = [name for name in _data_inputs(node) if name in floats]
        if not inputs or node.output[0] not in floats:
            continue
        if node.op_type in PRODUCTS and not _is_product(draft, node):
            plan.notes[label(node)] = "it has no float32 activation to quantize"
            continue
        grid = rule.activations or config.activations
        if node.op_type in MOVEMENT and inputs[0] not in plan.grids:
            continue  # of a tensor that stays float
        if node.op_type in CLAMPS and node.input[0] not in plan.grids:
            if not _clamps_quantized(draft, plan, node):
                continue
        elif (
            node.op_type not in CLAMPS
            and node.op_type not in PRODUCTS + MOVEMENT
            and not any(name in plan.grids for name in inputs)
        ):
            continue  # alone among float operators it would only lose precision
        plan.nodes.append(node)
        for name in inputs:
            if name not in draft.arrays or node.op_type not in PRODUCTS:
                plan.grids.setdefault(name, config.tensors.get(name, grid))
        out = node.output[0]
        if node.op_type in MOVEMENT:
            for name in node.output:
                if name:
                    plan.grids[name] = plan.grids[inputs[0]]
                    plan.shared[name] = inputs[0]
            continue
        users = consumers.get(out, [])
        if (
            len(users) == 1
            and users[0].op_type in CLAMPS
            and out not in draft.outputs
            and (not config.rule(users[0].op_type, users[0].name).skip)
        ):
            continue  # its clamp's result is the quantized one
        if out in draft.outputs and node.op_type in PRODUCTS and not config.quantize_outputs:
            continue
        plan.grids[out] = config.tensors.get(out, grid)
        if node.op_type in BOUNDED:
            plan.bounded[out] = BOUNDED[node.op_type]
    if not plan.nodes:
        raise QuantizationError(
            "nothing to quantize: no operator of the model is among those to be quantized"
            f" ({', '.join(ops)})"
        )
    return plan


def activation_qparams(plan: Plan, observers: Mapping[str, Observer]) -> dict[str, QParams]:
    """Scale and zero point of every activation tensor that has a grid of its own."""
    found = {}
    for name, grid in plan.grids.items():
        if name in plan.shared:
            continue
        levels = 1 << grid.bits
        if name in plan.bounded:
            low, high = plan.bounded[name]
            high = high * (levels - 1) / levels  # a scale of 2**-bits, as ONNX Runtime has it
        else:
            low, high = observers[name].range(levels)
        found[name] = qparams_of_ranges(
            np.asarray(low), np.asarray(high), grid.bits, signed=grid.signed,
            symmetric=grid.symmetric,
        )  # fmt: skip
    return found


def insert(
    draft: Draft,
    plan: Plan,
    config: QuantConfig,
    qparams: Mapping[str, QParams],
    moments: Mapping[str, Moments],
) -> onnx.ModelProto:
    """Write the scales into the model. `moments` are of products, by output, where they count."""
    planned = {id(node) for node in plan.nodes}
    real: dict[str, str] = {}  # tensor: its dequantized form
    weights: dict[tuple[str, int, bytes], str] = {}
    made: list[onnx.NodeProto] = []

    def pair(name: str) -> str:
        """Put a pair behind `name`, once; the name of what comes out."""
        if name not in real:
            q = qparams[plan.source(name)]
            real[name] = _pair(draft, made, name, q)
        return real[name]

    for name in plan.grids:
        if name in draft.arrays:
            q = choose_qparams(draft.arrays[name], plan.grids[name].bits,
                               signed=plan.grids[name].signed,
                               symmetric=plan.grids[name].symmetric)  # fmt: skip
            codes = quantize(draft.arrays[name], q)
            real[name] = dequantized(draft, made, name, codes, q)
    for value in draft.inputs:
        if value.name in plan.grids:
            pair(value.name)
    outputs = draft.outputs
    for node in draft.nodes:
        if id(node) in planned and node.op_type in PRODUCTS:
            _quantize_weights(draft, made, node, plan, config, qparams, moments, weights)
        for i, name in enumerate(node.input):
            node.input[i] = real.get(name, name)
        kept = {}
        for i, name in enumerate(node.output):
            if name in plan.grids and name in outputs:
                # the graph's output is what came through the pair
                kept[name] = node.output[i] = draft.fresh(f"{name}_exact")
        made.append(node)
        for name in node.output:
            if name in plan.grids:
                pair(name)
        for name, exact in kept.items():
            q = qparams[plan.source(name)]
            real[name] = _pair(draft, made, exact, q, name)
    draft.nodes = made
    return draft.model()


def _pair(draft: Draft, made: list[onnx.NodeProto], name: str, q: QParams, out: str = "") -> str:
    """QuantizeLinear and DequantizeLinear behind `name`."""
    parts = _parts(draft, name, q)
    stored = draft.fresh(f"{name}_quantized")
    out = out or draft.fresh(f"{name}_dequantized")
    made.append(draft.node("QuantizeLinear", [name, *parts], [stored]))
    made.append(draft.node("DequantizeLinear", [stored, *parts], [out]))
    return out


def _parts(draft: Draft, name: str, q: QParams) -> list[str]:
    """Scale and zero point as constants."""
    return [
        draft.constant(f"{name}_scale", q.scale),
        draft.constant(f"{name}_zero_point", q.zero_point),
    ]


def dequantized(
    draft: Draft, made: list[onnx.NodeProto], name: str, codes: Array, q: QParams
) -> str:
    """Integers behind a DequantizeLinear; the name of the real tensor."""
    stored = draft.constant(f"{name}_quantized", codes)
    out = draft.fresh(f"{name}_dequantized")
    attrs: dict[str, Any] = {} if q.axis is None else {"axis": q.axis}
    if q.block_size is not None:
        attrs["block_size"] = q.block_size
    made.append(draft.node("DequantizeLinear", [stored, *_parts(draft, name, q)], [out], **attrs))
    return out


def _quantize_weights(
    draft: Draft,
    made: list[onnx.NodeProto],
    node: onnx.NodeProto,
    plan: Plan,
    config: QuantConfig,
    qparams: Mapping[str, QParams],
    moments: Mapping[str, Moments],
    done: dict[tuple[str, int, bytes], str],
) -> None:
    """Weights and bias of a product, in its inputs 1 and 2."""
    name = node.input[1]
    array = draft.arrays.get(name)
    if array is None:
        return  # a second activation
    axis = weight_axis(node, array)
    grid = config.rule(node.op_type, node.name).weights or config.weights
    bias = _constant_bias(draft, node)
    x = qparams[plan.source(node.input[0])]
    q = weight_qparams(array, grid, axis)
    if bias is not None and q.block_size is None:
        # a coarser channel, rather than a bias that int32 sums have no room for
        least = np.abs(bias).astype(np.float64) / (float(x.scale) * MAX_BIAS)
        scale = np.maximum(q.scale, least if q.scale.ndim else least.max(initial=0))
        q = replace(q, scale=np.asarray(scale, np.float32))
    seen = moments.get(node.output[0])
    codes = quantize(array, q)
    if seen is not None and config.rounding == "gptq" and q.block_size is None:
        codes = _rounded_by_data(array, q, axis, seen)
    if seen is not None and config.bias_correction:
        bias = _corrected_bias(draft, node, array, dequantize(codes, q), axis, bias, seen)
    key = (name, axis, q.scale.tobytes() + codes.tobytes())
    if key not in done:
        done[key] = dequantized(draft, made, name, codes, q)
    node.input[1] = done[key]
    if bias is None or q.block_size is not None:
        return
    scale = np.asarray(x.scale.astype(np.float64) * q.scale, np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    steps = np.rint(bias.astype(np.float64) / scale)
    stored = draft.constant(f"{node.input[2]}_quantized", steps.astype(np.int32))
    parts = [
        draft.constant(f"{node.input[2]}_scale", scale),
        draft.constant(f"{node.input[2]}_zero_point", np.zeros(scale.shape, np.int32)),
    ]
    out = draft.fresh(f"{node.input[2]}_dequantized")
    attrs: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    made.append(draft.node("DequantizeLinear", [stored, *parts], [out], **attrs))
    node.input[2] = out


def _rounded_by_data(array: Array, q: QParams, axis: int, seen: Moments) -> Array:
    """Codes of weights by GPTQ, group by group."""
    rows = _rows(array, axis)
    along = replace(q, axis=0 if q.axis is not None else None)
    groups = len(seen.squares)
    each = len(rows) // groups
    parts = []
    for group, part in enumerate(rows.reshape(groups, each, -1)):
        own = slice(group * each, (group + 1) * each)
        grid = along
        if along.axis is not None:
            grid = replace(along, scale=q.scale[own], zero_point=q.zero_point[own])
        parts.append(gptq(part, grid, seen.squares[group]))
    codes = np.concatenate(parts)
    turned: Array = codes.reshape(array.shape) if axis == 0 else codes.T
    return np.ascontiguousarray(turned)


def _corrected_bias(
    draft: Draft,
    node: onnx.NodeProto,
    array: Array,
    back: Array,
    axis: int,
    bias: Array | None,
    seen: Moments,
) -> Array | None:
    """The bias less what the weights' errors add to the mean of each output; the node gets it."""
    has_other = len(node.input) > 2 and node.input[2] and bias is None
    if has_other or node.op_type == "MatMul":
        return bias  # one that is not understood, or nowhere to put it
    rows = _rows(back.astype(np.float64) - array, axis)
    groups = len(seen.mean)
    error = np.einsum("gok,gk->go", rows.reshape(groups, len(rows) // groups, -1), seen.mean)
    old = np.zeros(len(rows)) if bias is None else bias.astype(np.float64)
    corrected = (old - error.reshape(-1)).astype(np.float32)
    name = draft.constant(f"{node.output[0]}_corrected_bias", corrected)
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)
    found: Array = corrected
    return found


def _rows(array: Array, axis: int) -> Array:
    """Weights as (outputs, k)."""
    rows: Array = array.reshape(len(array), -1) if axis == 0 else array.T
    return rows


def _constant_bias(draft: Draft, node: onnx.NodeProto) -> Array | None:
    """The bias of a product that int32 can stand for."""
    name = node.input[2] if len(node.input) > 2 else ""
    bias = draft.arrays.get(name)
    if bias is None or bias.ndim != 1 or attributes(node).get("beta", 1.0) != 1.0:
        return None
    return bias


def weight_axis(node: onnx.NodeProto, array: Array) -> int:
    """The axis of output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm" and attributes(node).get("transB", 0):
        return 0
    return array.ndim - 1


def weight_qparams(array: Array, grid: Grid, axis: int) -> QParams:
    """The grid of a product's weights, whose output channels lie along `axis`."""
    options: dict[str, Any] = {"signed": grid.signed, "symmetric": grid.symmetric}
    if grid.symmetric and grid.bits <= 8:
        options["narrow"] = True  # -127: no product of two extremes overflows a pair
    if grid.granularity == "per_channel":
        options["axis"] = axis
    elif grid.granularity == "per_block":
        # along what is summed
        options |= {"axis": _summed_axis(axis, array.ndim), "block_size": grid.block_size}
    return choose_qparams(array, grid.bits, **options)


def _summed_axis(axis: int, rank: int) -> int:
    return 1 if axis == 0 else rank - 2


def check_names(draft: Draft, config: QuantConfig) -> None:
    """Raise QuantizationError when the config names operators or tensors that are not there."""
    from fnmatch import fnmatchcase

    ops = {node.op_type for node in draft.nodes}
    names = {node.name for node in draft.nodes}
    tensors = {name for node in draft.nodes for name in (*node.input, *node.output)}
    for op in config.op_rules:
        if op not in ops:
            raise QuantizationError(f"the config has a rule for {op}, the model has none")
    for glob in config.name_rules:
        if not any(fnmatchcase(name, glob) for name in names):
            raise QuantizationError(f"the config has a rule for nodes '{glob}': no node matches")
    for tensor in config.tensors:
        if tensor not in tensors:
            raise QuantizationError(f"the config names tensor '{tensor}', the model has none")


def _is_wide(config: QuantConfig) -> bool:
    grids = [config.activations, config.weights, *config.tensors.values()]
    for rule in (*config.op_rules.values(), *config.name_rules.values()):
        grids += [grid for grid in (rule.activations, rule.weights) if grid is not None]
    return any(g.bits not in (8,) or g.granularity == "per_block" for g in grids)


def _data_inputs(node: onnx.NodeProto) -> list[str]:
    """Inputs that are activations or weights, not shapes and limits."""
    if node.op_type in ("Add", "Mul", "MatMul", "Concat"):
        return [name for name in node.input if name]
    return [name for name in node.input[:1] if name]


def _is_product(draft: Draft, node: onnx.NodeProto) -> bool:
    """True for a product of an activation; weights may be another."""
    if node.input[0] in draft.arrays:
        return False
    return node.op_type == "MatMul" or node.input[1] in draft.arrays


def _clamps_quantized(draft: Draft, plan: Plan, node: onnx.NodeProto) -> bool:
    """True when the node before is quantized and leaves its clamp to this one."""
    before = draft.producers().get(node.input[0])
    return before is not None and any(before is other for other in plan.nodes)


__all__ = ["Plan", "insert", "make_plan", "quantize_static"]
