"""AttrReader: typed access to a node's attributes, and a refusal of those nobody asked for."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.graph import Graph, Node

AttrValue = (
    int | float | str | list[int] | list[float] | list[str]
    | np.ndarray[Any, Any] | list[np.ndarray[Any, Any]] | Graph
)  # fmt: skip


class AttrReader:
    """Reads `node.attrs`; a default of None means that the attribute is required.

    Every name read is remembered; `done` refuses the others by name, so that an attribute which
    is not implemented never passes silently. `known` are names that may be ignored.
    """

    def __init__(self, node: Node, known: Iterable[str] = ()) -> None:
        self.node = node
        self._known = set(known)

    def has(self, name: str) -> bool:
        """True when the node carries the attribute."""
        self._known.add(name)
        return name in self.node.attrs

    def int(self, name: str, default: builtins.int | None = None) -> builtins.int:
        """One integer."""
        value = self._get(name, default)
        if not _is_int(value):
            self._refuse(name, "an int", value)
        return builtins.int(value)

    def bool(self, name: str, default: builtins.bool | None = None) -> builtins.bool:
        """An integer that must be 0 or 1."""
        value = self._get(name, None if default is None else builtins.int(default))
        if not _is_int(value) or value not in (0, 1):
            self._refuse(name, "0 or 1", value)
        return builtins.bool(value)

    def float(self, name: str, default: builtins.float | None = None) -> builtins.float:
        """One float, exactly the float32 of the file."""
        value = self._get(name, default)
        if not isinstance(value, builtins.float):
            self._refuse(name, "a float", value)
        return builtins.float(value)

    def string(
        self, name: str, default: str | None = None, choices: Sequence[str] | None = None
    ) -> str:
        """One string; one that is not among `choices` is refused as not implemented."""
        value = self._get(name, default)
        if not isinstance(value, str):
            self._refuse(name, "a string", value)
        if choices is not None and value not in choices:
            raise UnsupportedError(
                f"{self.node.where}: {name}={value!r} is not supported, only"
                f" {', '.join(map(repr, choices))}"
            )
        return value

    def ints(
        self,
        name: str,
        default: Sequence[builtins.int] | None = None,
        length: builtins.int | None = None,
    ) -> list[builtins.int]:
        """A list of integers, of `length` where given."""
        value = self._list(name, default, _is_int, "ints", length)
        return [builtins.int(item) for item in value]

    def floats(
        self,
        name: str,
        default: Sequence[builtins.float] | None = None,
        length: builtins.int | None = None,
    ) -> list[builtins.float]:
        """A list of floats, of `length` where given."""
        return self._list(name, default, lambda v: isinstance(v, builtins.float), "floats", length)

    def strings(
        self,
        name: str,
        default: Sequence[str] | None = None,
        length: builtins.int | None = None,
    ) -> list[str]:
        """A list of strings, of `length` where given."""
        return self._list(name, default, lambda v: isinstance(v, str), "strings", length)

    def tensor(self, name: str) -> np.ndarray[Any, Any]:
        """A tensor, which is always required."""
        value = self._get(name, None)
        if not isinstance(value, np.ndarray):
            self._refuse(name, "a tensor", value)
        return value

    def graph(self, name: str) -> Graph:
        """A subgraph, which is always required."""
        value = self._get(name, None)
        if not isinstance(value, Graph):
            self._refuse(name, "a graph", value)
        return value

    def done(self) -> None:
        """Refuse, by name, every attribute that was neither read nor known."""
        unread = [name for name in self.node.attrs if name not in self._known]
        if unread:
            names = ", ".join(f"'{name}'" for name in unread)
            plural = "s" if len(unread) > 1 else ""
            supported = ", ".join(sorted(self._known)) or "none"
            raise UnsupportedError(
                f"{self.node.where}: attribute{plural} {names} not supported, only {supported}"
            )

    def _get(self, name: str, default: Any) -> Any:
        self._known.add(name)
        value = self.node.attrs.get(name, default)
        if value is None:
            raise ModelError(f"{self.node.where}: attribute '{name}' is required, it is missing")
        return value

    def _list(
        self,
        name: str,
        default: Sequence[Any] | None,
        fits: Any,
        kind: str,
        length: builtins.int | None,
    ) -> list[Any]:
        value = self._get(name, default)
        # a string is a sequence too
        if not isinstance(value, (list, tuple)) or not all(fits(item) for item in value):
            self._refuse(name, f"a list of {kind}", value)
        if length is not None and len(value) != length:
            self._refuse(name, f"a list of {length} {kind}", value)
        return list(value)

    def _refuse(self, name: str, rule: str, value: object) -> NoReturn:
        raise ModelError(
            f"{self.node.where}: attribute '{name}' must be {rule}, got {_show(value)}"
        )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _show(value: object) -> str:
    """A value for a message: short, and a string told from a number."""
    if isinstance(value, np.ndarray):
        return f"a tensor {value.dtype}{list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
