"""What `explain` answers: per node the kernel that runs it, or why it stayed float."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from qrt.api.programs import Programs
from qrt.api.resources import Resources
from qrt.api.table import table
from qrt.ir import Node
from qrt.program.program import Program

if TYPE_CHECKING:
    from qrt.api.runner import Plan

UNPLANNED = "(planned when it first runs)"


@dataclass(frozen=True)
class NodeRow:
    """One node of the machine graph. `kernels` is empty when it costs nothing (an alias).

    `stage` is where it runs in a model of several stages: 2, or 1.then_branch.0 inside of a node
    that runs subgraphs.
    """

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
    stage: str = ""


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
        staged = any(row.stage for row in self.rows)
        lines = [
            (
                *((row.stage,) if staged else ()),
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
        if staged:
            return f"{table(('stage', *head), lines, right=(1,))}\n{summary}"
        return f"{table(head, lines, right=(0,))}\n{summary}"


def explain_program(program: Program, features: frozenset[str], threads: int) -> Explanation:
    """The explanation of a program as it runs with `features` and `threads`."""
    return Explanation(
        tuple(_rows(program, "")),
        tuple(sorted(features)),
        threads,
        program.arena_nbytes,
        program.constants.nbytes,
    )


def explain_stages(plan: Plan, shared: Resources) -> Explanation:
    """The explanation of all stages; `arena_nbytes` is the largest of the latest programs'."""
    arenas: list[int] = [0]
    rows = tuple(_stage_rows(plan, "", arenas))
    return Explanation(
        rows, tuple(sorted(shared.features)), shared.threads, max(arenas), shared.pool.nbytes
    )


def _stage_rows(plan: Plan, prefix: str, arenas: list[int]) -> Iterator[NodeRow]:
    for i, step in enumerate(plan.steps):
        stage = f"{prefix}{i}"
        call = step.call
        if isinstance(call, Programs):
            executor = call.any_executor()
            if executor is None:
                for node in step.stage.graph.nodes:  # type: ignore[union-attr]
                    yield _node_row(node, UNPLANNED, "", stage)
                continue
            arenas.append(executor.program.arena_nbytes)
            yield from _rows(executor.program, stage)
            continue
        single = step.stage
        assert not hasattr(single, "graph")
        yield _node_row(single.node, call.kernel, single.why, stage)
        for name, runner in getattr(call, "runners", {}).items():
            yield from _stage_rows(runner.plan, f"{stage}.{name}.", arenas)


def _node_row(node: Node, kernel: str, why: str, stage: str) -> NodeRow:
    operator = f"{node.domain}.{node.op}" if node.domain else node.op
    origin = (node.name,) if node.name else ()
    return NodeRow(node.name, node.index, operator, origin, (kernel,), 1, "", "", why, stage=stage)


def _rows(program: Program, stage: str) -> Iterator[NodeRow]:
    for label, names in program.kernels_by_node():
        yield NodeRow(
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
            stage=stage,
        )


def _kernels(row: NodeRow) -> str:
    if not row.kernels:
        return "- (same bytes)"
    times = f" x{row.rows}" if row.rows > len(row.kernels) else ""
    return " + ".join(row.kernels) + times
