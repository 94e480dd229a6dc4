"""The bytes of the files that decide how kernels are compiled, for the cache key."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# `from qrt.room import name, name`, in parentheses or not; ten times faster than parsing
_FROM = re.compile(r"^ *from (qrt[\w.]*) import (?:\(([^)]*)\)|(.*))", re.MULTILINE)
_FILES = ("bounds.py", "compile.py", "numba_codegen.py", "numba_options.py")


@cache
def source_bytes() -> bytes:
    """The files that name options and drive numba, and the installed numba's version."""
    room = Path(__file__).parent
    try:
        numba = version("numba")
    except PackageNotFoundError:
        numba = "none"
    parts = [(room / name).read_bytes() for name in _FILES]
    return numba.encode() + b"".join(parts)


@cache
def generator_bytes(module: str) -> bytes:
    """The source of a module of qrt and of all of qrt that it imports; b"" when there is none.

    Nothing is imported: some of these need numba, which a warm process does without.
    """
    seen: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen[name] = _source(name)
            waiting += _imports(seen[name])
    return b"".join(name.encode() + seen[name] for name in sorted(seen))


def _source(module: str) -> bytes:
    root = Path(__file__).parents[2]
    path = root.joinpath(*module.split(".")).with_suffix(".py")
    return path.read_bytes() if path.is_file() else b""


def _imports(source: bytes) -> list[str]:
    """What may be modules among the names that `source` imports from qrt."""
    found = []
    for package, many, few in _FROM.findall(source.decode()):
        names = re.findall(r"\w+", many or few)
        found += [package, *(f"{package}.{name}" for name in names)]
    return found
