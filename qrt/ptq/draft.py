"""Draft: an ONNX model being rewritten, with what rewriting asks for at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qrt.errors import ModelError, UnsupportedError
from qrt.loader.external import ExternalFiles
from qrt.loader.limits import DEFAULT_LIMITS
from qrt.loader.source import read_model
from qrt.quant.affine import Array

Model = str | os.PathLike[str] | bytes | onnx.ModelProto
PRODUCER = "qrt"


class Draft:
    """The nodes and constants of a model; `model()` writes what became of them.

    `arrays` are the initializers. `normals` has what BatchNormalization told of the tensors it
    wrote: mean and deviation of each channel (channels,) on the data of the training.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.graph = proto.graph
        self.arrays: dict[str, Array] = {
            t.name: numpy_helper.to_array(t) for t in self.graph.initializer
        }
        self.nodes: list[onnx.NodeProto] = list(self.graph.node)
        self.normals: dict[str, tuple[Array, Array]] = {}
        self._names = {
            *self.arrays,
            *(v.name for v in (*self.graph.input, *self.graph.output)),
            *(name for node in self.nodes for name in (*node.input, *node.output, node.name)),
        }

    @classmethod
    def of(cls, model: Model) -> Draft:
        """A draft of its own of `model`: a path, bytes or ModelProto, which stays as it is.

        Raises ModelError for what cannot be read or is not valid.
        """
        proto, folder = read_model(model, DEFAULT_LIMITS)
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        _take_in(copy.graph, ExternalFiles(folder))
        try:
            onnx.checker.check_model(copy)
            return cls(copy)
        # ValueError: a tensor with more or fewer bytes than its shape has
        except (onnx.checker.ValidationError, ValueError) as error:
            raise ModelError(f"not a valid model: {str(error).splitlines()[0][:300]}") from None

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """Graph inputs that are no constants."""
        return [v for v in self.graph.input if v.name not in self.arrays]

    @property
    def outputs(self) -> set[str]:
        """Names of the graph's outputs."""
        return {v.name for v in self.graph.output}

    def opset(self, domain: str = "") -> int:
        """The version of `domain` that the model uses; 0 for none."""
        names = (domain, "ai.onnx") if domain == "" else (domain,)
        return next((o.version for o in self.proto.opset_import if o.domain in names), 0)

    def need_opset(self, version: int) -> None:
        """Raise ONNX's opset to at least `version`, by onnx's converter."""
        if self.opset() >= version:
            return
        proto = self.model(check=False)
        try:
            converted = onnx.version_converter.convert_version(proto, version)
        except Exception as error:
            raise UnsupportedError(
                f"opset {self.opset()} cannot be raised to {version}, which this quantization"
                f" needs: {str(error).splitlines()[0][:200]}"
            ) from None
        normals = self.normals
        self.__init__(converted)  # type: ignore[misc]
        self.normals = normals

    def need_domain(self, domain: str, version: int = 1) -> None:
        """Import `domain` where the model does not yet."""
        if not self.opset(domain):
            self.proto.opset_import.append(helper.make_opsetid(domain, version))

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that writes each tensor."""
        return {name: node for node in self.nodes for name in node.output if name}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor, once per node."""
        uses: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    uses.setdefault(name, []).append(node)
        return uses

    def captured(self) -> set[str]:
        """Names that subgraphs of nodes read."""
        outer = {id(node) for node in self.nodes}
        inner = (node for node in self.every(self.nodes) if id(node) not in outer)
        return {name for node in inner for name in node.input}

    def fresh(self, name: str) -> str:
        """`name`, or with a number when it is taken."""
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}_{number}"
        self._names.add(unique)
        return unique

    def constant(self, name: str, array: Array) -> str:
        """The name under which `array` is now an initializer."""
        unique = self.fresh(name)
        self.arrays[unique] = np.ascontiguousarray(array).reshape(np.shape(array))
        return unique

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attrs: Any
    ) -> onnx.NodeProto:
        """A node with a name of its own; the caller puts it where it belongs."""
        name = self.fresh(f"{outputs[0]}_{op}")
        return helper.make_node(op, inputs, outputs, name, domain=domain, **attrs)

    def floats(self) -> set[str]:
        """The names of all float32 tensors, by ONNX's type inference."""
        inferred = onnx.shape_inference.infer_shapes(self.model(check=False), data_prop=True)
        known = {name for name, array in self.arrays.items() if array.dtype == np.float32}
        graph = inferred.graph
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
                known.add(value.name)
        return known

    def model(self, check: bool = True) -> onnx.ModelProto:
        """The model as it is now, without constants that nothing reads.

        Raises what onnx's checker raises when that refuses it: that is our mistake.
        """
        made = onnx.ModelProto()
        made.CopyFrom(self.proto)
        graph = made.graph
        read = {name for node in self.every(self.nodes) for name in node.input}
        read |= self.outputs
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        for name, array in self.arrays.items():
            if name in read:
                graph.initializer.append(numpy_helper.from_array(array, name))
        # what is listed as an input, too, could be fed: packed weights cannot
        inputs = [v for v in graph.input if v.name not in self.arrays]
        del graph.input[:]
        graph.input.extend(inputs)
        made.producer_name = PRODUCER
        made.ir_version = max(made.ir_version, 8)
        if check:
            onnx.checker.check_model(made, full_check=True)
        return made

    def every(self, nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        """The nodes, and those of their subgraphs."""
        for node in nodes:
            yield node
            for attribute in node.attribute:
                graphs = [attribute.g] if attribute.HasField("g") else attribute.graphs
                for graph in graphs:
                    yield from self.every(graph.node)


def _take_in(graph: onnx.GraphProto, files: ExternalFiles) -> None:
    """Data of constants that lie in other files, into the graph and its subgraphs."""
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                _take_in(inner, files)
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.raw_data = files.read(tensor, f"tensor '{tensor.name}'").tobytes()
            tensor.ClearField("data_location")
            del tensor.external_data[:]


def halves_hint(draft: Draft) -> str:
    """What to say besides where nothing was found to quantize."""
    half = [name for name, array in draft.arrays.items() if array.dtype == np.float16]
    if not half:
        return ""
    return f"; its constants are float16 ('{half[0]}'): take the float32 model it was made from"


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def label(node: onnx.NodeProto) -> str:
    """How messages name a node."""
    return f"{node.op_type} '{node.name or node.output[0]}'"
