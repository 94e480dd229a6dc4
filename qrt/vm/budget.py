"""The bytes that the arenas of a session may take together."""

from __future__ import annotations

import threading
import weakref
from typing import Any


class ArenaBudget:
    """`limit` bytes (None: no limit) for all arenas; the first is always granted.

    `max_bytes` was checked against one arena when the program was built; more arenas, for
    concurrent calls and other shapes, come out of what is left.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._taken = 0
        self._lock = threading.Lock()
        # arenas die in the garbage collector, which may run while the lock is held
        self._released: list[int] = []
        self._idle: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def taken(self) -> int:
        """Bytes of the arenas that exist."""
        return self._taken - sum(self._released)

    def share(self, executor: Any) -> None:
        """`executor` (which has `drop_idle`) takes its arenas from this budget."""
        self._idle.add(executor)

    def take(self, nbytes: int) -> bool:
        """Take `nbytes`; False when the limit would be exceeded."""
        with self._lock:
            while self._released:
                self._taken -= self._released.pop()
            if self.limit is not None and self._taken and self._taken + nbytes > self.limit:
                return False
            self._taken += nbytes
            return True

    def reclaim(self) -> None:
        """Free the arenas that no call uses."""
        for executor in list(self._idle):
            executor.drop_idle()

    def release(self, nbytes: int) -> None:
        """Give `nbytes` back."""
        self._released.append(nbytes)

    def forked(self) -> None:
        """In the child of a fork: whoever held the lock does not exist here."""
        self._lock = threading.Lock()
