"""Files that are there whole or not at all, however a process ends and whoever else writes them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_numbers = itertools.count()  # threads may write the same file


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write what shall be at `path`, put there when the block ends without an exception.

    It lies beside `path` until then. `mode` is less what the umask takes. Raises OSError.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        # a folder, or a device that a file would take the place of
        raise FileExistsError(errno.EEXIST, "is there and no file", str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.tmp")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
