"""The bytes that a row reads and writes, told from its values alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qrt.errors import ProgramError
from qrt.jit.declare import Kernel
from qrt.program.host import CALL, HOSTS
from qrt.program.program import Binding, HostCall, fields_of


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


def touches(kernel: Kernel, row: list[int], hosts: Sequence[HostCall] = ()) -> list[Touch]:
    """What `row` touches, from its kernel's `extents`; a host row what its call in `hosts` does.

    Raises ProgramError when the values contradict each other or a size is negative.
    """
    if kernel in HOSTS:
        if not 0 <= row[CALL] < len(hosts):
            raise ProgramError(f"host call {row[CALL]}, expected 0 to {len(hosts) - 1}")
        return list(_host_touches(hosts[row[CALL]]))
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


def _host_touches(call: HostCall) -> Iterator[Touch]:
    for i, binding in enumerate(call.inputs):
        if binding is not None:
            yield _bound(f"input {i}", binding, writes=False)
    for i, binding in enumerate(call.outputs):
        yield _bound(f"output {i}", binding, writes=True)


def _bound(field: str, binding: Binding, writes: bool) -> Touch:
    constant = binding.offset < 0
    start = ~binding.offset if constant else binding.offset
    return Touch(field, constant, start, start + binding.nbytes, writes)
