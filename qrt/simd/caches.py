"""The sizes of the data caches that a core sees: what blocking fits its loops to."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from qrt import knobs
from qrt.errors import QrtError
from qrt.jit.target import host_arch
from qrt.simd.cpuid import Registers, cpuid


class CacheSizes(NamedTuple):
    """Bytes of each level's data or unified cache that one thread may fill; 0: there is none.

    A level that cores share counts in full.
    """

    l1d: int
    l2: int
    l3: int


# where neither the system nor the CPU says: what small cores of the last ten years have at least
DEFAULT = CacheSizes(32 << 10, 256 << 10, 0)
_CPUS = Path("/sys/devices/system/cpu")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DATA, _UNIFIED = 1, 3  # types of CPUID's cache leaves, from Intel's and AMD's manuals


def cache_sizes() -> CacheSizes:
    """What `QRT_CACHE_SIZES` says, else what the system or the CPU reports, else `DEFAULT`.

    Raises QrtError for a knob that is not three sizes.
    """
    text = knobs.CACHE_SIZES.get().strip()
    return parse_sizes(text) if text else detected_sizes()


@cache
def detected_sizes() -> CacheSizes:
    """Of the CPUs that this process started on; read once."""
    return (
        system_sizes(_usable_cpus())
        or (cpuid_sizes(cpuid) if host_arch() == "x86_64" else None)
        or DEFAULT
    )


def parse_sizes(text: str) -> CacheSizes:
    """Three sizes separated by commas, each in bytes or with K, M or G behind it."""
    sizes = [_parse(part.strip()) for part in text.split(",")]
    if len(sizes) != 3 or None in sizes or not sizes[0]:
        raise QrtError(
            f"{knobs.CACHE_SIZES.name}: expected the sizes of L1d, L2 and L3,"
            f" such as 32K,1M,32M (0: there is none), got {text!r}"
        )
    return CacheSizes(*(size or 0 for size in sizes))


def system_sizes(cpus: list[int], root: Path = _CPUS) -> CacheSizes | None:
    """The smallest of each level in Linux' description of `cpus`; None where an L1d is missing.

    See Documentation/ABI/testing/sysfs-devices-system-cpu of Linux.
    """
    found = [_system_sizes_of(root / f"cpu{cpu}" / "cache") for cpu in cpus]
    if not found or not all(sizes.l1d for sizes in found):
        return None
    return CacheSizes(*(min(level) for level in zip(*found, strict=True)))


def cpuid_sizes(ask: Callable[[int, int], Registers]) -> CacheSizes | None:
    """By CPUID's cache leaves, 4 of Intel and 0x8000001D of AMD; None where there are none."""
    extended = ask(0x80000000, 0).eax
    for leaf, highest in ((4, ask(0, 0).eax), (0x8000001D, extended)):
        if highest < leaf:
            continue
        sizes = {1: 0, 2: 0, 3: 0}
        for subleaf in range(8):
            words = ask(leaf, subleaf)
            kind, level = words.eax & 31, words.eax >> 5 & 7
            if not kind:
                break
            if kind in (_DATA, _UNIFIED) and level in sizes:
                ways, partitions = (words.ebx >> 22) + 1, (words.ebx >> 12 & 0x3FF) + 1
                line, sets = (words.ebx & 0xFFF) + 1, words.ecx + 1
                sizes[level] = ways * partitions * line * sets
        if sizes[1]:
            return CacheSizes(sizes[1], sizes[2], sizes[3])
    return None


def _usable_cpus() -> list[int]:
    """The first and the last CPU of the affinity mask: kinds of cores are numbered in a row."""
    if not hasattr(os, "sched_getaffinity"):
        return [0]
    cpus = os.sched_getaffinity(0)
    return sorted({min(cpus), max(cpus)})


def _system_sizes_of(folder: Path) -> CacheSizes:
    """The description in `folder`; 0 for a level that it lacks."""
    sizes = {1: 0, 2: 0, 3: 0}
    for index in sorted(folder.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in _FIELDS)
        except OSError:
            continue
        nbytes = _parse(size)
        if kind != "Instruction" and nbytes and level.isdecimal() and int(level) in sizes:
            sizes[int(level)] = nbytes
    return CacheSizes(sizes[1], sizes[2], sizes[3])


_FIELDS = ("type", "level", "size")


def _parse(text: str) -> int | None:
    """Bytes of a size such as 32768, 32K or 1M; None for anything else."""
    match = re.fullmatch(r"([0-9]+)([KMG]?)", text.upper())
    return int(match[1]) * _UNITS[match[2]] if match else None
