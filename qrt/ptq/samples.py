"""Samples: feeds for single runs from what users have, as often as they are asked for."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
import onnx

from qrt.errors import InputError
from qrt.quant.affine import Array

Feeds = Mapping[str, Array]


@runtime_checkable
class Source(Protocol):
    """Something that makes feeds for a model with such inputs, again at every call."""

    def feeds(self, inputs: Sequence[onnx.ValueInfoProto]) -> Iterator[dict[str, Array]]:
        """Feeds of single runs, one after the other."""
        ...


class Samples:
    """Feeds for single runs, one at a time in memory; every `iter` starts anew.

    `data` is an array whose first axis counts samples (for a model of one input), a dict of such
    arrays, an .npy or .npz file of samples, a folder of .npz files (one run each; arrays named by
    inputs), a `Source`, or an iterable of feeds (dict) or of arrays for one run. Samples are fed
    one by one, or as many as the model's fixed first dimension takes, what is left over left out.
    An iterator gives its items once; with `keep` they go to a temporary file for later passes.
    Raises InputError for anything else.
    """

    def __init__(
        self, data: Any, inputs: Sequence[onnx.ValueInfoProto], *, keep: bool = False
    ) -> None:
        self._inputs = inputs
        self._names = [value.name for value in inputs]
        if isinstance(data, (str, os.PathLike)):
            data = SampleFiles(data)
        if isinstance(data, np.ndarray):
            data = {self._only(): data}
        if not isinstance(data, (Mapping, Iterable, Source)):
            raise InputError(
                "calibration data are arrays, a dict of arrays, an .npz file, a folder of them or"
                f" of images, or an iterable of these, got {type(data).__name__}"
            )
        self._data = data
        if keep and isinstance(data, Iterator):
            self._data = _Kept(self._of_items(data), self._names)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for run, feed in enumerate(self._every()):
            for value in self._inputs:
                _check_shape(value, feed[value.name], run)
            yield feed

    def _every(self) -> Iterator[dict[str, Array]]:
        if isinstance(self._data, Source):
            return self._data.feeds(self._inputs)
        if isinstance(self._data, SampleFiles):
            return self._of_items(self._data.items(self._batch(), self._names))
        if isinstance(self._data, Mapping):
            return _cut(self._named(self._data), self._batch())
        return self._of_items(self._data)

    def _batch(self) -> int:
        """How many samples the model takes at once."""
        for value in self._inputs:
            dims = value.type.tensor_type.shape.dim
            if dims and dims[0].dim_value > 1:
                return int(dims[0].dim_value)
        return 1

    def _of_items(self, items: Iterable[Any]) -> Iterator[dict[str, Array]]:
        for item in items:
            if isinstance(item, Mapping):
                yield self._named(item)
            else:
                yield {self._only(): np.asarray(item)}

    def _only(self) -> str:
        if len(self._names) != 1:
            raise InputError(
                f"the model has {len(self._names)} inputs ({', '.join(self._names)}): name the"
                " arrays in a dict"
            )
        return self._names[0]

    def _named(self, arrays: Mapping[str, Any]) -> dict[str, Array]:
        """Only the inputs, all of them."""
        missing = [name for name in self._names if name not in arrays]
        if missing:
            raise InputError(
                f"the calibration data have no input '{missing[0]}', only"
                f" {', '.join(map(str, arrays)) or 'nothing'}"
            )
        return {name: np.asarray(arrays[name]) for name in self._names}


class SampleFiles:
    """A file of samples (.npy, .npz), or a folder of .npz files with one run each.

    `most` limits how many samples are taken. Raises InputError for what is neither, or cannot be
    read.
    """

    def __init__(self, path: str | os.PathLike[str], most: int | None = None) -> None:
        self.path, self.most = Path(path), most
        self._arrays: dict[str, Array] = {}
        self._files: list[Path] = []
        if self.path.is_dir():
            self._files = sorted(self.path.glob("*.npz"))[:most]
            if not self._files:
                raise InputError(f"'{path}' holds no .npz file, and no image")
        elif self.path.suffix == ".npy" and self.path.is_file():
            # mapped: samples are read when they are fed
            array = _loaded(self.path, mmap_mode="r")
            if not array.ndim:
                raise InputError(f"'{path}' is one number: samples lie along the first axis")
            self._arrays = {"": array}
        elif self.path.suffix == ".npz" and self.path.is_file():
            self._arrays = read_arrays(self.path)
        else:
            raise InputError(f"'{path}' is neither a folder nor an .npy or .npz file")

    def __len__(self) -> int:
        """How many samples there are."""
        if self._files:
            return len(self._files)
        count = min((len(a) for a in self._arrays.values() if a.ndim), default=0)
        return count if self.most is None else min(count, self.most)

    def __iter__(self) -> Iterator[dict[str, Array] | Array]:
        return self.items(1)

    def items(
        self, batch: int, names: Sequence[str] = ()
    ) -> Iterator[dict[str, Array] | Array]:
        """Runs of `batch` samples each, of the arrays of `names` where there are such."""
        if self._files:
            yield from (read_arrays(file) for file in self._files)
            return
        named = {name: self._arrays[name] for name in names if name in self._arrays}
        arrays = {k: a[: self.most] for k, a in (named or self._arrays).items() if a.ndim}
        for feed in _cut(arrays, batch):
            yield feed.get("", feed)


class _Kept:
    """The items of an iterator, kept in a temporary file while they are first asked for."""

    def __init__(self, feeds: Iterator[dict[str, Array]], names: Sequence[str]) -> None:
        self._feeds, self._names = feeds, names
        # gone with this object
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._count = 0

    def __iter__(self) -> Iterator[dict[str, Array]]:
        place = done = 0
        while True:
            self._file.seek(place)
            if done < self._count:
                feed = {name: np.load(self._file, allow_pickle=False) for name in self._names}
            else:
                found = next(self._feeds, None)
                if found is None:
                    return
                feed = found
                for name in self._names:
                    np.save(self._file, feed[name], allow_pickle=False)
                self._count += 1
            done, place = done + 1, self._file.tell()
            yield feed


def _check_shape(value: onnx.ValueInfoProto, array: Array, run: int) -> None:
    """Raise InputError, saying which run, for an array whose shape the input does not take."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return
    dims = [
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim
    ]
    fits = len(dims) == array.ndim and all(
        isinstance(dim, str) or dim == size for dim, size in zip(dims, array.shape, strict=True)
    )
    if fits:
        return
    hint = ""
    if array.ndim == len(dims) - 1:
        hint = "; where the array is one sample, give array[None]"
    raise InputError(
        f"run {run} of the calibration data has shape {array.shape} for input '{value.name}', which"
        f" takes ({', '.join(map(str, dims))}){hint}"
    )


def _cut(arrays: Mapping[str, Array], batch: int) -> Iterator[dict[str, Array]]:
    """Runs of `batch` samples each along the first axes."""
    flat = [name for name, array in arrays.items() if not array.ndim]
    if flat:
        raise InputError(f"samples lie along the first axis; the array of '{flat[0]}' has no axis")
    counts = {len(array) for array in arrays.values()}
    if len(counts) > 1:
        raise InputError(f"arrays of samples must be equally many, got {sorted(counts)}")
    count = max(counts, default=0)
    if 0 < count < batch:
        raise InputError(f"the model takes {batch} samples at once, got only {count}")
    for start in range(0, count - batch + 1, batch):
        yield {name: np.asarray(array[start : start + batch]) for name, array in arrays.items()}


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file; an `in:` before a name is left out."""
    loaded = _loaded(path)
    if isinstance(loaded, np.ndarray):
        raise InputError(f"'{path}' is one array, its name must end in .npy")
    with loaded:
        try:
            return {k.removeprefix("in:"): loaded[k] for k in loaded.files}
        except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"'{path}' cannot be read: {error}") from None


def _loaded(path: Path, **options: Any) -> Any:
    try:
        return np.load(path, allow_pickle=False, **options)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"'{path}' cannot be read: {error}") from None
