"""TensorProto to NumPy, its size proved against its dims before anything is allocated."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from qrt.errors import ModelError, UnsupportedError
from qrt.loader.external import ExternalFiles
from qrt.loader.limits import Limits

Array = np.ndarray[Any, Any]

# several elements share a byte in raw_data, the first in the lowest bits
_PACKED_BITS = {
    "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6
}  # fmt: skip
_FIELDS = (
    "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"
)  # fmt: skip


def element_dtype(data_type: int) -> np.dtype[Any] | None:
    """NumPy's dtype of an ONNX element type (bfloat16 and kin: ml_dtypes); None when unknown."""
    if data_type == TensorProto.UNDEFINED or data_type not in TensorProto.DataType.values():
        return None
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    except KeyError:
        return None


class TensorReader:
    """Reads the tensors of one model and keeps count of their bytes."""

    def __init__(self, files: ExternalFiles, limits: Limits) -> None:
        self._files = files
        self._limits = limits
        self._nbytes = 0

    def read(self, tensor: TensorProto, what: str) -> Array:
        """The elements as a read-only, C-contiguous, aligned array; `what` leads every message."""
        dtype = element_dtype(tensor.data_type)
        if dtype is None:
            raise ModelError(f"{what}: unknown element type {tensor.data_type}")
        if tensor.HasField("segment"):
            raise UnsupportedError(f"{what}: a tensor in segments is not supported")
        shape = checked_dims(tensor.dims, what, self._limits)
        count = math.prod(shape)
        # zero-sized dims do not hide an absurd one: NumPy's strides still multiply the others
        nbytes = math.prod(max(d, 1) for d in shape) * dtype.itemsize
        if nbytes > self._limits.max_tensor_nbytes:
            raise ModelError(
                f"{what}: a tensor may have {self._limits.max_tensor_nbytes} bytes,"
                f" shape {_dims(shape)} of {dtype} has {nbytes}"
            )
        self._nbytes += count * dtype.itemsize
        if self._nbytes > self._limits.max_model_nbytes:
            raise ModelError(
                f"{what}: the tensors of a model may have {self._limits.max_model_nbytes} bytes"
                " together, this one exceeds it"
            )
        array = self._elements(tensor, dtype, shape, count, what).reshape(shape)
        if not array.flags.aligned:
            array = array.copy()
        array.flags.writeable = False
        return array

    def _elements(
        self,
        tensor: TensorProto,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        count: int,
        what: str,
    ) -> Array:
        """The elements in one dimension, from wherever the tensor keeps them."""
        kind = TensorProto.DataType.Name(tensor.data_type)
        if tensor.data_location == TensorProto.EXTERNAL:
            if kind == "STRING":
                raise ModelError(f"{what}: strings cannot be external data")
            return _from_raw(self._files.read(tensor, what), kind, dtype, shape, count, what)
        used = [name for name in _FIELDS if len(getattr(tensor, name))]
        raw = tensor.raw_data  # one access: each makes a copy
        if raw and used:
            raise ModelError(f"{what}: has its elements twice, in raw_data and {used[0]}")
        if kind == "STRING":
            return _from_strings(tensor, used, raw, shape, count, what)
        if raw or not used:
            return _from_raw(np.frombuffer(raw, np.uint8), kind, dtype, shape, count, what)
        return _from_field(tensor, used, kind, dtype, shape, count, what)


def checked_dims(dims: Any, what: str, limits: Limits) -> tuple[int, ...]:
    """`dims` as a tuple: not too many, none negative."""
    if len(dims) > limits.max_rank:
        raise ModelError(f"{what}: a tensor may have {limits.max_rank} dimensions, got {len(dims)}")
    shape = tuple(int(d) for d in dims)
    if any(d < 0 for d in shape):
        raise ModelError(f"{what}: dimensions must not be negative, got {_dims(shape)}")
    return shape


def _from_raw(
    raw: Array, kind: str, dtype: np.dtype[Any], shape: tuple[int, ...], count: int, what: str
) -> Array:
    """Little-endian bytes to elements (TensorProto.raw_data)."""
    bits = _PACKED_BITS.get(kind, dtype.itemsize * 8)
    need = (count * bits + 7) // 8
    if raw.size != need:
        raise ModelError(
            f"{what}: shape {_dims(shape)} of {kind.lower()} needs {need} bytes, got {raw.size}"
        )
    if kind in _PACKED_BITS:
        return _unpack(raw, kind, dtype, count)
    if kind == "BOOL":
        # a byte other than 0 and 1 is not a NumPy bool
        return raw.view(np.bool_) if raw.size == 0 or raw.max() <= 1 else raw != 0
    if sys.byteorder == "big":
        raw = raw.reshape(count, dtype.itemsize)[:, ::-1].copy().reshape(-1)
    return raw.view(dtype)


def _unpack(raw: Array, kind: str, dtype: np.dtype[Any], count: int) -> Array:
    """Elements of 2, 4 or 6 bits to the low bits of one byte each, as ml_dtypes keeps them."""
    bits = _PACKED_BITS[kind]
    if bits == 6:
        single = np.unpackbits(raw, bitorder="little", count=count * 6).reshape(count, 6)
        return np.packbits(single, axis=1, bitorder="little").reshape(count).view(dtype)
    per_byte = 8 // bits
    out = np.empty((raw.size, per_byte), np.uint8)
    for i in range(per_byte):
        out[:, i] = (raw >> np.uint8(bits * i)) & np.uint8(2**bits - 1)
    return out.reshape(-1)[:count].view(dtype)


def _from_field(
    tensor: TensorProto,
    used: list[str],
    kind: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    count: int,
    what: str,
) -> Array:
    """Elements from the typed field that onnx.proto assigns to the type."""
    field = helper.tensor_dtype_to_field(tensor.data_type)
    if used != [field]:
        raise ModelError(f"{what}: {kind.lower()} elements must be in {field}, got {used[0]}")
    values = getattr(tensor, field)
    bits = _PACKED_BITS.get(kind)
    # 2 and 4 bits: an entry is one byte of the packed form; complex: real and imaginary part
    halves = 2 if dtype.kind == "c" else 1
    need = (count * bits + 7) // 8 if bits in (2, 4) else count * halves
    if len(values) != need:
        raise ModelError(
            f"{what}: shape {_dims(shape)} of {kind.lower()} needs {need} values in {field},"
            f" got {len(values)}"
        )
    if dtype.kind == "c":
        parts: Array = np.array(values, np.float32 if dtype.itemsize == 8 else np.float64)
        return parts.view(dtype)
    if field != "int32_data":
        wide = np.array(values, {"uint64_data": np.uint64}.get(field, dtype))
        return _narrow(wide, dtype, kind, what)
    codes: Array = np.array(values, np.int32)
    if bits in (2, 4):
        return _unpack(_narrow(codes, np.dtype(np.uint8), kind, what), kind, dtype, count)
    if kind == "BOOL":
        return codes.astype(np.bool_)
    if dtype.kind in "iu" and dtype.type.__module__ == "numpy":
        return _narrow(codes, dtype, kind, what)
    # float16, bfloat16, float8, float6: the bits of the element
    unsigned = np.dtype(f"u{dtype.itemsize}")
    return _narrow(codes, unsigned, kind, what).view(dtype)


def _narrow(wide: Array, dtype: np.dtype[Any], kind: str, what: str) -> Array:
    """`wide` in the narrower integer `dtype`; refuses values that do not fit."""
    if wide.dtype == dtype:
        return wide
    bounds = np.iinfo(dtype)
    if wide.size and not (bounds.min <= int(wide.min()) and int(wide.max()) <= bounds.max):
        bad = wide[(wide < bounds.min) | (wide > bounds.max)][0]
        raise ModelError(
            f"{what}: {kind.lower()} elements must be stored as {bounds.min} to {bounds.max},"
            f" got {bad}"
        )
    return wide.astype(dtype)


def _from_strings(
    tensor: TensorProto, used: list[str], raw: bytes, shape: tuple[int, ...], count: int, what: str
) -> Array:
    """string_data to an object array of str."""
    values = tensor.string_data
    if raw or used not in ([], ["string_data"]):
        raise ModelError(f"{what}: string elements must be in string_data")
    if len(values) != count:
        raise ModelError(f"{what}: shape {_dims(shape)} needs {count} strings, got {len(values)}")
    array = np.empty(count, object)
    try:
        for i, value in enumerate(values):
            array[i] = value.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{what}: strings must be UTF-8, got {value[:40]!r}") from None
    return array


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def tensor_name(tensor: onnx.TensorProto) -> str:
    """The name for messages, whatever it is made of."""
    name = tensor.name
    return name[:200] if isinstance(name, str) else repr(name[:40])
