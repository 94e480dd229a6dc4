"""Check what was passed to `run` against a model's inputs; all exact, nothing cast in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.api.arguments import Argument, shown
from qrt.errors import InputError
from qrt.ir.types import dtype_named, inner_type

Array = np.ndarray[Any, Any]


def checked_feeds(arguments: Sequence[Argument], feeds: Mapping[str, Any]) -> list[Any]:
    """Values in the order of `arguments`: arrays of their dtypes and with shapes that fit.

    Raises InputError naming the input, what was expected and what came.
    """
    if not isinstance(feeds, Mapping):
        raise InputError(f"inputs must be a dict of name to array, got {type(feeds).__name__}")
    names = [argument.name for argument in arguments]
    unknown = [name for name in feeds if name not in names]
    if unknown:
        raise InputError(f"no input is called {_quoted(unknown)}; the inputs are {_quoted(names)}")
    missing = [name for name in names if name not in feeds]
    if missing:
        raise InputError(f"missing input {_quoted(missing)}; the inputs are {_quoted(names)}")
    bound: dict[str, tuple[int, str]] = {}
    arrays: list[Any] = []
    for argument in arguments:
        if argument.container:
            arrays.append(as_container(feeds[argument.name], argument.container, argument))
            continue
        array = as_tensor(feeds[argument.name], argument)
        check_shape(array.shape, argument, bound)
        arrays.append(array)
    return arrays


def as_container(value: Any, kind: str, argument: Argument) -> Any:
    """`value` as Python has a value of the ONNX type `kind`: a list of arrays, an optional None."""
    outer, inner = inner_type(kind)
    if outer == "optional":
        return None if value is None else as_container(value, inner, argument)
    if outer == "seq":
        if not isinstance(value, (list, tuple)):
            raise InputError(
                f"input {argument.name!r}: expected {argument.type}, a list, got"
                f" {type(value).__name__}"
            )
        return [as_container(item, inner, argument) for item in value]
    return as_tensor(value, Argument(argument.name, dtype_named(kind), None))


def as_tensor(value: Any, argument: Argument) -> Array:
    """`value` as an array of the argument's dtype.

    An array must have that dtype already (byte order aside). Python numbers and lists have no
    dtype: they become the argument's when that keeps their kind and, for integers, their value.
    """
    expected = argument.dtype
    plain = isinstance(value, (bool, int, float, complex, list, tuple))
    untyped = plain and not isinstance(value, np.generic)  # np.float64 is a float, too
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever an object's __array__ raises
        raise InputError(f"{_what(argument)}: not an array: {error}") from error
    if expected is None or array.dtype == expected:
        return array
    if expected.hasobject and array.dtype.kind in "SU":
        return array.astype(object)
    if untyped and array.size == 0:
        return array.astype(expected)
    if not untyped and array.dtype.newbyteorder("=") == expected:
        return array.astype(expected)
    if untyped and array.dtype.kind in "iuf" and _keeps(array, expected):
        return array.astype(expected)
    came = f"{array.dtype}" if not untyped else f"{type(value).__name__} of {array.dtype}"
    raise InputError(f"{_what(argument)}, got {came}; convert it with .astype where that is meant")


def check_shape(
    shape: tuple[int, ...], argument: Argument, bound: dict[str, tuple[int, str]]
) -> None:
    """Raise InputError unless `shape` fits; `bound` collects named dimensions and who set them."""
    if argument.dims is None:
        return
    if len(shape) != len(argument.dims):
        raise InputError(
            f"{_what(argument)}: rank must be {len(argument.dims)}, got rank {len(shape)},"
            f" shape {shown(shape)}"
        )
    for axis, (dim, size) in enumerate(zip(argument.dims, shape, strict=True)):
        if isinstance(dim, int) and dim != size:
            raise InputError(
                f"{_what(argument)}: dimension {axis} must be {dim}, got {size},"
                f" shape {shown(shape)}"
            )
        if isinstance(dim, str):
            other, owner = bound.setdefault(dim, (size, argument.name))
            if other != size:
                raise InputError(
                    f"{_what(argument)}: dimension {axis} ({dim!r}) is {size}, but {dim!r} is"
                    f" {other} in input {owner!r}"
                )


def _keeps(array: Array, expected: np.dtype[Any]) -> bool:
    if expected.kind in "iu":
        if array.dtype.kind == "f":
            return False
        limits = np.iinfo(expected)
        return bool(array.min() >= limits.min and array.max() <= limits.max)
    if array.dtype.kind == "f":
        return expected.kind in "fc" or expected.kind == "V"  # ml_dtypes' floats have kind V
    with np.errstate(all="ignore"):
        return expected.kind in "fcV" and bool(
            (array.astype(expected).astype(object) == array).all()
        )


def _what(argument: Argument) -> str:
    return f"input {argument.name!r}: expected {argument.dtype} of {argument.shown_shape}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "(none)"
