"""One node as an ONNX model of its own: its shapes by ONNX, its values by a host function.

Everything of onnx is imported when first used: models that run natively never need it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.domains import onnx_domain
from qrt.ops.to_onnx import attribute_protos

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
Result = tuple[tuple[int, ...], np.dtype[Any]]

# the evaluator has no older implementation, and the later one means the same on older nodes
RUNS_AS = {"DequantizeLinear": 19}
# the evaluator's only implementation is of this opset, and older ones meant something else
MEANS_SINCE = {"Scan": 9}
# constants of at most so many elements are shown to shape inference: shapes, axes, pads, scales
SHOWN = 4096


class Evaluator:
    """The function of a host operator, made once; it keeps no state, so threads may share it.

    That is one of `qrt.ops.host_functions` (`own`), else `onnx.reference`. Raises UnsupportedError
    when neither has one that means this node.
    """

    def __init__(self, node: Node) -> None:
        from qrt.ops.host_functions import own_function

        spec = own_function(node)
        self.own = spec is not None
        self._function = _Reference(node) if spec is None else spec.make(node, _Reference)

    def __call__(self, inputs: Sequence[Array | None]) -> list[Any]:
        """The outputs for `inputs`, omitted ones None; raises whatever the function raises."""
        with np.errstate(all="ignore"):
            return list(self._function(inputs))


class _Reference:
    """A node on `onnx.reference`."""

    def __init__(self, node: Node) -> None:
        since = MEANS_SINCE.get(node.op, 0)
        if node.version < since:
            raise UnsupportedError(
                f"onnx.reference runs {node.op} as of opset {since}, not of opset {node.version}"
            )
        version = max(node.version, RUNS_AS.get(node.op, 0))
        model = one_node_model(node, version, ())
        from onnx.reference import ReferenceEvaluator

        try:
            self._evaluator = ReferenceEvaluator(model)
        except Exception as error:  # of whatever kind: each release of onnx has its own
            raise UnsupportedError(f"onnx.reference cannot run it: {first_line(error)}") from error
        self._names = [_input_name(i) for i in range(len(node.inputs))]

    def __call__(self, inputs: Sequence[Array | None]) -> list[Any]:
        feeds = {n: a for n, a in zip(self._names, inputs, strict=True) if a is not None}
        return list(self._evaluator.run(None, feeds))


def inferred(node: Node) -> list[Result | None]:
    """Shape and dtype of each output by ONNX's shape inference; None where it does not know.

    Raises ModelError when inference finds that the node breaks a rule of its operator,
    UnsupportedError for an output that is no tensor.
    """
    import onnx

    shown = [
        i
        for i, value in enumerate(node.inputs)
        if value is not None and value.data is not None and value.data.size <= SHOWN
    ]
    model = one_node_model(node, node.version, shown)
    try:
        model = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(_rule(error)) from error
    return [_result(info) for info in model.graph.output]


def check_types(node: Node) -> None:
    """Raise ModelError when inputs of one type variable differ: inference does not look at that."""
    from onnx import defs

    formal = defs.get_schema(node.op, node.version, onnx_domain(node)).inputs
    seen: dict[str, Value] = {}
    for i, value in enumerate(node.inputs):
        parameter = formal[min(i, len(formal) - 1)]
        if value is None or value.dtype is None or not parameter.is_homogeneous:
            continue
        first = seen.setdefault(parameter.type_str, value)
        if first.dtype != value.dtype:
            raise ModelError(
                f"{first.name!r} and {value.name!r} must have the same type, got {first.dtype} and"
                f" {value.dtype}"
            )


def one_node_model(node: Node, version: int, shown: Sequence[int]) -> onnx.ModelProto:
    """A model of `node` alone in opset `version`; inputs numbered in `shown` carry their data."""
    from onnx import TensorProto, ValueInfoProto, defs, helper, numpy_helper

    names = ["" if value is None else _input_name(i) for i, value in enumerate(node.inputs)]
    outputs = [f"o{i}" for i in range(len(node.outputs))]
    domain = onnx_domain(node)
    made = helper.make_node(node.op, names, outputs, domain=domain)
    made.attribute.extend(attribute_protos(node, version))
    inputs, initializers = [], []
    for i, value in enumerate(node.inputs):
        if value is None:
            continue
        if value.dtype is None:
            inputs.append(ValueInfoProto(name=names[i]))
        elif value.dtype.hasobject:
            inputs.append(helper.make_tensor_value_info(names[i], TensorProto.STRING, value.shape))
        elif i in shown:
            assert value.data is not None
            initializers.append(numpy_helper.from_array(value.data, names[i]))
        else:
            element = helper.np_dtype_to_tensor_dtype(value.dtype)
            inputs.append(helper.make_tensor_value_info(names[i], element, value.shape))
    graph = helper.make_graph(
        [made], "node", inputs, [ValueInfoProto(name=name) for name in outputs], initializers
    )
    # of the first are functions, and subgraphs where there are some
    inner = [graph.opsets[""] for graph in node.subgraphs.values() if "" in graph.opsets]
    opsets = {"": max(inner, default=defs.onnx_opset_version()), domain: version}
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*entry) for entry in opsets.items()]
    )


def first_line(error: Exception) -> str:
    """Kind and first line of an exception of somebody else's, for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _input_name(i: int) -> str:
    return f"i{i}"


def _result(info: onnx.ValueInfoProto) -> Result | None:
    from onnx import TensorProto, helper

    kind = info.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        raise UnsupportedError(f"its output is a {kind.removesuffix('_type')}, no tensor")
    tensor = info.type.tensor_type
    if tensor.elem_type == TensorProto.UNDEFINED or not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return tuple(int(dim.dim_value) for dim in tensor.shape.dim), dtype


def _rule(error: Exception) -> str:
    """What inference says, without its own name of the node."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else "it breaks a rule of its operator"
    _, mark, rest = text.partition("): ")
    return (rest if mark else text).strip()[:300]
