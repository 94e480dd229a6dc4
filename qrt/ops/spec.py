"""What an operator is to the rest of qrt: four functions, and what `lower` may ask of a program.

Every operator's file has the same parts in the same order: parse (attributes), infer (shape and
dtype), reference (plain NumPy), lower (checks, packing, rows), kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qrt.ir import Graph, Node, Value
from qrt.jit.declare import Kernel

Array = np.ndarray[Any, Any]


# arrays of the inputs (omitted ones None) to those of the outputs; threads may call it at once
HostFunction = Callable[[Sequence[Array | None]], list[Any]]


class Operand(Protocol):
    """A place in the arena or the constants, known exactly only after planning."""

    def at(self, nbytes: int) -> Operand:
        """The same place, `nbytes` further."""
        ...


@dataclass(eq=False)
class Mark:
    """The number of a row that is emitted later, for rows that jump to it."""

    row: int = -1


# what a row holds: of fields that name kernels (`Kernel.calls`) those, or None
Field = int | float | np.float32 | Operand | Mark | Kernel | None


class Lowering(Protocol):
    """The program under construction, as an operator's `lower` sees it."""

    features: frozenset[str]

    def operand(self, value: Value) -> Operand:
        """Where `value` lives: arena for results and inputs, constants for constants."""
        ...

    def constant(self, array: Array) -> Operand:
        """A place in the constants that holds `array` (C order); equal arrays share one."""
        ...

    def packed(self, key: Hashable, make: Callable[[], Array]) -> Operand:
        """Like `constant(make())`, but `make` runs once per session for equal keys.

        A key names the source and the form: `(id(value.data), "panel64")`. The session keeps the
        graph alive as long as keys are compared, so the ids of its arrays are safe.
        """
        ...

    def scratch(self, nbytes: int) -> Operand:
        """Arena bytes that live during the next row emitted only."""
        ...

    def threads(self) -> int:
        """The largest number of threads that will walk the rows (scratch may be per thread)."""
        ...

    def alias(self, value: Value, of: Value) -> None:
        """`value` is the same bytes as `of`: no row needed."""
        ...

    def note(self, text: str) -> None:
        """Let `explain` say `text` about the node."""
        ...

    def nested(self, graph: Graph, inputs: Sequence[Value | None], name: str) -> None:
        """Append the rows of a machine graph, whose inputs are the values `inputs`; the node's
        attribute `name`."""
        ...

    def mark(self) -> Mark:
        """A row that is still to come; `place` says which."""
        ...

    def place(self, mark: Mark) -> None:
        """`mark` is the next row, or the end of the program."""
        ...

    def emit(self, kernel: Kernel, **fields: Field) -> None:
        """Append a row. Every field of the kernel by name; floats are stored as float32 bits."""
        ...

    def host(
        self,
        function: HostFunction,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value],
        own: bool = False,
    ) -> None:
        """Append a row that Python runs: `outputs` become what `function` makes of `inputs`.

        `own`: the function is qrt's, not that of `onnx.reference`.
        """
        ...


Infer = Callable[[Node], Sequence[tuple[tuple[int, ...], Any]]]
Reference = Callable[[Node, Sequence[Array | None]], Sequence[Array]]
Lower = Callable[[Node, Lowering], None]
Layout = Callable[[Node], None]


@dataclass(frozen=True)
class OpSpec:
    """One operator: `op` in `domain`, and its parts.

    infer: output (shape, dtype) pairs from inputs of static shape. reference: the numeric
    contract in plain NumPy on logical (ONNX order) arrays. lower: rows; None when the operator
    must be folded or rewritten before. layout: how the operator treats the memory order of its
    operands: "any" (element-wise: all tensors of full rank in one common order), "channels_last"
    (wants (N, spatial..., C) in memory), "row_major" (ONNX order), "matrices" (a product: see
    `ops/matrices.py`).
    """

    op: str
    domain: str
    infer: Infer
    reference: Reference | None
    lower: Lower | None
    layout: str = "row_major"
