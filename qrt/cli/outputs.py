"""What a run gave: numbers to look at, and files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qrt.cli.screen import shape_text
from qrt.errors import QrtError
from qrt.files import whole_file

Array = np.ndarray[Any, Any]

TOP = 5
_NAME_LENGTH = 100  # characters of a file's name; file systems end at 255 bytes


@dataclass(frozen=True)
class OutputSummary:
    """min, max and mean leave NaNs out and are None where there is nothing to count.

    `top` lists (index, value) of the largest elements when the output is one vector.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    min: float | None
    max: float | None
    mean: float | None
    nans: int
    top: tuple[tuple[int, float], ...]

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people: a line, and one more for the top of a vector."""
        text = f"{self.name}  {self.dtype} {shape_text(self.shape)}"
        if self.min is not None:
            text += f"  min {self.min:.6g}  max {self.max:.6g}  mean {self.mean:.6g}"
        if self.nans:
            text += f"  NaN {self.nans}"
        if not self.top:
            return [text]
        best = ",  ".join(f"[{index}] {value:.6g}" for index, value in self.top)
        return [text, f"top {len(self.top)}: {best}"]


def summarise_output(name: str, array: Array) -> OutputSummary:
    """Shape, dtype, extremes and mean; the top elements where all axes but one are 1."""
    numbers = _numbers(array)
    seen = numbers[~np.isnan(numbers)]
    low = high = mean = None
    if seen.size:
        with np.errstate(invalid="ignore", over="ignore"):  # infinities have no mean
            low, high, mean = float(seen.min()), float(seen.max()), float(seen.mean())
    top: list[tuple[int, float]] = []
    if 2 <= numbers.size == max(array.shape, default=0) and array.dtype.kind != "b":
        flat = numbers.reshape(-1)
        # the first of equal elements comes first, a NaN last
        order = np.argsort(-flat, kind="stable")[:TOP]
        top = [(int(i), float(flat[i])) for i in order]
    return OutputSummary(
        name,
        str(array.dtype),
        tuple(array.shape),
        low,
        high,
        mean,
        numbers.size - seen.size,
        tuple(top),
    )


def flat_outputs(names: Sequence[str], values: Sequence[Any]) -> tuple[list[str], list[Array]]:
    """Arrays alone: element i of the sequence NAME is NAME.i, an optional without a value none."""
    flat: list[tuple[str, Array]] = []
    for name, value in zip(names, values, strict=True):
        if isinstance(value, list):
            inner = flat_outputs([f"{name}.{i}" for i in range(len(value))], value)
            flat += zip(*inner, strict=True)
        elif value is not None:
            flat.append((name, value))
    return [name for name, _ in flat], [array for _, array in flat]


def check_output(path: str) -> None:
    """Raise QrtError where no file can be written, before any work is done for it."""
    place = Path(path)
    folder = place.parent
    if not folder.is_dir():
        raise QrtError(f"'{path}' cannot be written: there is no folder '{folder}'; make it first")
    if place.exists() and not place.is_file():
        raise QrtError(f"'{path}' cannot be written: it is there, and no file")
    if not os.access(folder, os.W_OK):
        raise QrtError(f"'{path}' cannot be written: folder '{folder}' allows no new files")


def write_outputs(folder: Path, names: Sequence[str], arrays: Sequence[Array]) -> list[Path]:
    """Write each array as NAME.npy in `folder`, which is made; returns the files.

    A file appears whole or not at all. Raises QrtError for a dtype that .npy does not have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.npy" for name in safe_names(names)]
    for name, path, array in zip(names, paths, arrays, strict=True):
        try:
            with whole_file(path) as file:
                np.save(file, array, allow_pickle=False)
        except ValueError as error:
            raise QrtError(f"output {name!r} cannot be written: {error}") from error
    return paths


def safe_names(names: Sequence[str]) -> list[str]:
    """File names from tensor names: no separators, no leading dot, distinct in any letter case."""
    taken: set[str] = set()
    safe = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-")[:_NAME_LENGTH] or "output"
        candidate, number = base, 1
        while candidate.lower() in taken:
            number += 1
            candidate = f"{base}_{number}"
        taken.add(candidate.lower())
        safe.append(candidate)
    return safe


def _numbers(array: Array) -> Array:
    """The elements as float64; none when they are not numbers."""
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        return np.zeros(0)
