"""What `explain` answers: per node the kernel that runs it, or why it stayed float."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from qrt.api.table import table
from qrt.program.program import Program


@dataclass(frozen=True)
class NodeRow:
    """One node of the machine graph. `kernels` is empty when it costs nothing (an alias)."""

    node: str
    index: int
    operator: str
    origin: tuple[str, ...]
    kernels: tuple[str, ...]
    rows: int
    dtype: str
    layout: str
    why: str
    note: str = ""


@dataclass(frozen=True)
class Explanation:
    """Prints as a table; `to_json()` for machines; iterates over its rows."""

    rows: tuple[NodeRow, ...]
    features: tuple[str, ...]
    threads: int
    arena_nbytes: int
    constants_nbytes: int

    def __iter__(self) -> Iterator[NodeRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def kernels(self) -> Counter[str]:
        """Rows by kernel."""
        return Counter(name for row in self.rows for name in row.kernels)

    def to_json(self) -> str:
        """The same as a JSON object."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        lines = [
            (
                str(row.index) if row.index >= 0 else "",
                row.node,
                row.operator,
                _kernels(row),
                row.dtype,
                row.layout,
                "; ".join(filter(None, (row.why, row.note))),
            )
            for row in self.rows
        ]
        head = ("#", "node", "operator", "kernel", "dtype", "layout", "note")
        summary = (
            f"features {', '.join(self.features) or 'portable'}; {self.threads} threads;"
            f" arena {self.arena_nbytes} bytes, constants {self.constants_nbytes} bytes"
        )
        return f"{table(head, lines, right=(0,))}\n{summary}"


def explain_program(program: Program, features: frozenset[str], threads: int) -> Explanation:
    """The explanation of a program as it runs with `features` and `threads`."""
    rows = []
    for label, names in program.kernels_by_node():
        rows.append(
            NodeRow(
                node=label.name,
                index=label.index,
                operator=label.op,
                origin=label.origin,
                kernels=tuple(dict.fromkeys(names)),
                rows=len(names),
                dtype=label.dtype,
                layout=label.layout,
                why=label.why,
                note=label.note,
            )
        )
    return Explanation(
        tuple(rows),
        tuple(sorted(features)),
        threads,
        program.arena_nbytes,
        program.constants.nbytes,
    )


def _kernels(row: NodeRow) -> str:
    if not row.kernels:
        return "- (same bytes)"
    times = f" x{row.rows}" if row.rows > len(row.kernels) else ""
    return " + ".join(row.kernels) + times
