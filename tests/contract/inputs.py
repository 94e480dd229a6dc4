"""Inputs of a node by position: required or optional, as a value or as an array."""

from __future__ import annotations

from .values import Array, Dequantized, UnsupportedError, Value, real

Values = list[Value | None]


def value_at(values: Values, i: int) -> Value:
    """Required input `i` in whatever form it has."""
    value = values[i] if i < len(values) else None
    if value is None:
        raise UnsupportedError(f"input {i} is required")
    return value


def array_at(values: Values, i: int) -> Array:
    """Required input `i` as an array."""
    return real(value_at(values, i))


def optional_array(values: Values, i: int) -> Array | None:
    """Input `i` as an array, None when it is absent."""
    value = values[i] if i < len(values) else None
    return None if value is None else real(value)


def integers_at(values: Values, i: int) -> tuple[int, ...]:
    """Required input `i`, a tensor of integers such as axes or a shape."""
    return tuple(int(v) for v in array_at(values, i).reshape(-1))


def optional_integers(values: Values, i: int) -> tuple[int, ...] | None:
    """Input `i` like `integers_at`, None when it is absent."""
    return None if optional_array(values, i) is None else integers_at(values, i)


def dequantized_at(values: Values, i: int) -> Dequantized:
    """Required input `i`, which must still know its integers."""
    value = value_at(values, i)
    if not isinstance(value, Dequantized):
        raise UnsupportedError(f"input {i} must be a dequantized tensor")
    return value
