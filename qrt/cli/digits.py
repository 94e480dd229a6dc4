"""The digits model that ships with qrt, its held-out images, and how to draw them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

INT8, FLOAT = "digits_int8.onnx", "digits_fp32.onnx"
INPUT = "image"
SHOWN = 4  # images side by side in 80 columns
_TEST = "digits_test.npz"
_WHITE = 16  # the largest pixel
_SHADES = {True: " ░▒▓█", False: " .:*#"}
_COLUMNS = 2  # characters a pixel is wide, so that it looks square


@dataclass(frozen=True)
class Digits:
    """Held-out images, uint8 (n, 8, 8) with pixels 0..16, and the digits they show, int64 (n,)."""

    images: Array
    labels: Array

    def inputs(self) -> Array:
        """float32 (n, 1, 8, 8) as the models take them."""
        return self.images[:, None].astype(np.float32) / np.float32(_WHITE)


def read_digits() -> Digits:
    """The held-out split."""
    with (files("qrt") / "data" / _TEST).open("rb") as file, np.load(file) as arrays:
        return Digits(arrays["x"], arrays["y"])


def read_model(name: str) -> bytes:
    """The serialized model `name`."""
    return (files("qrt") / "data" / name).read_bytes()


def examples(digits: Digits) -> list[int]:
    """`SHOWN` images of different digits: the first of each."""
    first = np.unique(digits.labels, return_index=True)[1]
    return [int(i) for i in np.sort(first)[:SHOWN]]


def pictures(digits: Digits, predictions: Array, which: Sequence[int]) -> str:
    """Images side by side, and below each what the model says and what it is."""
    drawn = [draw(digits.images[i], blocks=_can_show_blocks()) for i in which]
    captions = []
    for i in which:
        said, truth = predictions[i], digits.labels[i]
        captions.append(f"says {said}, is {truth}" + ("" if said == truth else "  WRONG"))
    lines = [*zip(*drawn, strict=True), captions]
    width = max(len(cell) for line in lines for cell in line)
    return "\n".join("  " + "  ".join(f"{c:<{width}}" for c in line).rstrip() for line in lines)


def draw(image: Array, *, blocks: bool) -> list[str]:
    """The image in lines of text: shaded blocks, or ASCII where there are none."""
    shades = _SHADES[blocks]
    levels = np.rint(image.astype(np.float64) * (len(shades) - 1) / _WHITE).astype(int)
    return ["".join(shades[level] * _COLUMNS for level in row) for row in levels]


def _can_show_blocks() -> bool:
    try:
        _SHADES[True].encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
