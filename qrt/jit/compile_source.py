"""The bytes of the files that decide how kernels are compiled, for the cache key."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_FILES = ("compile.py", "numba_codegen.py", "numba_options.py")


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
