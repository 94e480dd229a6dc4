"""TypeProto and ValueInfoProto to dtype and shape."""

from __future__ import annotations

import onnx
from onnx import TypeProto, ValueInfoProto

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.graph import Dim, Shape, Value
from qrt.ir.types import onnx_name
from qrt.loader.limits import Limits
from qrt.loader.names import checked_name
from qrt.loader.tensors import element_dtype


def read_input(info: ValueInfoProto, name: str, what: str, limits: Limits) -> Value:
    """A graph input, which must say its type: a tensor's, or a container's."""
    kind = info.type.WhichOneof("value")
    if kind is None:
        raise ModelError(f"{what}: must say its type, it does not")
    if kind != "tensor_type":
        return Value(name, container=read_container(info.type, what))
    dtype = element_dtype(info.type.tensor_type.elem_type)
    if dtype is None:
        raise ModelError(f"{what}: unknown element type {info.type.tensor_type.elem_type}")
    return Value(name, dtype, read_shape(info.type.tensor_type, what, limits))


def read_hint(info: ValueInfoProto, what: str, limits: Limits) -> Value | None:
    """What a value_info claims; unnamed. None when it says no type."""
    kind = info.type.WhichOneof("value")
    if kind is None:
        return None
    if kind != "tensor_type":
        return Value("", container=read_container(info.type, what))
    tensor_type = info.type.tensor_type
    return Value("", element_dtype(tensor_type.elem_type), read_shape(tensor_type, what, limits))


def read_container(proto: TypeProto, what: str) -> str:
    """The type of a sequence or optional in ONNX Runtime's spelling: seq(tensor(float)).

    Raises UnsupportedError for maps, sparse tensors and opaque types.
    """
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        dtype = element_dtype(proto.tensor_type.elem_type)
        return "tensor()" if dtype is None else f"tensor({onnx_name(dtype)})"
    if kind == "sequence_type":
        return f"seq({read_container(proto.sequence_type.elem_type, what)})"
    if kind == "optional_type":
        return f"optional({read_container(proto.optional_type.elem_type, what)})"
    if kind is None:
        return "tensor()"
    raise UnsupportedError(
        f"{what}: must be a tensor, a sequence or an optional, got {kind.removesuffix('_type')}"
    )


def read_shape(tensor_type: TypeProto.Tensor, what: str, limits: Limits) -> Shape | None:
    """Dims as int, str (dim_param) or None; None when even the rank is unknown."""
    if not tensor_type.HasField("shape"):
        return None
    dims = tensor_type.shape.dim
    if len(dims) > limits.max_rank:
        raise ModelError(f"{what}: a tensor may have {limits.max_rank} dimensions, got {len(dims)}")
    return tuple(_read_dim(dim, what, limits) for dim in dims)


def _read_dim(dim: onnx.TensorShapeProto.Dimension, what: str, limits: Limits) -> Dim:
    kind = dim.WhichOneof("value")
    if kind == "dim_value":
        if dim.dim_value < 0:
            raise ModelError(
                f"{what}: dimensions must not be negative, got {dim.dim_value};"
                " a dynamic one is a name (dim_param)"
            )
        return int(dim.dim_value)
    if kind == "dim_param":
        return checked_name(dim.dim_param, f"{what}: a dimension", limits) or None
    return None
