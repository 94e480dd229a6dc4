"""Text for a terminal and JSON for machines: nothing from a model reaches the screen raw."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO


def tolerate_encoding(*streams: TextIO) -> None:
    """Let `streams` write what their encoding lacks as escapes instead of failing."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(text: str) -> None:
    """Print `text`; control characters in names of a model must not drive the terminal."""
    print("\n".join(_printable(line) for line in text.split("\n")))


def one_line(text: str) -> str:
    """`text` without line breaks and control characters."""
    return _printable(" ".join(text.split("\n")).strip())


def show_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object in one line; NaN and infinities, which JSON lacks, become strings."""
    print(json.dumps(_jsonable(value), allow_nan=False))


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Labels and what is said of them, in two columns; an empty label goes on with the last."""
    width = max((len(label) for label, _ in rows), default=0)
    return "\n".join(f"{label:<{width}}  {text}".rstrip() for label, text in rows)


def shape_text(shape: Sequence[int | str | None]) -> str:
    """1x3x224x224, with names of dimensions and ? for unknown ones."""
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "scalar"


def duration(seconds: float) -> str:
    """A time with three or four digits in a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds / 1e-6:.4g} us"


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line.expandtabs())


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
