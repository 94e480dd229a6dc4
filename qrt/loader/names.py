"""Names as they come from a file: text, and not too long."""

from __future__ import annotations

from qrt.errors import ModelError
from qrt.loader.limits import Limits


def checked_name(name: str | bytes, what: str, limits: Limits) -> str:
    """Return `name` when it is UTF-8 text within the limit; `what` says whose name it is.

    protobuf hands out bytes where a string field is not UTF-8.
    """
    if not isinstance(name, str):
        raise ModelError(f"{what}: a name must be UTF-8 text, got {name[:40]!r}")
    if len(name) > limits.max_name:
        raise ModelError(
            f"{what}: a name may have {limits.max_name} characters, got {len(name)}:"
            f" '{name[:40]}...'"
        )
    return name


def required_name(name: str | bytes, what: str, limits: Limits) -> str:
    """Like `checked_name`, and not empty."""
    if not name:
        raise ModelError(f"{what}: must have a name, it is empty")
    return checked_name(name, what, limits)
