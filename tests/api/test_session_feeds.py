"""What `run` takes and refuses; every refusal names input, rule and what came."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qrt.api.arguments import Argument
from qrt.api.feeds import as_tensor, checked_feeds
from qrt.errors import InputError

F32 = np.dtype(np.float32)
A = Argument("a", F32, ("N", 3))
B = Argument("b", F32, ("N", None))


def ones(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    "feeds, message",
    [
        ({"a": ones(2, 3)}, r"missing input 'b'; the inputs are 'a', 'b'"),
        ({"a": ones(2, 3), "c": 1, "b": ones(2, 1)}, r"no input is called 'c'; .* 'a', 'b'"),
        ({"a": ones(2, 4), "b": ones(2, 1)}, r"'a': .*dimension 1 must be 3, got 4, .*\(2, 4\)"),
        ({"a": ones(3), "b": ones(2, 1)}, r"'a': .*\(N, 3\): rank must be 2, got rank 1, .*\(3\)"),
        ({"a": ones(2, 3), "b": ones(5, 1)}, r"'b': .*dimension 0 \('N'\) is 5, but 'N' is 2 in"),
        ({"a": ones(2, 3).astype(float), "b": ones(2, 1)}, r"'a': expected float32 .* got float64"),
        ({"a": None, "b": ones(2, 1)}, r"'a': expected float32 of \(N, 3\), got object"),
        ({"a": "text", "b": ones(2, 1)}, r"'a': expected float32"),
        ({"a": [[1, 2, 3], [4]], "b": ones(2, 1)}, r"'a': .*not an array"),
        ([ones(2, 3)], r"must be a dict of name to array, got list"),
        (None, r"must be a dict of name to array, got NoneType"),
    ],
)
def test_refusals(feeds: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_feeds([A, B], feeds)


def test_order_is_the_models() -> None:
    a, b = ones(2, 3), ones(2, 7)
    got = checked_feeds([A, B], {"b": b, "a": a})
    assert got[0] is a and got[1] is b


def tensor_of(value: Any, dtype: Any) -> np.ndarray[Any, Any]:
    return as_tensor(value, Argument("x", np.dtype(dtype), None))


@pytest.mark.parametrize(
    "value, dtype",
    [
        ([1, 2, 255], np.uint8),
        ([-128, 127], np.int8),
        ([[1.5, 0.1]], np.float32),
        (3, np.float32),
        (2.5, np.float64),
        (7, np.int64),
        (True, np.bool_),
        ([True, False], np.bool_),
        ([], np.float32),
        ((1, 2), np.int32),
        (1.5, ml_dtypes.bfloat16),
        (3, np.float16),
    ],
)
def test_untyped_numbers_become_the_inputs_dtype(value: Any, dtype: Any) -> None:
    got = tensor_of(value, dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, np.asarray(value).astype(dtype))


@pytest.mark.parametrize(
    "value, dtype",
    [
        ([256], np.uint8),
        ([-1], np.uint8),
        (1 << 70, np.int64),
        (1.0, np.int64),
        ([1.5], np.uint8),
        (True, np.uint8),
        (True, np.float32),
        (1, np.bool_),
        (1 << 24 | 1, np.float32),
        (1j, np.float32),
        ("a", np.float32),
        (np.float64(1), np.float32),
        (np.float32(1), np.float64),
        (np.arange(3), np.int32),
        (np.ones(3, np.float16), np.float32),
        (np.ones(3, np.uint8), np.int8),
        (np.ones(3, np.uint8), np.bool_),
    ],
)
def test_what_would_change_is_refused(value: Any, dtype: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        tensor_of(value, dtype)


def test_byte_order_is_not_a_dtype_of_its_own() -> None:
    x = np.arange(5, dtype=">f4")
    got = tensor_of(x, np.float32)
    assert got.dtype == F32
    np.testing.assert_array_equal(got, x)


def test_array_likes() -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            return np.arange(3, dtype=np.float32)

    class Broken:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            raise RuntimeError("on another device")

    np.testing.assert_array_equal(tensor_of(Tensor(), np.float32), [0, 1, 2])
    with pytest.raises(InputError, match="on another device"):
        tensor_of(Broken(), np.float32)


@pytest.mark.parametrize(
    "dtype, text",
    [
        (np.float32, "tensor(float)"),
        (np.float64, "tensor(double)"),
        (np.float16, "tensor(float16)"),
        (np.uint8, "tensor(uint8)"),
        (np.int8, "tensor(int8)"),
        (np.int64, "tensor(int64)"),
        (np.bool_, "tensor(bool)"),
        (ml_dtypes.bfloat16, "tensor(bfloat16)"),
        (object, "tensor(string)"),
    ],
)
def test_type_strings_are_onnx_runtimes(dtype: Any, text: str) -> None:
    assert Argument("x", np.dtype(dtype), (1,)).type == text
