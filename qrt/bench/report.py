"""Results as lines for people and as JSON for machines (docs/bench.md has the schema)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from platform import machine as architecture
from platform import processor
from typing import Any

from qrt.bench import machine, rival
from qrt.bench.cases import Case
from qrt.bench.runner import Measured, call_seconds
from qrt.gemm.limits import DOT_KERNELS

SCHEMA = 1  # raised when a field changes its meaning or goes away
LEVELS = {"L1": 16 << 10, "L2": 256 << 10, "memory": 64 << 20}  # bytes that bandwidth is shown for
MANY_CALLS = 0.2  # part of a time that the call itself may be before the ratio is marked

HEADER = (
    f"{'median us':>10} {'min us':>9}  {'rate':>7} {'':7} {'share':>5}  {'of limit':<22}"
    f" {'rival us':>9} {'ratio':>7}  kernels"
)
LEGEND = """\
rate      by the median of all calls; GB/s count bytes of inputs and outputs, once each
!         the machine was busy: the median, of qrt or of the limit, is a quarter off the best, or
          other programs had the CPU for a tenth of the time of long calls
share     of the limit, measured in the same turns: NAME dots, or fma..., a loop of that
          instruction on registers alone; read and copy, streams through as many bytes
          (Winograd: rates count the multiply-adds of the direct convolution)
ratio     the rival's median over qrt's; ~ where calling it is a fifth of its time or more"""


@dataclass(frozen=True)
class Machine:
    """Where and how was measured. Rates in GMAC/s (dots) and GB/s, of all `threads`."""

    cpu: str
    architecture: str
    features: list[str]
    threads: int
    onnxruntime: str | None
    call_us: float
    rival_call_us: float | None
    dots: dict[str, float]
    read: dict[str, float]
    copy: dict[str, float]


def describe_machine(features: frozenset[str], threads: int, *, with_rival: bool) -> Machine:
    """Measure what does not depend on a case."""
    ours, theirs = call_seconds(features, with_rival=with_rival)
    dots = {
        limit.family: machine.dot_rate(features, limit.family, threads=threads)
        for limit in DOT_KERNELS
        if features.issuperset(limit.features)
    }
    read, copy = (
        {
            name: machine.stream_rate(features, n // parts, copies=copies, threads=threads)
            for name, n in LEVELS.items()
        }
        for copies, parts in ((False, 1), (True, 2))
    )
    return Machine(
        cpu_name(),
        architecture(),
        sorted(features),
        threads,
        rival.version() if with_rival else None,
        ours * 1e6,
        None if theirs is None else theirs * 1e6,
        dots,
        read,
        copy,
    )


def cpu_name() -> str:
    """The model name that Linux gives, else what Python knows of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else processor() or "unknown"


def as_json(found: Machine, measured: Sequence[Measured], version: str) -> dict[str, Any]:
    """The report of docs/bench.md."""
    return {
        "schema": SCHEMA,
        "qrt": version,
        "machine": asdict(found),
        "measurements": [_fields(m) for m in measured],
    }


def _fields(m: Measured) -> dict[str, Any]:
    return {
        "family": m.case.family.name,
        "variant": m.case.variant,
        "shape": m.case.name,
        "dims": dict(zip(m.case.family.dims, m.case.dims, strict=True)),
        "kernels": list(m.kernels),
        "threads": m.threads,
        "median_us": m.median_us,
        "min_us": m.min_us,
        "rate": m.rate,
        "unit": m.unit,
        "limit": m.limit,
        "limit_rate": m.limit_rate,
        "share": m.share,
        "disturbed": m.is_disturbed,
        "macs": m.case.macs,
        "nbytes": m.footprint,
        "rival_us": m.rival_us,
        "ratio": m.ratio,
    }


class Table:
    """Lines of a table whose rows are printed as they come; `cases` decide its widths."""

    def __init__(self, cases: Sequence[Case], found: Machine) -> None:
        self._label = max(len("family"), *(len(case.label) for case in cases))
        self._name = max(len("shape"), *(len(case.name) for case in cases))
        self._machine = found

    def head(self) -> str:
        """Titles."""
        titles = f"{'family':{self._label}}  {'shape':{self._name}} {HEADER}"
        return f"{titles}\n{'-' * len(titles)}"

    def row(self, m: Measured) -> str:
        """One case."""
        share = "-" if m.share is None else f"{m.share:.0%}"
        limit = "-" if m.limit is None else f"{m.limit_rate:5.1f} {m.limit}"
        rival_us = "-" if m.rival_us is None else f"{m.rival_us:.1f}"
        mark = "!" if m.is_disturbed else " "
        return (
            f"{m.case.label:{self._label}}  {m.case.name:{self._name}}"
            f" {m.median_us:10.1f} {m.min_us:9.1f}{mark} {m.rate:7.1f} {m.unit:7} {share:>5}"
            f"  {limit:<22} {rival_us:>9} {self._ratio(m):>7}  {', '.join(m.kernels)}"
        )

    def _ratio(self, m: Measured) -> str:
        if m.ratio is None or m.rival_us is None:
            return "-"
        call = self._machine.rival_call_us or 0.0
        return f"{'~' if call > MANY_CALLS * m.rival_us else ''}{m.ratio:.2f}"


def machine_facts(found: Machine) -> list[tuple[str, str]]:
    """The machine, as labels and texts."""
    calls = f"qrt {found.call_us:.2f} us"
    if found.rival_call_us is not None:
        calls += f", onnxruntime {found.rival_call_us:.2f} us; part of every time below"
    return [
        ("cpu", f"{found.cpu}, {found.architecture}"),
        ("features", ", ".join(found.features) or "portable"),
        ("threads", str(found.threads)),
        ("rival", f"onnxruntime {found.onnxruntime}" if found.onnxruntime else "-"),
        ("empty call", calls),
        ("dots", _rates(found.dots, "GMAC/s")),
        ("read", _rates(found.read, "GB/s")),
        ("copy", _rates(found.copy, "GB/s")),
    ]


def _rates(rates: Mapping[str, float], unit: str) -> str:
    return f"{', '.join(f'{name} {rate:.4g}' for name, rate in rates.items())} {unit}"
