"""The constants of a session: one growing pool that the programs of all its input shapes share.

Offsets never change once given. The bytes live in one aligned buffer, made when somebody asks for
it; constants that a later program adds go into its room, or give a new, bigger buffer, and runs
that began on the old one keep it alive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from qrt.program.places import ALIGNMENT, SLACK, ConstantPlace, aligned

Array = np.ndarray[Any, Any]

SPARE = 1 << 16  # bytes of room for more, besides a quarter; pages that nobody writes cost nothing


class ConstantPool:
    """Deduplicated constants at 64-byte alignment, with a memo for packed weights."""

    def __init__(self) -> None:
        self.nbytes = 0  # without slack
        self._buffer = self._room = _aligned(np.zeros(SLACK + ALIGNMENT, np.uint8))
        self._filled = 0
        self._pending: list[tuple[int, Array]] = []
        self._by_digest: dict[bytes, ConstantPlace] = {}
        self._by_key: dict[Hashable, ConstantPlace] = {}
        self._held: list[Any] = []

    @classmethod
    def over(cls, buffer: Array) -> ConstantPool:
        """A pool whose bytes are there already: uint8, SLACK bytes of slack at the end."""
        pool = cls()
        pool._buffer = pool._room = buffer
        pool.nbytes = pool._filled = buffer.size - SLACK
        return pool

    def add(self, array: Array) -> ConstantPlace:
        """The place of `array`'s bytes in C order; arrays of equal bytes share one."""
        array = np.ascontiguousarray(array)
        raw = array.reshape(-1).view(np.uint8)
        digest = hashlib.blake2b(raw.data, digest_size=16).digest() + raw.size.to_bytes(8, "little")
        place = self._by_digest.get(digest)
        if place is None:
            place = self._by_digest[digest] = ConstantPlace(aligned(self.nbytes))
            self._pending.append((place.offset, raw))
            self.nbytes = place.offset + raw.size
        return place

    def packed(self, key: Hashable, make: Callable[[], Array]) -> ConstantPlace:
        """The place of `make()`, which runs only when `key` is new to this pool."""
        place = self._by_key.get(key)
        if place is None:
            place = self._by_key[key] = self.add(make())
        return place

    def hold(self, owner: object) -> None:
        """Keep `owner` alive: keys hold ids of its arrays, which must not be used again."""
        self._held.append(owner)

    def forget(self) -> None:
        """Drop the memo and what it keeps alive; the constants stay."""
        self._by_key.clear()
        self._held.clear()

    @property
    def buffer(self) -> Array:
        """uint8 (nbytes + SLACK,), aligned: every constant added so far.

        It begins where it began while there is room: a first buffer is made as large as needed, one
        that grows has room for more.
        """
        if self._pending:
            needed = self.nbytes + SLACK
            if needed > self._room.size:
                spare = needed // 4 + SPARE if self._filled else 0
                room = _aligned(np.zeros(needed + spare + ALIGNMENT, np.uint8))
                room[: self._filled] = self._buffer[: self._filled]
                self._room = room
            while self._pending:  # each array may go once it is copied
                offset, raw = self._pending.pop()
                self._room[offset : offset + raw.size] = raw
            self._buffer, self._filled = self._room[:needed], self.nbytes
        return self._buffer


def aligned_bytes(nbytes: int) -> Array:
    """Uninitialised uint8 (nbytes,) whose address is a multiple of ALIGNMENT."""
    return _aligned(np.empty(nbytes + ALIGNMENT, np.uint8))


def _aligned(raw: Array) -> Array:
    """`raw` without ALIGNMENT bytes, some before and some after."""
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + raw.size - ALIGNMENT]
