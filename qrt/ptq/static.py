"""Static quantization: QuantizeLinear and DequantizeLinear around every operator to be integer.

For each quantized operator its activations, in and out, get a grid; weights are stored as integers,
biases as int32 in steps of x_scale * w_scale. Tensors that only move share the grid of what they
move; ranges known beforehand (Sigmoid, Softmax) are not measured. A Relu or Clip behind a product
stays between it and the QuantizeLinear, where engines fold it. What comes out is ONNX's QDQ form
(docs "Quantization": opset 13, per channel 13, 16 bits 21).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from qrt.ir import QParams
from qrt.ptq.backends import PRODUCTS
from qrt.ptq.calibrate import Runner, observe
from qrt.ptq.config import QuantConfig, config_of
from qrt.ptq.constants import dequantized, qparams_of
from qrt.ptq.draft import Draft, Model
from qrt.ptq.equalize import equalize_by_data
from qrt.ptq.observers import Observer
from qrt.ptq.plan import Plan, check_tensors, make_plan
from qrt.ptq.prepare import copied, prepare
from qrt.ptq.product import clamp_behind
from qrt.ptq.qoperator import check_form, in_form
from qrt.ptq.reconstruct import reconstruct
from qrt.ptq.rows import Rows, RowSource
from qrt.ptq.samples import Samples
from qrt.ptq.smooth import smooth_by_data
from qrt.ptq.static_weights import quantize_product
from qrt.quant.affine import quantize
from qrt.quant.choose import choose_qparams, qparams_of_ranges

OPSET, WIDE_OPSET = 13, 21  # per channel; 16 bits and blocks


def quantize_static(
    model: Model,
    data: Any,
    config: QuantConfig | str | None,
    runner: Runner,
    progress: Callable[[int], None] = lambda done: None,
    form: str = "qdq",
) -> onnx.ModelProto:
    """A QDQ model of float `model`, its ranges seen on `data` (see `Samples`), or its QOperator
    form.

    Raises ModelError for a model that is quantized already, InputError for data that are empty or
    do not fit, QuantizationError for a config that names what is not there, and for values that
    are not finite.
    """
    check_form(form)
    chosen = config_of(config)
    draft = prepare(model)
    draft.need_opset(needed_opset(chosen))
    needs_rows = chosen.bias_correction or chosen.rounding != "nearest"
    smooths = chosen.smooth is not None
    again = needs_rows or chosen.equalize or smooths or chosen.reconstruct
    samples = Samples(data, draft.inputs, keep=again)
    if chosen.equalize:
        equalize_by_data(draft, chosen, samples, runner)
    if smooths:
        smooth_by_data(draft, chosen, samples, runner)
    plan = make_plan(draft, chosen)
    check_tensors(plan, chosen)
    observers = observe(draft, plan.observers(), samples, runner, progress)
    rows = None
    if needs_rows:
        products = [n for n in plan.nodes if n.op_type in PRODUCTS and n.input[1] in draft.arrays]
        rows = Rows(draft, products, samples, runner)
    exact = copied(draft) if chosen.reconstruct else None
    made = insert(draft, plan, chosen, activation_qparams(plan, observers), rows)
    if exact is not None:
        made = reconstruct(made, exact, samples, runner)
    return in_form(made, form)


def activation_qparams(plan: Plan, observers: Mapping[str, Observer]) -> dict[str, QParams]:
    """Scale and zero point of every activation tensor that has a grid of its own."""
    found = {}
    for name, grid in plan.grids.items():
        if name in plan.shared:
            continue
        if name in plan.known:
            found[name] = plan.known[name]
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
    rows: RowSource | None = None,
) -> onnx.ModelProto:
    """Write the scales into the model. `rows` are what products multiply, where they count."""
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
            q = plan.known.get(name) or choose_qparams(
                draft.arrays[name], plan.grids[name].bits,
                signed=plan.grids[name].signed, symmetric=plan.grids[name].symmetric,
            )  # fmt: skip
            codes = quantize(draft.arrays[name], q)
            real[name] = dequantized(draft, made, name, codes, q)
    for value in draft.inputs:
        if value.name in plan.grids:
            pair(value.name)
    outputs, consumers = draft.outputs, draft.consumers()
    for node in draft.nodes:
        if id(node) in planned and node.op_type in PRODUCTS:
            source = real.get(node.input[0], node.input[0])
            seen = None if rows is None else rows.seen(draft, made, node, source)
            clamp = clamp_behind(draft, consumers, node)
            quantize_product(draft, made, node, plan, config, qparams, seen, clamp, weights)
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
    parts = qparams_of(draft, name, q)
    stored = draft.fresh(f"{name}_quantized")
    out = out or draft.fresh(f"{name}_dequantized")
    made.append(draft.node("QuantizeLinear", [name, *parts], [stored]))
    made.append(draft.node("DequantizeLinear", [stored, *parts], [out]))
    return out


def needed_opset(config: QuantConfig) -> int:
    """The opset that has all that `config` asks for."""
    grids = [config.activations, config.weights, *config.tensors.values()]
    for rule in (*config.op_rules.values(), *config.name_rules.values()):
        grids += [grid for grid in (rule.activations, rule.weights) if grid is not None]
    is_wide = any(g.bits not in (8,) or g.granularity == "per_block" for g in grids)
    return WIDE_OPSET if is_wide else OPSET
