"""`qrt.load`: a model becomes a session."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qrt.api.resources import MAX_STEPS
from qrt.api.session import Session
from qrt.errors import QrtError
from qrt.simd.features import active_features
from qrt.vm import resolve_threads

if TYPE_CHECKING:
    import onnx

    Model = str | os.PathLike[str] | bytes | onnx.ModelProto


DEEPEST = 100  # each level takes Python ten frames or less, of the thousand it has


def load(
    model: Model,
    *,
    threads: int | None = None,
    features: str | None = None,
    max_bytes: int | None = None,
    max_nodes: int | None = None,
    max_depth: int | None = None,
    max_steps: int | None = None,
) -> Session:
    """A session for `model`: a path, serialized bytes, or an onnx.ModelProto.

    `threads`: how many walk a run (default `QRT_THREADS`, else 1; 0: all usable). `features`: see
    `QRT_FEATURES`. `max_bytes`: limit for constants and arenas together, and for what nodes outside
    of programs make. `max_nodes`: of the model, functions inlined; `max_depth`: of functions and
    subgraphs inside of each other; `max_steps`: of the loops of one run together. A model whose
    shapes are all known is compiled here; others at their first run. Raises ModelError,
    QuantizationError, UnsupportedError, MemoryLimitError.
    """
    return Session(
        **session_arguments(model, threads, features, max_bytes, max_nodes, max_depth, max_steps)
    )


def session_arguments(
    model: Model,
    threads: int | None,
    features: str | None,
    max_bytes: int | None,
    max_nodes: int | None = None,
    max_depth: int | None = None,
    max_steps: int | None = None,
) -> dict[str, Any]:
    """The arguments of `Session` for a model and the options of `load`, checked."""
    asked = {"max_nodes": max_nodes, "max_depth": max_depth, "max_steps": max_steps}
    for name, value in {"max_bytes": max_bytes, **asked}.items():
        if value is not None and (type(value) is not int or value < 0):
            raise QrtError(f"{name} must be a whole number or None, got {value!r}")
    if max_depth is not None and max_depth > DEEPEST:
        raise QrtError(f"max_depth may be up to {DEEPEST}, got {max_depth}")
    active = active_features(features)
    count = resolve_threads(threads)
    from qrt.loader import Limits, load_graph  # imports onnx, which a running session does not need

    bounds = {"max_nodes": max_nodes, "max_depth": max_depth}
    limits = Limits(**{name: value for name, value in bounds.items() if value is not None})
    return {
        "model": load_graph(model, limits),
        "features": active,
        "threads": count,
        "max_bytes": max_bytes,
        "max_steps": MAX_STEPS if max_steps is None else max_steps,
    }
