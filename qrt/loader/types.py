"""TypeProto and ValueInfoProto to dtype and shape."""

from __future__ import annotations

import onnx
from onnx import TypeProto, ValueInfoProto

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.graph import Dim, Shape, Value
from qrt.loader.limits import Limits
from qrt.loader.names import checked_name
from qrt.loader.tensors import element_dtype


def read_input(info: ValueInfoProto, name: str, what: str, limits: Limits) -> Value:
    """A graph input, which must say that it is a tensor, and of which type."""
    refuse_non_tensor(info, what)
    if not info.type.HasField("tensor_type"):
        raise ModelError(f"{what}: must say its type, it does not")
    dtype = element_dtype(info.type.tensor_type.elem_type)
    if dtype is None:
        raise ModelError(f"{what}: unknown element type {info.type.tensor_type.elem_type}")
    return Value(name, dtype, read_shape(info.type.tensor_type, what, limits))


def read_hint(info: ValueInfoProto, what: str, limits: Limits) -> Value | None:
    """What a value_info claims, as far as it is a tensor; unnamed."""
    if not info.type.HasField("tensor_type"):
        return None
    tensor_type = info.type.tensor_type
    return Value("", element_dtype(tensor_type.elem_type), read_shape(tensor_type, what, limits))


def refuse_non_tensor(info: ValueInfoProto, what: str) -> None:
    """Sequences, maps, optionals and sparse tensors are valid ONNX that is not supported."""
    kind = info.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        raise UnsupportedError(f"{what}: must be a tensor, got {kind.removesuffix('_type')}")


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
