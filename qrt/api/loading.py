"""`qrt.load`: a model becomes a session."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qrt.api.recipe import ModelRecipe
from qrt.api.session import Session
from qrt.errors import QrtError
from qrt.simd.features import active_features
from qrt.vm import resolve_threads

if TYPE_CHECKING:
    import onnx

    Model = str | os.PathLike[str] | bytes | onnx.ModelProto


def load(
    model: Model,
    *,
    threads: int | None = None,
    features: str | None = None,
    max_bytes: int | None = None,
) -> Session:
    """A session for `model`: a path, serialized bytes, or an onnx.ModelProto.

    `threads`: how many walk a run (default `QRT_THREADS`, else 1; 0: all usable). `features`: see
    `QRT_FEATURES`. `max_bytes`: limit for constants and arenas together. A model whose shapes are
    all known is compiled here; others at their first run. Raises ModelError, QuantizationError,
    UnsupportedError, MemoryLimitError.
    """
    return Session(**session_arguments(model, threads, features, max_bytes))


def session_arguments(
    model: Model, threads: int | None, features: str | None, max_bytes: int | None
) -> dict[str, Any]:
    """The arguments of `Session` for a model and the options of `load`, checked."""
    if max_bytes is not None and (not isinstance(max_bytes, int) or max_bytes < 0):
        raise QrtError(f"max_bytes must be a number of bytes or None, got {max_bytes!r}")
    active = active_features(features)
    count = resolve_threads(threads)
    from qrt.loader import load_graph  # imports onnx, which a running session does not need

    recipe = ModelRecipe(load_graph(model), active)
    return {"recipe": recipe, "features": active, "threads": count, "max_bytes": max_bytes}
