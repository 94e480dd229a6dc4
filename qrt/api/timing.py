"""What `profile` answers: the time of every row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qrt.api.table import table
from qrt.program.program import NODE, Program

Array = np.ndarray[Any, Any]

PYTHON = ("host: ", "stages")  # how the kernels begin that are none


@dataclass(frozen=True)
class RowTime:
    """One row: the median and the shortest of its times, in nanoseconds."""

    row: int
    node: str
    operator: str
    kernel: str
    median_ns: int
    min_ns: int

    @property
    def runs_in_python(self) -> bool:
        """True for a host operator, and for a node that runs by itself."""
        return self.kernel.startswith(PYTHON)


@dataclass(frozen=True)
class Profile:
    """Times of all rows over `runs` runs; `median_ns` is the median of whole runs."""

    rows: tuple[RowTime, ...]
    runs: int
    threads: int
    median_ns: int
    min_ns: int

    def __iter__(self) -> Iterator[RowTime]:
        return iter(self.rows)

    def by_kernel(self) -> dict[str, int]:
        """Nanoseconds per kernel (sum of medians), the longest first."""
        total: dict[str, int] = {}
        for row in self.rows:
            total[row.kernel] = total.get(row.kernel, 0) + row.median_ns
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    @property
    def python_share(self) -> float:
        """The part of the time, 0 to 1, that Python takes: host operators, and nodes that run by
        themselves with all that their subgraphs do."""
        total = sum(row.median_ns for row in self.rows)
        python = sum(row.median_ns for row in self.rows if row.runs_in_python)
        return python / total if total else 0.0

    def to_json(self) -> str:
        """The same as a JSON object."""
        return json.dumps({**asdict(self), "python_share": self.python_share})

    def __str__(self) -> str:
        total = sum(row.median_ns for row in self.rows) or 1
        lines = [
            (
                str(row.row),
                row.node,
                row.operator,
                row.kernel,
                f"{row.median_ns / 1e3:.1f}",
                f"{row.min_ns / 1e3:.1f}",
                f"{100 * row.median_ns / total:.1f}",
            )
            for row in self.rows
        ]
        head = ("row", "node", "operator", "kernel", "median us", "min us", "%")
        kernels = [
            (name, f"{ns / 1e3:.1f}", f"{100 * ns / total:.1f}")
            for name, ns in self.by_kernel().items()
        ]
        return "\n\n".join(
            [
                table(head, lines, right=(0, 4, 5, 6)),
                table(("kernel", "us", "%"), kernels, right=(1, 2)),
                f"median of {self.runs} runs on {self.threads} threads:"
                f" {self.median_ns / 1e3:.1f} us, min {self.min_ns / 1e3:.1f} us;"
                f" {100 * self.python_share:.1f} % in Python",
            ]
        )


# a program, or the name, operator and kernel of a node by itself; int64 (runs, rows) nanoseconds
StageTimes = tuple[Program | tuple[str, str, str], Array]


def profile_of(program: Program, times: Array, threads: int) -> Profile:
    """The profile from `times`: int64 (runs, rows) of nanoseconds."""
    return joined_profile([(program, times)], len(times), threads)


def joined_profile(parts: Sequence[StageTimes], runs: int, threads: int) -> Profile:
    """The profile of a run that consists of `parts`, one after the other."""
    rows: list[RowTime] = []
    whole = np.zeros(runs, np.int64)
    for source, times in parts:
        medians = np.median(times, axis=0) if times.size else np.zeros(times.shape[1])
        shortest = times.min(axis=0) if times.size else medians
        if isinstance(source, Program):
            labels = [
                (source.nodes[node].name, source.nodes[node].op, source.kernel(i).name)
                for i, node in enumerate(source.rows[:, NODE].tolist())
            ]
        else:
            labels = [source]
        for label, median, least in zip(labels, medians, shortest, strict=True):
            rows.append(RowTime(len(rows), *label, int(median), int(least)))
        whole += times.sum(axis=1)
    return Profile(tuple(rows), runs, threads, int(np.median(whole)), int(whole.min()))
