"""A static QDQ model of the zoo in dynamic form, as onnxruntime's quantize_dynamic spells it.

Every Conv and Gemm becomes DynamicQuantizeLinear (one for all that read the tensor), ConvInteger or
MatMulInteger, Cast, and Mul by the product of both scales; Add puts the float bias on, and the
activation that the static model leaves to its zero point becomes a node. What lies between is
float32. Weights stay the integers of the static model: int8, or uint8 around 128.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bench.zoo_builder import checked_model

Arrays = Mapping[str, NDArray[Any]]

PARTS = ("dynamic", "dynamic_scale", "dynamic_zero_point")  # what DynamicQuantizeLinear gives


def as_dynamic(model: ModelProto, weights: str) -> ModelProto:
    """`model`, whose weights are per tensor, with `weights` "u8" or "s8" and dynamic inputs."""
    return _Rewrite(model, weights).model()


class _Rewrite:
    """Walks the nodes once; `_names` says which tensor stands for a dequantized one."""

    def __init__(self, model: ModelProto, weights: str) -> None:
        self._source = model
        self._signed = weights == "s8"
        self._arrays: Arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._producers = {out: node for node in model.graph.node for out in node.output}
        self._names: dict[str, str] = {}
        self._quantized: set[str] = set()
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}

    def model(self) -> ModelProto:
        """The rewritten model."""
        graph = self._source.graph
        for node in graph.node:
            self._visit(node)
        outputs = {value.name for value in graph.output}
        for node in self._nodes:
            # the last dequantized tensors are the outputs
            renamed = {self._names[name]: name for name in outputs if name in self._names}
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        kept = {name for node in self._nodes for name in node.input}
        for name in kept & self._arrays.keys():
            self._initializer(name, self._arrays[name])
        made = helper.make_graph(
            self._nodes, f"{graph.name}_dynamic", graph.input, graph.output,
            list(self._initializers.values()),
        )  # fmt: skip
        macs = next(e.value for e in self._source.metadata_props if e.key == "macs")
        return checked_model(made, int(macs))

    def _visit(self, node: NodeProto) -> None:
        if node.op_type == "QuantizeLinear":
            self._names[node.output[0]] = self._name(node.input[0])
        elif node.op_type == "DequantizeLinear":
            if node.input[0] not in self._arrays:
                self._names[node.output[0]] = self._name(node.input[0])
        elif node.op_type in ("Conv", "Gemm"):
            self._product(node)
        else:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [self._name(name) for name in node.input]
            self._nodes.append(copy)

    def _product(self, node: NodeProto) -> None:
        x = self._name(node.input[0])
        w, w_scale = self._weights(node)
        bias = self._bias(node)
        y = node.output[0]
        activation = self._activation(y)
        biased = f"{y}_biased" if activation else y
        if x not in self._quantized:
            self._quantized.add(x)
            made = [f"{x}_{part}" for part in PARTS]
            self._nodes.append(helper.make_node("DynamicQuantizeLinear", [x], made, f"{x}_range"))
        op = "ConvInteger" if node.op_type == "Conv" else "MatMulInteger"
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attrs.pop("transB", None)  # `_weights` has turned them
        quantized, x_scale, x_zero_point = (f"{x}_{part}" for part in PARTS)
        inputs = [quantized, w, x_zero_point, f"{w}_zero_point"]
        for made_node in (
            helper.make_node(op, inputs, [f"{y}_sums"], y, **attrs),
            helper.make_node(
                "Cast", [f"{y}_sums"], [f"{y}_cast"], f"{y}_cast", to=TensorProto.FLOAT
            ),
            helper.make_node("Mul", [x_scale, w_scale], [f"{y}_scales"], f"{y}_scales"),
            helper.make_node("Mul", [f"{y}_cast", f"{y}_scales"], [f"{y}_scaled"], f"{y}_scale"),
            helper.make_node("Add", [f"{y}_scaled", bias], [biased], f"{y}_bias"),
        ):
            self._nodes.append(made_node)
        if activation == "Relu":
            self._nodes.append(helper.make_node("Relu", [biased], [y], f"{y}_relu"))
        elif activation:
            ends = [self._initializer(f"clip_{v}", np.array(v, np.float32)) for v in (0, 6)]
            self._nodes.append(helper.make_node("Clip", [biased, *ends], [y], f"{y}_clip"))

    def _activation(self, y: str) -> str:
        """What the integers behind `y` hold it to: "Relu6", "Relu" or nothing."""
        users = [n for n in self._source.graph.node if y in n.input]
        if [n.op_type for n in users] != ["QuantizeLinear"]:
            return ""
        scale, zero_point = (self._arrays[name] for name in users[0].input[1:])
        if zero_point != 0:
            return ""
        return "Relu6" if abs(scale * 255 - 6) < 1e-3 else "Relu"

    def _weights(self, node: NodeProto) -> tuple[str, str]:
        """Names of the stored weights and of their scale."""
        stored, scale, _ = self._producers[node.input[1]].input
        w = self._arrays[stored].T if node.op_type == "Gemm" else self._arrays[stored]
        zero_point = np.zeros((), np.int8)
        if not self._signed:
            w = (w.astype(np.int16) + 128).astype(np.uint8)
            zero_point = np.full((), 128, np.uint8)
        self._initializer(stored, np.ascontiguousarray(w))
        self._initializer(f"{stored}_zero_point", zero_point)
        return stored, scale

    def _bias(self, node: NodeProto) -> str:
        """The float bias, shaped to be added to the result."""
        stored, scale, _ = self._producers[node.input[2]].input
        bias = (self._arrays[stored] * self._arrays[scale]).astype(np.float32)
        return self._initializer(
            stored, bias.reshape(1, -1, 1, 1) if node.op_type == "Conv" else bias
        )

    def _name(self, name: str) -> str:
        return self._names.get(name, name)

    def _initializer(self, name: str, array: NDArray[Any]) -> str:
        self._initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name
