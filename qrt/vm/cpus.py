"""How many threads this process may use: affinity and cgroup limits."""

from __future__ import annotations

import math
import os
from pathlib import Path

from qrt import knobs
from qrt.errors import QrtError

_CGROUP = Path("/sys/fs/cgroup")


def usable_threads() -> int:
    """Threads that can run at once: the affinity mask, limited by the cgroup's CPU quota."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    return max(1, min(cpus, cgroup_limit()))


def resolve_threads(threads: int | None) -> int:
    """Threads of a session: `threads`, else `QRT_THREADS`, else one; never more than usable.

    0 means all usable. Raises QrtError for anything that is not a count.
    """
    asked: object = threads
    if threads is None:
        text = knobs.THREADS.get().strip()
        asked = text
        if not text:
            return 1
        threads = int(text) if text.isdecimal() else -1
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise QrtError(f"threads must be a whole number, 0 for all usable ones, got {asked!r}")
    usable = usable_threads()
    return min(threads, usable) or usable


def cgroup_limit(root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Whole CPUs that the quota (v2 `cpu.max`, v1 `cfs_quota_us`) pays for; many if none."""
    limit = 1 << 16
    for folder in _folders(root, membership):
        quota = _quota(folder)
        if quota is not None:
            limit = min(limit, max(1, math.ceil(quota)))
    return limit


def _folders(root: Path, membership: Path) -> list[Path]:
    """The process's cgroup and all above it; in a container only the root can be seen."""
    folders = {root, root / "cpu", root / "cpu,cpuacct"}
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "")
        if controllers == "":
            base = root
        elif "cpu" in controllers.split(","):
            base = root / controllers
        else:
            continue
        parts = [p for p in path.split("/") if p not in ("", "..")]
        folders.update(base.joinpath(*parts[:i]) for i in range(len(parts) + 1))
    return sorted(folders)


def _quota(folder: Path) -> float | None:
    """CPUs that the quota in `folder` allows, None when there is no quota."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        if quota in ("max", "-1"):
            return None
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
