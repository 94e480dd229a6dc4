"""Where the bytes of a model are: per layer and in total."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from qrt.loader.limits import DEFAULT_LIMITS
from qrt.loader.source import read_model
from qrt.ptq.draft import Model

_BITS = {
    onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4,
    getattr(onnx.TensorProto, "INT2", -1): 2, getattr(onnx.TensorProto, "UINT2", -2): 2,
    getattr(onnx.TensorProto, "FLOAT4E2M1", -3): 4,
}  # fmt: skip
# constants of these belong to the node that reads what they make
_DEQUANTIZERS = ("DequantizeLinear", "Cast", "Identity", "Transpose", "Reshape")


@dataclass(frozen=True)
class LayerSize:
    """Bytes of the constants of one node (and of what only makes them real)."""

    layer: str
    op: str
    elements: int
    nbytes: int


@dataclass(frozen=True)
class ModelSize:
    """Layers in the order of the graph, and the serialized size of it all, external data too."""

    layers: tuple[LayerSize, ...]
    file_nbytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of all constants."""
        return sum(layer.nbytes for layer in self.layers)


def model_size(model: Model) -> ModelSize:
    """Bytes per layer of a path, bytes or ModelProto."""
    proto, _ = read_model(model, DEFAULT_LIMITS)
    graph = proto.graph
    constants = {t.name: _size(t) for t in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                constants[node.output[0]] = _size(attribute.t)
    # follow what only makes a constant real, so that its bytes count for the layer
    owned = {name: [name] for name in constants}
    for node in graph.node:
        sources = [name for name in node.input if name]
        makes = node.op_type in _DEQUANTIZERS and all(name in owned for name in sources)
        if makes and sources:
            owned[node.output[0]] = [c for name in sources for c in owned[name]]
    layers, counted = [], set()
    for i, node in enumerate(graph.node):
        if node.output and node.output[0] in owned:
            continue
        found = [c for name in node.input for c in owned.get(name, ()) if c not in counted]
        counted.update(found)
        if found:
            found = list(dict.fromkeys(found))
            layers.append(
                LayerSize(
                    node.name or f"#{i}",
                    node.op_type,
                    sum(constants[c][0] for c in found),
                    sum(constants[c][1] for c in found),
                )
            )
    apart = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    file_nbytes = proto.ByteSize() + sum(_size(tensor)[1] for tensor in apart)
    return ModelSize(tuple(layers), file_nbytes)


def _size(tensor: onnx.TensorProto) -> tuple[int, int]:
    """(elements, bytes) of a constant."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        try:
            bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except (KeyError, TypeError):
            bits = 8
    return count, -(-count * bits // 8)
