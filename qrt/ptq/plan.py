"""What static quantization makes of a model: which nodes are integer, which tensors get a grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx

from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.ptq.backends import (
    BOUNDED,
    CLAMPS,
    MOVEMENT,
    PRODUCTS,
    BackendConfig,
    backend_of,
)
from qrt.ptq.config import Grid, QuantConfig
from qrt.ptq.draft import Draft, halves_hint, label


@dataclass
class Plan:
    """What becomes of the model: quantized nodes, and the grid of each activation tensor.

    `shared` maps a tensor to the one whose grid it has; `known` are scales given beforehand, of
    weights, too. `notes` says why what stays float does.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    bounded: dict[str, tuple[float, float]] = field(default_factory=dict)
    known: dict[str, QParams] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def observers(self) -> dict[str, str]:
        """The kind of observer of every tensor whose range only data tell."""
        told = {*self.shared, *self.bounded, *self.known}
        return {name: grid.observer for name, grid in self.grids.items() if name not in told}

    def source(self, name: str) -> str:
        """The tensor whose grid `name` has."""
        while name in self.shared:
            name = self.shared[name]
        return name


def make_plan(draft: Draft, config: QuantConfig) -> Plan:
    """Which nodes and tensors are quantized."""
    floats, consumers = draft.floats(), draft.consumers()
    engine = backend_of(config.backend)
    ops = engine.ops if config.op_types is None else config.op_types
    check_engine(config, engine)
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
        # what a clamp reads has a grid already, or is left to the clamp: no rounding twice
        for name in () if node.op_type in CLAMPS else inputs:
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
            and users[0].op_type in ops
            and (not config.rule(users[0].op_type, users[0].name).skip)
            and (engine.signed_clamps or not grid.signed)
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
            f" ({', '.join(ops)}){halves_hint(draft)}"
        )
    return plan


def check_names(draft: Draft, config: QuantConfig) -> None:
    """Raise QuantizationError when the config names operators or tensors that are not there."""
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
        if tensor in draft.arrays:
            raise QuantizationError(
                f"the config names tensor '{tensor}', a constant: `tensors` are activations,"
                " weights go by op_rules and name_rules"
            )


def check_tensors(plan: Plan, config: QuantConfig) -> None:
    """Raise QuantizationError for a grid in the config that its tensor does not get."""
    for name, grid in config.tensors.items():
        if name not in plan.grids:
            raise QuantizationError(
                f"the config gives tensor '{name}' a grid, but nothing rounds it: it stays float,"
                " or what a Relu or Clip makes of it is rounded"
            )
        if plan.grids[name] != grid:
            raise QuantizationError(
                f"the config gives tensor '{name}' a grid, but it has that of"
                f" '{plan.source(name)}', whose values it only moves"
            )


def check_engine(config: QuantConfig, engine: BackendConfig) -> None:
    """Raise QuantizationError when `engine` would compute in float what the config rounds."""
    for op in config.op_types or ():
        if op not in engine.ops:
            raise QuantizationError(
                f"{engine.name} does not run {op} in integers, only {', '.join(engine.ops)}"
            )
    for op, rule in config.op_rules.items():
        if op not in engine.ops and (rule.activations or rule.weights):
            raise QuantizationError(
                f"the config has grids for {op}, which {engine.name} does not run in integers"
            )
    rules = {**config.op_rules, **config.name_rules}
    activations = {"activations": config.activations, **config.tensors}
    activations |= {f"activations of {key}": r.activations for key, r in rules.items()
                    if r.activations}  # fmt: skip
    weights = {"weights": config.weights}
    weights |= {f"weights of {key}": r.weights for key, r in rules.items() if r.weights}
    for what, grid in activations.items():
        if grid.granularity != "per_tensor":
            raise QuantizationError(f"{what}: one scale per tensor, got {grid.granularity}")
        if grid.bits not in engine.activation_bits:
            raise QuantizationError(
                f"{what}: {engine.name} multiplies in integers with activations of"
                f" {' or '.join(map(str, engine.activation_bits))} bits, got {grid.bits}"
            )
    for what, grid in weights.items():
        if grid.bits > engine.weight_bits:
            raise QuantizationError(
                f"{what}: {engine.name} multiplies in integers with weights of up to"
                f" {engine.weight_bits} bits, got {grid.bits}"
            )
        if grid.granularity not in engine.granularities:
            raise QuantizationError(
                f"{what}: {engine.name} multiplies in integers with weights"
                f" {' or '.join(engine.granularities)}, got {grid.granularity};"
                " quantize_weights has blocks, for activations that stay float"
            )


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
