"""Compiled objects on disk: one file per kernel and target, named by its digest.

A file is a checksum and the object; it is written beside and renamed, so a reader sees a whole
file or none, and two processes may write the same one. A folder that cannot be read or written,
or a file that was tampered with or cut, only costs a compilation.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from qrt import knobs
from qrt.files import whole_file

_MAGIC = b"qrtobj01"


def cache_dir() -> Path:
    """Where compiled kernels live: `QRT_CACHE_DIR`, else the user's cache folder."""
    named = knobs.CACHE_DIR.get()
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "qrt"


def read_object(digest: str) -> bytes | None:
    """The object called `digest`, or None when it is not there, foreign or damaged."""
    path = cache_dir() / f"{digest}.o"
    try:
        info = os.stat(path)
        if hasattr(os, "getuid") and info.st_uid not in (os.getuid(), 0):
            return None  # machine code written by another user is not run
        if info.st_mode & stat.S_IWOTH:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    magic, checksum, body = data[:8], data[8:40], data[40:]
    return body if magic == _MAGIC and checksum == hashlib.sha256(body).digest() else None


def write_object(digest: str, body: bytes) -> None:
    """Keep `body` under `digest`; says nothing when the folder cannot be written."""
    write_file(cache_dir() / f"{digest}.o", _MAGIC + hashlib.sha256(body).digest() + body)


def write_file(path: Path, data: bytes) -> None:
    """Keep a file, making its folder; says nothing when it cannot be written."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with whole_file(path, mode=0o600) as file:
            file.write(data)
