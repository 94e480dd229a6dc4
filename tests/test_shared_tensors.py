"""Real networks tensor by tensor: every quantized operator on the integers ONNX Runtime gave it.

ONNX Runtime runs the whole network with its intermediate tensors as outputs. Each quantized tensor
is then computed once more from the quantized tensors before it, alone, so that differences do not
add up: by qrt, by the contract (tests/contract), and by ONNX Runtime as it would fuse this part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.contract import UnsupportedError, evaluate
from tests.graphs.draw import Array
from tests.rivals import onnxruntime_sums_exactly
from tests.sessions import Cases, difference, differences, run

PRODUCTS = {"Conv", "Gemm", "MatMul", "QGemm", "QLinearConv", "QLinearMatMul"}
INTEGER_PRODUCTS = {"QGemm", "QLinearConv", "QLinearMatMul"}

# the stored inputs of these are of one pixel; others fit their symbolic dimensions
SHAPES = {"ppocr_cls": (1, 3, 48, 96)}

# operators whose integers ONNX Runtime rounds differently somewhere, by one step, and why
ROUNDED_DIFFERENTLY = {
    "Add": "the fused kernel adds the zero point before rounding",
    "AveragePool": "the fused kernel sums floats and adds the zero point before rounding",
    "GlobalAveragePool": "the fused kernel adds the zero point before rounding",
    "Mul": "the fused kernel adds the zero point before rounding",
    "QLinearAdd": "the zero point is added before rounding",
    "QLinearAveragePool": "floats are summed and the zero point is added before rounding",
    "QLinearGlobalAveragePool": "the zero point is added before rounding",
    "QLinearMul": "the zero point is added before rounding",
    "QLinearSoftmax": "1 / y_scale is rounded down to an integer",
    "ReduceMean": "float sums",
    "Softmax": "exp and its sum are float32, or those of QLinearSoftmax",
}


@dataclass(frozen=True)
class Part:
    """What computes the tensor `output` from quantized tensors before it."""

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    output: str

    @property
    def label(self) -> str:
        """Its operators without the conversions."""
        linear = ("QuantizeLinear", "DequantizeLinear", "Constant")
        ops = [node.op_type for node in self.model.graph.node]
        return "+".join([op for op in ops if op not in linear] or ops)

    @property
    def operators(self) -> set[str]:
        """The types of its nodes."""
        return {node.op_type for node in self.model.graph.node}


@pytest.mark.shared("*qdq*", "*qop*")
def test_every_part_alone(shared_model: Path) -> None:
    model = onnx.load(shared_model)
    inputs = inputs_of(shared_model)
    tensors = onnxruntime_tensors(model, inputs)
    cases = Cases()
    compared: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    in_float: Counter[str] = Counter()
    for part in parts_of(model, tensors):
        given = {name: tensors[name] for name in part.inputs}
        got = attempt(cases, part, given)
        if got is None:
            continue
        compared[part.label] += 1
        try:
            want = evaluate(part.model, given)[part.output]
            cases.check(f"{part.label} {part.output}, contract", difference(want, got))
        except UnsupportedError:
            pass
        theirs, ops = onnxruntime_outcome(part, given)
        steps = distance(part.model, theirs, got)
        apart[part.label] += int((steps > 0).sum())
        exact = bool(part.operators & PRODUCTS) and bool(ops & INTEGER_PRODUCTS)
        in_float[part.label] += bool(part.operators & PRODUCTS) and not exact
        listed = not steps.any() or bool(set(part.label.split("+")) & ROUNDED_DIFFERENTLY.keys())
        if exact and onnxruntime_sums_exactly():
            what = "" if not steps.any() else f"{(steps > 0).sum()} of {steps.size} differ"
            cases.check(f"{part.label} {part.output}, onnxruntime", what)
        elif onnxruntime_sums_exactly() or not part.operators & PRODUCTS:
            what = "" if steps.max(initial=0) <= 1 else f"{steps.max()} steps apart"
            cases.check(f"{part.label} {part.output}, onnxruntime", what)
            cases.check(f"{part.label} {part.output}", "" if listed else "is not listed")
    for label, count in sorted(compared.items()):
        why = f", {in_float[label]} times in float there" if in_float[label] else ""
        print(f"\n{shared_model.stem}: {count} {label}: {apart[label]} values differ{why}", end="")
    cases.finish(shared_model.stem, at_least=sum(compared.values()))


@pytest.mark.shared("*qdq*", "*qop*")
def test_intermediate_tensors_follow_the_contract(shared_model: Path) -> None:
    """The whole network with every quantized tensor as an output, bit for bit."""
    model = onnx.load(shared_model)
    inputs = inputs_of(shared_model)
    tensors = onnxruntime_tensors(model, inputs)
    names = [name for part in parts_of(model, tensors) for name in (part.output,)]
    names = [name for name in names if tensors[name].dtype.kind in "iu"]
    exposed = with_outputs(model, {name: tensors[name] for name in names})
    try:
        want = evaluate(exposed, inputs)
    except UnsupportedError:  # a float end that the contract does not cover
        want = evaluate(exposed, inputs, outputs=names)
    got = run(exposed, inputs)
    cases = Cases()
    for name, array in want.items():
        cases.check(name, difference(array, got[name]))
    cases.finish(f"{shared_model.stem}, intermediate tensors", at_least=len(names))


def inputs_of(path: Path) -> dict[str, Array]:
    """The stored inputs, or random ones of a shape in SHAPES."""
    arrays = np.load(path.with_suffix(".npz"))
    inputs = {k[3:]: arrays[k] for k in arrays.files if k.startswith("in:")}
    for prefix, shape in SHAPES.items():
        if path.stem.startswith(prefix):
            rng = np.random.default_rng(0)
            return {name: rng.normal(0, 1, shape).astype(np.float32) for name in inputs}
    return inputs


def parts_of(model: onnx.ModelProto, tensors: dict[str, Array]) -> list[Part]:
    """One for every quantized tensor and every graph output that is computed."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    constants = {t.name: t for t in graph.initializer}
    free = {i.name for i in graph.input} - constants.keys()
    depends = set(free)
    for node in graph.node:
        if depends.intersection(node.input):
            depends.update(node.output)
    quantized = {n for n in depends if tensors[n].dtype in (np.uint8, np.int8)}
    found = []
    for node in graph.node:
        for name in node.output:
            if name in quantized or (name in depends and any(name == o.name for o in graph.output)):
                found.append(_part(model, producers, constants, quantized | free, name, tensors))
    return found


def _part(
    model: onnx.ModelProto,
    producers: dict[str, onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
    known: set[str],
    output: str,
    tensors: dict[str, Array],
) -> Part:
    names: list[str] = [output]
    nodes: list[onnx.NodeProto] = []
    inputs: dict[str, None] = {}
    used: dict[str, onnx.TensorProto] = {}
    seen = set()
    while names:
        name = names.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        if name != output and name in known:
            inputs[name] = None
        elif name in constants:
            used[name] = constants[name]
        else:
            node = producers[name]
            if node not in nodes:
                nodes.append(node)
            names += node.input
    order = {id(node): i for i, node in enumerate(model.graph.node)}
    nodes.sort(key=lambda node: order[id(node)])
    infos = [_value_info(n, tensors[n]) for n in inputs]
    graph = helper.make_graph(
        nodes, "part", infos, [_value_info(output, tensors[output])], list(used.values())
    )
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=8)
    return Part(made, tuple(inputs), output)


def attempt(cases: Cases, part: Part, inputs: dict[str, Array]) -> Array | None:
    """What qrt gives for `part`."""
    try:
        got = run(part.model, inputs)
    except Exception as error:
        cases.check(f"{part.label} {part.output}", f"{type(error).__name__}: {error}")
        return None
    again = run(part.model, inputs, "portable")
    cases.check(f"{part.label} {part.output}, portable", differences(got, again))
    return got[part.output]


def with_outputs(model: onnx.ModelProto, tensors: dict[str, Array]) -> onnx.ModelProto:
    """The model with these tensors as outputs too."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    there = {o.name for o in twin.graph.output}
    twin.graph.output.extend(_value_info(n, a) for n, a in tensors.items() if n not in there)
    return twin


def onnxruntime_tensors(model: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    """Every tensor of the network by name; nothing is fused."""
    ort: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    there = {o.name for o in twin.graph.output}
    names = [name for node in twin.graph.node for name in node.output if name not in there]
    twin.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = _session(ort, twin, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    found = [o.name for o in session.get_outputs()]
    return {**inputs, **dict(zip(found, session.run(None, inputs), strict=True))}


def onnxruntime_outcome(part: Part, inputs: dict[str, Array]) -> tuple[Array, set[str]]:
    """ONNX Runtime's answer for `part` as it fuses it, and what operators that leaves.

    Inputs and output are dequantized outside of the pairs: only then does it make signed tensors
    unsigned, which its integer convolutions need. That is exact.
    """
    import tempfile

    import onnxruntime as ort

    twin = onnx.ModelProto()
    twin.CopyFrom(part.model)
    feeds = dict(_opened(twin, name, array) for name, array in inputs.items())
    requantized = _closed(twin, part.output)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        session = _session(ort, twin, level, path)
        ops = {node.op_type for node in onnx.load(path).graph.node}
    return requantized(session.run(None, feeds)[0]), ops


def _opened(model: onnx.ModelProto, name: str, array: Array) -> tuple[str, Array]:
    """Make the input `name`, which a DequantizeLinear reads, real; returns its name and values."""
    readers = [node for node in model.graph.node if name in node.input]
    if not all(node.op_type == "DequantizeLinear" for node in readers):
        return name, array
    scale, zero = _parameters(model, readers[0], array.dtype)
    graph = model.graph
    source = next(i for i in graph.input if i.name == name)
    source.CopyFrom(helper.make_tensor_value_info(f"{name}:real", 1, array.shape))
    made = helper.make_node("QuantizeLinear", [f"{name}:real", *readers[0].input[1:]], [name])
    nodes = [made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return f"{name}:real", (array.astype(np.float32) - np.float32(zero)) * scale


def _closed(model: onnx.ModelProto, name: str) -> Callable[[Array], Array]:
    """Make the output `name`, which a QuantizeLinear makes, real; returns what quantizes it."""
    made = next(node for node in model.graph.node if name in node.output)
    if made.op_type != "QuantizeLinear" or len(model.graph.node) == 1:
        return lambda y: y
    kind = model.graph.output[0].type.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    scale, zero = _parameters(model, made, dtype)
    model.graph.node.append(
        helper.make_node("DequantizeLinear", [name, *made.input[1:]], [f"{name}:real"])
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(f"{name}:real", 1, None))
    return lambda y: (np.rint(y / scale) + zero).astype(dtype)


def _parameters(
    model: onnx.ModelProto, node: onnx.NodeProto, dtype: np.dtype[Any]
) -> tuple[np.float32, int]:
    """Scale and zero point of a linear node, per tensor."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros((), dtype)
    return np.float32(constants[node.input[1]].reshape(())), int(zero.reshape(()))


def _session(ort: Any, model: onnx.ModelProto, level: Any, path: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if path is not None:
        options.optimized_model_filepath = str(path)
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def distance(model: onnx.ModelProto, expected: Array, got: Array) -> Array:
    """Distance of integers in steps; of floats in units of what float32 sums may lose."""
    gap = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    if expected.dtype.kind != "f":
        return gap
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    last = model.graph.node[-1]
    if last.op_type == "DequantizeLinear":
        return np.rint(gap / float(scales[last.input[1]].max()))
    near = gap <= 2e-5 * max(1e-30, float(np.abs(expected).max(initial=0)))
    return np.where(near, 0.0, np.inf)


def _value_info(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape)
