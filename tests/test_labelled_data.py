"""Accuracy on labelled data (`../shared/data`): what ONNX Runtime scores, to within 0.3 points.

Its scores on all rows, from the README there; pictures are prepared as it says. Batches where the
model allows them, whatever batch it was exported with. A batch of a dynamically quantized network
shares its quantization, so the batch is part of its score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import qrt
from bench.labelled import digits, normalized
from tests.graphs.draw import Array

POINTS = 0.003


def signed(u: Array) -> Array:
    """Bytes less 128."""
    return (u.astype(np.int16) - 128).astype(np.int8)


def unit_digits(u: Array) -> Array:
    """Bytes over 255, one channel."""
    return (u.astype(np.float32) / np.float32(255))[:, None]


def keywords(u: Array) -> Array:
    """As they are."""
    return u.reshape(-1, 49, 10, 1)


@dataclass(frozen=True)
class Labelled:
    """A model, its data (the first `rows`) and ONNX Runtime's top-1; `batch` rows at a time."""

    model: str
    data: str
    prepare: Callable[[Array], Array]
    score: float
    batch: int = 1
    rows: int | None = None


LABELLED = (
    Labelled("kws_qdq", "kws_500", keywords, 0.898),
    Labelled("kws_qop", "kws_500", keywords, 0.898),
    Labelled("cifar_mnv3ish_qdq", "cifar10_1000", normalized, 0.784, batch=64),
    Labelled("cifar_tinycnn_qop", "cifar10_1000", normalized, 0.721),
    Labelled("resnet8_qdq", "cifar10_1000", signed, 0.808),
    Labelled("resnet8_qop", "cifar10_1000", signed, 0.806),
    Labelled("mnist_cnn_qop", "mnist_5000", digits, 0.984),
    Labelled("mnist_cnn_qdq_s8s8", "mnist_5000", digits, 0.984),
    Labelled("mobilenetv2_qdq", "imagenet_60", normalized, 0.867, batch=4),
    Labelled("cifar_mnv3ish_dyn", "cifar10_1000", normalized, 0.778),
    Labelled("multidigit_dyn", "mnist_5000", unit_digits, 0.996, rows=500),
    Labelled("mobilenetv2_dyn_u8w", "imagenet_60", normalized, 0.883, batch=60),
    Labelled("mobilenetv2_dyn_s8w", "imagenet_60", normalized, 0.867, batch=60),
)


@pytest.mark.shared
@pytest.mark.parametrize("case", LABELLED, ids=lambda case: case.model)
def test_scores_what_onnxruntime_scores(
    shared_models: Path, shared_data: Path, case: Labelled
) -> None:
    data = np.load(shared_data / f"{case.data}.npz")
    x, y = case.prepare(data["x"][: case.rows]), data["y"].reshape(-1)[: case.rows]
    predicted = predictions(qrt.load(shared_models / f"{case.model}.onnx"), x, case.batch)
    score = float((predicted == y).mean())
    print(f"\n{case.model}: {score:.4f} of {len(y)}, ONNX Runtime {case.score}")
    assert abs(score - case.score) <= POINTS + 0.0005  # the README rounds to three digits


@pytest.mark.shared
@pytest.mark.parametrize(
    "name, prepare", [("cifar_mnv3ish_qdq", normalized), ("mobilenetv2_qdq", normalized)]
)
def test_a_batch_is_its_rows(
    shared_models: Path, shared_data: Path, name: str, prepare: Callable[[Array], Array]
) -> None:
    """A batch of 1, 2, 5, 3 in one session gives every row the bits it has alone."""
    data = "imagenet_60" if name.startswith("mobilenet") else "cifar10_1000"
    x = prepare(np.load(shared_data / f"{data}.npz")["x"][:5])
    session = qrt.load(shared_models / f"{name}.onnx")
    alone = np.concatenate([session(x[i : i + 1]) for i in range(len(x))])
    for n in (2, 5, 3):
        assert session(x[:n]).tobytes() == alone[:n].tobytes(), f"batch {n}"
    assert session(x[4:5]).tobytes() == alone[4:5].tobytes()


def predictions(session: qrt.Session, x: Array, batch: int) -> Array:
    """Arg-max per row."""
    outputs = [session(x[i : i + batch]) for i in range(0, len(x), batch)]
    return np.asarray(np.concatenate([y.reshape(len(y), -1) for y in outputs]).argmax(axis=1))
