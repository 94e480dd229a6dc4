"""ONNX Runtime's names for what qrt does, so that a program changes one import."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qrt.api.loading import session_arguments
from qrt.api.session import Session

if TYPE_CHECKING:
    from qrt.api.loading import Model

_CPU = "CPUExecutionProvider"


def get_available_providers() -> list[str]:
    """Always the CPU."""
    return [_CPU]


class SessionOptions:
    """Takes any attribute that ONNX Runtime's has; `intra_op_num_threads` is honoured."""

    def __init__(self) -> None:
        self.intra_op_num_threads = 0  # 0: the default of qrt.load
        self.config_entries: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Keep an entry; none changes what qrt does."""
        self.config_entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        """An entry that was added."""
        return self.config_entries[key]


class InferenceSession(Session):
    """`qrt.load` with the arguments of ONNX Runtime's InferenceSession."""

    def __init__(
        self,
        path_or_bytes: Model,
        sess_options: Any = None,
        providers: Sequence[str | tuple[str, Any]] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        *,
        threads: int | None = None,
        features: str | None = None,
        max_bytes: int | None = None,
        max_nodes: int | None = None,
        max_depth: int | None = None,
        max_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Warns of providers other than the CPU's; other keywords are ignored."""
        names = [p if isinstance(p, str) else p[0] for p in providers or ()]
        others = [name for name in names if name != _CPU]
        if others:
            warnings.warn(f"qrt runs on the CPU, not on {', '.join(others)}", stacklevel=2)
        if threads is None:
            threads = getattr(sess_options, "intra_op_num_threads", 0) or None
        super().__init__(
            **session_arguments(
                path_or_bytes, threads, features, max_bytes, max_nodes, max_depth, max_steps
            )
        )
        self._options = sess_options if sess_options is not None else SessionOptions()

    def get_session_options(self) -> Any:
        """The options that the session was made with."""
        return self._options

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The CPU has none."""
        return {_CPU: {}}
