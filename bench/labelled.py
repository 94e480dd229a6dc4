"""Float models with labelled data: what accuracy is measured on.

The digits model comes with the package; the others lie in `../shared` (or QRT_SHARED_DIR), whose
`data/README.md` says how pictures are prepared.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("QRT_SHARED_DIR") or ROOT.parent / "shared")
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
SHIFTS = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))  # down and across; (1, 1) is none
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def normalized(u: Array) -> Array:
    """NHWC bytes as ImageNet networks want them: NCHW float32."""
    x = (u.astype(np.float32) / np.float32(255) - MEAN) / DEVIATION
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def digits(u: Array) -> Array:
    """Bytes as floats, one channel."""
    return u.astype(np.float32)[:, None]


def sixteenths(u: Array) -> Array:
    """Pixels 0 to 16 as floats 0 to 1, one channel."""
    return (u.astype(np.float32) / np.float32(16))[:, None]


@dataclass(frozen=True)
class Labelled:
    """A float model of one input and one output; the file of its pictures `x` and classes `y`."""

    name: str
    model: Path
    data: Path
    prepare: Callable[[Array], Array]
    has_mirrored: bool = False  # a picture's mirror image is of the same class

    def arrays(self) -> tuple[Array, Array]:
        """(samples as the model takes them, classes)."""
        with np.load(self.data) as file:
            return self.prepare(file["x"]), file["y"].reshape(-1)

    def copies(self, x: Array) -> Array:
        """NCHW pictures `x`, then those shifted by a pixel to each side, and mirrored ones."""
        edged = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        tall, wide = x.shape[2:]
        found = [edged[:, :, i : i + tall, j : j + wide] for i, j in SHIFTS]
        if self.has_mirrored:
            found += [pictures[..., ::-1] for pictures in found]
        return np.ascontiguousarray(np.concatenate(found))


def _shared(
    model: str, data: str, prepare: Callable[[Array], Array], has_mirrored: bool = False
) -> Labelled:
    file = SHARED / "data" / f"{data}.npz"
    return Labelled(model, SHARED / "models" / f"{model}.onnx", file, prepare, has_mirrored)


_OWN = ROOT / "qrt" / "data"
MODELS = {
    case.name: case
    for case in (
        Labelled("digits_fp32", _OWN / "digits_fp32.onnx", _OWN / "digits_test.npz", sixteenths),
        _shared("mnist_cnn_fp32", "mnist_5000", digits),
        _shared("cifar_tinycnn_fp32", "cifar10_1000", normalized, True),
        _shared("cifar_mnv3ish_fp32", "cifar10_1000", normalized, True),
    )
}
