"""External data: tensor bytes in files beside the model, and never anywhere else."""

from __future__ import annotations

import mmap
import os
import stat
from typing import Any

import numpy as np
import onnx

from qrt.errors import ModelError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class ExternalFiles:
    """The files that a model's tensors point into, each mapped once, read-only.

    Every path must stay inside `folder` after links are followed. `folder` None (a model given as
    bytes or ModelProto) refuses external data.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        self._files: dict[str, Bytes] = {}

    def read(self, tensor: onnx.TensorProto, what: str) -> Bytes:
        """The bytes of `tensor`, uint8 (length,): a view of the mapped file."""
        if self.folder is None:
            raise ModelError(
                f"{what}: its data is in another file, whose folder is unknown;"
                " load the model by its path, or say base_dir"
            )
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key in entries:
                raise ModelError(f"{what}: external data says {entry.key!r} twice")
            entries[entry.key] = entry.value
        location = entries.get("location", "")
        data = self._open(location, what)
        offset = _count(entries.get("offset", "0"), "offset", what)
        if offset > data.size:
            raise ModelError(
                f"{what}: external data starts at byte {offset} of '{location}',"
                f" which has {data.size}"
            )
        length = _count(entries.get("length", str(data.size - offset)), "length", what)
        if length > data.size - offset:
            raise ModelError(
                f"{what}: external data needs bytes {offset} to {offset + length} of '{location}',"
                f" which has {data.size}"
            )
        return data[offset : offset + length]

    def _open(self, location: str | bytes, what: str) -> Bytes:
        """Map the file at `location`, which must be inside the folder."""
        if not isinstance(location, str) or not location or "\0" in location:
            raise ModelError(f"{what}: external data must name a file, got {location!r}")
        parts = location.replace("\\", "/").split("/")
        # a drive letter (C:) is absolute too, whatever machine this is
        if parts[0] == "" or ":" in parts[0] or ".." in parts:
            raise ModelError(
                f"{what}: external data must stay inside the model's folder, got {location!r}"
            )
        if location not in self._files:
            self._files[location] = self._map(location, what)
        return self._files[location]

    def _map(self, location: str, what: str) -> Bytes:
        assert self.folder is not None
        root = os.path.realpath(self.folder)
        try:
            path = os.path.realpath(os.path.join(root, location))
            if os.path.commonpath([root, path]) != root:
                raise ModelError(
                    f"{what}: external data must stay inside the model's folder,"
                    f" but {location!r} links to a file outside"
                )
            # before open: a pipe would block
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ModelError(f"{what}: external data {location!r} is not a regular file")
            with open(path, "rb") as file:
                nbytes = os.fstat(file.fileno()).st_size
                if nbytes == 0:
                    return np.empty(0, np.uint8)
                mapped = mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise ModelError(
                f"{what}: external data file {location!r} is missing from '{self.folder}'"
            ) from None
        except (OSError, ValueError) as error:
            raise ModelError(f"{what}: external data {location!r}: {error}") from error
        return np.frombuffer(mapped, np.uint8)


def _count(text: str | bytes, key: str, what: str) -> int:
    """A byte count written in decimal; anything else is refused."""
    # 20 digits hold 2**64; int() of a very long string would be slow
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 20:
        raise ModelError(f"{what}: external data {key} must be a number of bytes, got {text!r:.60}")
    return int(text)
