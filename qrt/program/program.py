"""Program: what the interpreter runs, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.jit.declare import HEADER, KERNELS, Kernel
from qrt.ops.spec import HostFunction
from qrt.program.constants import ConstantPool

Array = np.ndarray[Any, Any]

KERNEL, NODE, BARRIER = range(len(HEADER))


@dataclass(frozen=True)
class Binding:
    """A tensor that the caller fills or reads: logical shape, place, order in memory.

    `offset` is encoded like an operand: an arena offset, or ~offset into the constants (an output
    that does not depend on the inputs). `layout` is the order of the axes in memory.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    layout: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        n = self.dtype.itemsize
        for dim in self.shape:
            n *= dim
        return n

    def view(self, arena: Array, constants: Array) -> Array:
        """The tensor as an array over `arena` (or `constants`), in logical axes."""
        base, start = (arena, self.offset) if self.offset >= 0 else (constants, ~self.offset)
        order = self.layout or tuple(range(len(self.shape)))
        flat = base[start : start + self.nbytes].view(self.dtype)
        physical = flat.reshape([self.shape[axis] for axis in order])
        return physical.transpose(np.argsort(order)) if order else physical


@dataclass(frozen=True)
class HostCall:
    """What a host row does: `outputs` become what `function` makes of `inputs`, in Python."""

    function: HostFunction
    inputs: tuple[Binding | None, ...]
    outputs: tuple[Binding, ...]


@dataclass(frozen=True)
class NodeLabel:
    """What `explain` and messages say about a node of the machine graph.

    `why` is why it stayed float or runs on the host, `note` what decided about its kernels.
    """

    where: str
    op: str
    name: str = ""
    index: int = -1
    origin: tuple[str, ...] = ()
    dtype: str = ""
    layout: str = ""
    why: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Program:
    """Rows over one arena and one constant buffer; specialised to input shapes.

    rows: int64 (n, width), each `HEADER` (index into `kernels`, index into `nodes`, barrier flag)
    and then the kernel's fields, zero-padded. `threads` is the largest number that may walk it
    (scratch is sized for that many). `arena_nbytes` is without SLACK. `hosts` are what the rows of
    a kernel of HOSTS (`qrt.program.host`) call, in the order of those rows.
    """

    rows: Array
    kernels: tuple[str, ...]
    constants: ConstantPool
    arena_nbytes: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    nodes: tuple[NodeLabel, ...]
    threads: int = 1
    hosts: tuple[HostCall, ...] = ()

    def kernel(self, row: int) -> Kernel:
        """The kernel of `row`; the program is verified or just built."""
        return KERNELS[self.kernels[int(self.rows[row, KERNEL])]]

    def callees(self, row: int) -> dict[int, int]:
        """The slots of `row` that name kernels, with indices into `kernels`; -1 for none."""
        kernel = self.kernel(row)
        return {slot: int(self.rows[row, slot]) for slot in callee_slots(kernel)}

    def fields(self, row: int) -> dict[str, int]:
        """The values of `row` by field name."""
        return fields_of(self.kernel(row), self.rows[row].tolist())

    def where(self, row: int) -> str:
        """How messages name the node of `row`."""
        return self.nodes[int(self.rows[row, NODE])].where

    def kernels_by_node(self) -> Iterator[tuple[NodeLabel, tuple[str, ...]]]:
        """Each node with the kernels of its rows, in order; none where it became an alias."""
        used: list[list[str]] = [[] for _ in self.nodes]
        for row in range(len(self.rows)):
            used[int(self.rows[row, NODE])].append(self.kernels[int(self.rows[row, KERNEL])])
        for label, names in zip(self.nodes, used, strict=True):
            yield label, tuple(names)

    @property
    def nbytes(self) -> int:
        """Bytes of one call: constants, arena, rows."""
        return self.constants.nbytes + self.arena_nbytes + int(self.rows.nbytes)


def callee_slots(kernel: Kernel) -> dict[int, str]:
    """The slots of the kernel's row that name kernels, each with their family."""
    return {
        len(HEADER) + kernel.fields.index(name): family for name, family in kernel.calls.items()
    }


def fields_of(kernel: Kernel, row: list[int]) -> dict[str, int]:
    """The slots of `row` by the kernel's field names."""
    return dict(zip(kernel.fields, row[len(HEADER) :], strict=False))
