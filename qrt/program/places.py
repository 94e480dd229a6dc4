"""Where an operand lies while a program is being built, and how a row stores it."""

from __future__ import annotations

from dataclasses import dataclass, field

ALIGNMENT = 64  # bytes; one AVX512 register, one cache line
# SIMD kernels may read (never write) up to 64 bytes past an operand; arena and constants end in
# twice that, so that such a read stays inside also from an operand's unaligned end
SLACK = 128


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(eq=False)
class Buffer:
    """Bytes of the arena, live from row `first` to row `last`; `offset` is set by the plan.

    first > last means that no row has touched it yet. Row -1 stands for the binding of inputs,
    the number of rows for the reading of outputs.
    """

    nbytes: int
    label: str = ""
    first: int = 1 << 62
    last: int = -2
    offset: int = field(default=-1)

    def touch(self, row: int) -> None:
        """Make the buffer live at `row`."""
        self.first = min(self.first, row)
        self.last = max(self.last, row)

    @property
    def is_live(self) -> bool:
        """True when some row (or the caller) touches it."""
        return self.first <= self.last


@dataclass(frozen=True)
class ArenaPlace:
    """`start` bytes into a buffer of the arena; an operand once the plan is made."""

    buffer: Buffer
    start: int = 0

    def at(self, nbytes: int) -> ArenaPlace:
        """The same place, `nbytes` further."""
        return ArenaPlace(self.buffer, self.start + nbytes)

    @property
    def encoded(self) -> int:
        """How a row stores it: the arena offset."""
        assert self.buffer.offset >= 0, f"{self.buffer.label!r} has no place yet"
        return self.buffer.offset + self.start


@dataclass(frozen=True)
class ConstantPlace:
    """`offset` bytes into the constants."""

    offset: int

    def at(self, nbytes: int) -> ConstantPlace:
        """The same place, `nbytes` further."""
        return ConstantPlace(self.offset + nbytes)

    @property
    def encoded(self) -> int:
        """How a row stores it: the complement of the offset, so that it is negative."""
        return ~self.offset


Place = ArenaPlace | ConstantPlace
