"""TensorProto to NumPy: every element type, both spellings, and sizes that lie."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qrt.errors import ModelError, UnsupportedError
from qrt.loader.external import ExternalFiles
from qrt.loader.limits import Limits
from qrt.loader.tensors import TensorReader, element_dtype

KINDS = {
    name: kind
    for name, kind in TensorProto.DataType.items()
    if kind != TensorProto.UNDEFINED and element_dtype(kind) is not None
}


def read(tensor: TensorProto, **limits: int) -> np.ndarray[Any, Any]:
    return TensorReader(ExternalFiles(None), Limits(**limits)).read(tensor, "initializer 't'")


def sample(kind: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Every code of a small type somewhere; values exact in every float type."""
    count = int(np.prod(shape))
    dtype = element_dtype(kind)
    assert dtype is not None
    if kind == TensorProto.STRING:
        return np.array([f"s{i}é" for i in range(count)], object).reshape(shape)
    if dtype.kind == "c":
        return (np.arange(count) - 1j * np.arange(count)).astype(dtype).reshape(shape)
    return np.resize(np.array([0, 1, 2, 3, 1, 0, 2]), count).astype(dtype).reshape(shape)


def bits(a: np.ndarray[Any, Any]) -> Any:
    return a.tolist() if a.dtype == object else (a.dtype, a.shape, a.tobytes())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (0,), (3, 0, 2)])
def test_raw_data(name: str, shape: tuple[int, ...]) -> None:
    want = sample(KINDS[name], shape)
    got = read(numpy_helper.from_array(want))
    assert bits(got) == bits(want)
    assert got.shape == shape
    assert got.flags.c_contiguous and got.flags.aligned and not got.flags.writeable


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (0,)])
def test_typed_fields(name: str, shape: tuple[int, ...]) -> None:
    want = sample(KINDS[name], shape)
    tensor = helper.make_tensor("t", KINDS[name], shape, want.reshape(-1))
    assert not tensor.HasField("raw_data") or name.startswith("FLOAT6")
    assert bits(read(tensor)) == bits(want)


@pytest.mark.parametrize("name", ["INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64"])
def test_extremes_of_integers(name: str) -> None:
    dtype = element_dtype(KINDS[name])
    assert dtype is not None
    want = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max, 0], dtype)
    assert bits(read(numpy_helper.from_array(want))) == bits(want)
    assert bits(read(helper.make_tensor("t", KINDS[name], [3], want))) == bits(want)


def test_extremes_of_four_and_two_bits() -> None:
    for dtype in (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2):
        info = ml_dtypes.iinfo(dtype)
        values = np.arange(int(info.min), int(info.max) + 1)
        want = np.append(values, info.min).astype(dtype)
        got = read(numpy_helper.from_array(want))
        assert got.dtype == dtype
        assert got.astype(np.int32).tolist() == [*values, int(info.min)]
        # one code for each value, whatever the unused bits of the byte were
        assert got.tobytes() == want.tobytes()


def test_float_bits_survive() -> None:
    for dtype, codes in ((np.float16, np.uint16), (ml_dtypes.bfloat16, np.uint16)):
        want = np.arange(0, 65536, 7, dtype=codes).view(dtype)
        assert read(numpy_helper.from_array(want)).tobytes() == want.tobytes()
    want32 = np.array([np.nan, np.inf, -0.0, 1e-45], np.float32)
    assert read(numpy_helper.from_array(want32)).tobytes() == want32.tobytes()


def test_bool_bytes_are_made_zero_or_one() -> None:
    tensor = TensorProto(data_type=TensorProto.BOOL, dims=[3], raw_data=b"\x00\x01\x07")
    assert read(tensor).view(np.uint8).tolist() == [0, 1, 1]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "undefined type": ({"data_type": 0, "dims": [1], "raw_data": b"1234"}, "element type 0"),
    "unknown type": ({"data_type": 99, "dims": [1], "raw_data": b"1234"}, "element type 99"),
    "negative dim": ({"data_type": 1, "dims": [2, -3], "raw_data": b""}, "not be negative"),
    "short": ({"data_type": 1, "dims": [2], "raw_data": b"1234567"}, "needs 8 bytes, got 7"),
    "long": ({"data_type": 1, "dims": [2], "raw_data": b"123456789"}, "needs 8 bytes, got 9"),
    "no data": ({"data_type": 1, "dims": [2]}, "needs 8 bytes, got 0"),
    "scalar without data": ({"data_type": 1}, "needs 4 bytes, got 0"),
    "huge": ({"data_type": 1, "dims": [2**40]}, "may have"),
    "product wraps around": ({"data_type": 1, "dims": [2**32, 2**32]}, "may have"),
    "huge beside zero": ({"data_type": 1, "dims": [0, 2**62, 2**62]}, "may have"),
    "rank": ({"data_type": 1, "dims": [1] * 33, "raw_data": b"1234"}, "32 dimensions"),
    "int4 short": ({"data_type": 22, "dims": [5], "raw_data": b"12"}, "needs 3 bytes, got 2"),
    "int4 long": ({"data_type": 22, "dims": [5], "raw_data": b"1234"}, "needs 3 bytes, got 4"),
    "field short": ({"data_type": 1, "dims": [3], "float_data": [1, 2]}, "needs 3 values"),
    "field long": ({"data_type": 1, "dims": [1], "float_data": [1, 2]}, "needs 1 values"),
    "complex field": ({"data_type": 14, "dims": [2], "float_data": [1, 2]}, "needs 4 values"),
    "wrong field": ({"data_type": 1, "dims": [1], "int32_data": [1]}, "must be in float_data"),
    "two fields": (
        {"data_type": 3, "dims": [1], "int32_data": [1], "int64_data": [1]},
        "must be in",
    ),
    "twice": ({"data_type": 1, "dims": [1], "float_data": [1], "raw_data": b"1234"}, "twice"),
    "int8 range": ({"data_type": 3, "dims": [1], "int32_data": [128]}, "-128 to 127, got 128"),
    "uint8 range": ({"data_type": 2, "dims": [1], "int32_data": [-1]}, "0 to 255, got -1"),
    "uint32 range": ({"data_type": 12, "dims": [1], "uint64_data": [2**32]}, "got 4294967296"),
    "float16 range": ({"data_type": 10, "dims": [1], "int32_data": [65536]}, "0 to 65535"),
    "int4 field range": ({"data_type": 22, "dims": [2], "int32_data": [256]}, "0 to 255"),
    "strings": ({"data_type": 8, "dims": [2], "string_data": [b"a"]}, "needs 2 strings, got 1"),
    "raw strings": ({"data_type": 8, "dims": [1], "raw_data": b"a"}, "string_data"),
    "not text": ({"data_type": 8, "dims": [1], "string_data": [b"\xff"]}, "UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    fields, says = BAD[name]
    with pytest.raises(ModelError, match=says) as caught:
        read(TensorProto(**fields))
    assert str(caught.value).startswith("initializer 't': ")


def test_segments_are_refused() -> None:
    tensor = TensorProto(data_type=1, dims=[1], raw_data=b"1234")
    tensor.segment.begin = 0
    with pytest.raises(UnsupportedError, match="segments"):
        read(tensor)


def test_limits_on_one_tensor_and_on_all() -> None:
    tensor = numpy_helper.from_array(np.zeros(100, np.float32))
    with pytest.raises(ModelError, match="may have 399 bytes"):
        read(tensor, max_tensor_nbytes=399)
    reader = TensorReader(ExternalFiles(None), Limits(max_model_nbytes=800))
    reader.read(tensor, "a")
    reader.read(tensor, "b")
    with pytest.raises(ModelError, match="together"):
        reader.read(tensor, "c")
