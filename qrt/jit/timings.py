"""Times of kernels on this CPU, kept in one JSON file beside the compiled objects.

    {"version": 1, "timings": {key: {kernel name: nanoseconds}}}

A key says all that a time depends on (`timing_key`): another CPU or another build of a kernel finds
nothing. The file is written beside and renamed; a file that is damaged, or a folder that cannot be
written, only costs measuring again. Processes that write at once may lose each other's entries.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from qrt.jit.cache import cache_dir, write_file
from qrt.jit.declare import Kernel
from qrt.jit.digest import kernel_digest
from qrt.jit.target import Target

FILE = "timings.json"
VERSION = 1
MAX_ENTRIES = 4096  # the oldest go first
MAX_NBYTES = 4 << 20  # of a file that is read; one of ours is smaller
_CPU_FIELDS = (
    "model name", "cpu family", "model", "stepping",  # x86
    "CPU implementer", "CPU variant", "CPU part", "CPU revision",  # AArch64
)  # fmt: skip


def timing_key(kernels: Iterable[Kernel], target: Target, row: Mapping[str, int]) -> str:
    """Digest of the CPU, the kernels' code for `target`, and the row that they run."""
    digests = [kernel_digest(k, target) for k in kernels]
    known = json.dumps([cpu_name(), digests, sorted(row.items())])
    return hashlib.sha256(known.encode()).hexdigest()[:32]


def read_timing(key: str, names: Iterable[str]) -> dict[str, int] | None:
    """Nanoseconds by kernel name, for exactly `names`; None when they are not there or damaged."""
    found = _read_all().get(key)
    names = set(names)
    if not isinstance(found, dict) or set(found) != names:
        return None
    if not all(type(time) is int and time > 0 for time in found.values()):
        return None
    return {name: found[name] for name in sorted(names)}


def write_timing(key: str, times: Mapping[str, int]) -> None:
    """Keep `times` under `key`; says nothing when the folder cannot be written."""
    timings = _read_all()
    timings.pop(key, None)
    timings[key] = dict(times)
    for oldest in list(timings)[: max(0, len(timings) - MAX_ENTRIES)]:
        del timings[oldest]
    data = json.dumps({"version": VERSION, "timings": timings}).encode()
    write_file(cache_dir() / FILE, data)


@cache
def cpu_name() -> str:
    """What tells this model of CPU from others, as Linux describes the first one."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    found = {name.strip(): value.strip() for name, value in fields.items()}
    return "; ".join([platform.machine(), *(f"{n} {found[n]}" for n in _CPU_FIELDS if n in found)])


def _read_all() -> dict[str, object]:
    """Every entry of the file, {} when there is none that can be read."""
    path = cache_dir() / FILE
    try:
        if path.stat().st_size > MAX_NBYTES:
            return {}
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or document.get("version") != VERSION:
        return {}
    timings = document.get("timings")
    return timings if isinstance(timings, dict) else {}
