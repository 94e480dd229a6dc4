"""The bytes that a row reads and writes, told from its values alone."""

from __future__ import annotations

from dataclasses import dataclass

from qrt.errors import ProgramError
from qrt.jit.declare import Kernel
from qrt.program.program import fields_of


@dataclass(frozen=True)
class Touch:
    """Bytes start..stop of the arena or the constants that one field of a row leads to."""

    field: str
    constant: bool
    start: int
    stop: int
    writes: bool

    def conflicts(self, other: Touch) -> bool:
        """True when the order of the two matters."""
        return (
            (self.writes or other.writes)
            and self.constant == other.constant
            and self.start < other.stop
            and other.start < self.stop
        )


def touches(kernel: Kernel, row: list[int]) -> list[Touch]:
    """What `row` touches, from its kernel's `extents`.

    Raises ProgramError when the values contradict each other or a size is negative.
    """
    values = fields_of(kernel, row)
    try:
        extents = kernel.extents(values)
    except (ValueError, ArithmeticError, LookupError) as error:
        raise ProgramError(f"kernel {kernel.name}: {error}") from error
    found = []
    for extent in extents:
        if extent.nbytes < 0:
            raise ProgramError(f"kernel {kernel.name}: {extent.field} has {extent.nbytes} bytes")
        value = values[extent.field]
        constant = value < 0
        start = (~value if constant else value) + extent.start
        found.append(Touch(extent.field, constant, start, start + extent.nbytes, extent.writes))
    return found
