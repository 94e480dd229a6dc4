"""Operators that ONNX defines and qrt does not run, and why: the whole list."""

from __future__ import annotations

_MAPS = "maps are no values of qrt, only tensors, sequences and optionals"

REFUSED: dict[tuple[str, str], str] = {
    ("ai.onnx.ml", "CastMap"): _MAPS,
    ("ai.onnx.ml", "DictVectorizer"): _MAPS,
    ("ai.onnx.ml", "ZipMap"): _MAPS,
    ("ai.onnx.preview.training", "Gradient"): (
        "it needs the derivative of the graph around it, which qrt does not make"
    ),
}
