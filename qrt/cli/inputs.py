"""Inputs of a model from files, or drawn at random."""

from __future__ import annotations

import argparse
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qrt.api import images
from qrt.api.arguments import Argument
from qrt.cli.options import preprocessing
from qrt.cli.screen import shape_text
from qrt.errors import InputError

Array = np.ndarray[Any, Any]

_ARRAY_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True)
class Feed:
    """One input with its array, and where that came from."""

    name: str
    array: Array
    source: str

    def __str__(self) -> str:
        return f"{self.name}  {self.array.dtype} {shape_text(self.array.shape)}  {self.source}"

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "dtype": str(self.array.dtype),
            "shape": list(self.array.shape),
            "source": self.source,
        }


def make_feeds(
    arguments: Sequence[Argument], args: argparse.Namespace, *, fill: bool
) -> list[Feed]:
    """What --input names, in the order of `arguments`; `fill` draws the others at random.

    Raises InputError for what cannot be read or is not an input, and for what is missing.
    """
    sizes = bound_dims(arguments, args.dim)
    given: dict[str, Feed] = {}
    for text in args.input:
        for feed in read_feeds(text, arguments, sizes, preprocessing(args)):
            if feed.name in given:
                raise InputError(f"input {feed.name!r} is given twice")
            given[feed.name] = feed
    rng = np.random.default_rng(args.seed)
    feeds = []
    for argument in arguments:
        if argument.name in given:
            feeds.append(given[argument.name])
        elif fill:
            array = random_input(argument, sizes, rng)
            feeds.append(Feed(argument.name, array, f"random, seed {args.seed}"))
        else:
            raise InputError(
                f"input {argument.name!r} ({argument.dtype} of {argument.shown_shape}) is missing:"
                f" give --input {argument.name}=FILE, or --random"
            )
    return feeds


def as_dict(feeds: Sequence[Feed]) -> dict[str, Array]:
    """The mapping that a session takes."""
    return {feed.name: feed.array for feed in feeds}


def read_feeds(
    text: str,
    arguments: Sequence[Argument],
    sizes: Mapping[str, int],
    how: images.Preprocessing,
) -> list[Feed]:
    """The inputs that one --input option gives: several when it is an .npz without a name."""
    name, path = split_option(text, arguments)
    if not path.exists():
        raise InputError(f"--input {text}: '{path}' does not exist{_names_hint(text, arguments)}")
    if not path.is_file():
        raise InputError(f"--input {text}: '{path}' is not a file")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _from_npz(path, name, arguments)
    if suffix not in (*_ARRAY_SUFFIXES, *images.SUFFIXES):
        raise InputError(
            f"--input {text}: the file's name must end in one of"
            f" {', '.join((*_ARRAY_SUFFIXES, *images.SUFFIXES))}"
        )
    argument = _argument(name, path, arguments)
    if suffix == ".npy":
        return [Feed(argument.name, _from_npy(path), str(path))]
    array = images.read_image(path, argument, _sized(argument, sizes), how)
    return [Feed(argument.name, array, str(path))]


def split_option(text: str, arguments: Sequence[Argument]) -> tuple[str | None, Path]:
    """NAME=FILE as name and path; the name is None when no input's name leads.

    Names may contain an equals sign, so the longest that fits is taken.
    """
    fitting = [a.name for a in arguments if text.startswith(f"{a.name}=")]
    if not fitting:
        return None, Path(text)
    name = max(fitting, key=len)
    return name, Path(text[len(name) + 1 :])


def random_input(argument: Argument, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    """Standard normal floats, the full range of 8-bit integers, else 0 or 1.

    0 and 1 suit what wide integers are fed for: masks, token types, tokens of any vocabulary. Open
    dimensions are 1 unless `sizes` has their name.
    """
    if argument.dims is None or argument.dtype is None:
        raise InputError(
            f"input {argument.name!r} cannot be drawn at random, its rank or dtype is unknown:"
            f" give --input {argument.name}=FILE"
        )
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in _sized(argument, sizes))
    dtype = argument.dtype
    if dtype.kind in "iu" and dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind not in "fV":  # ml_dtypes' floats have kind V
        raise InputError(
            f"input {argument.name!r} cannot be drawn at random, its dtype is {dtype}:"
            f" give --input {argument.name}=FILE"
        )
    return rng.standard_normal(shape).astype(dtype)


def bound_dims(arguments: Sequence[Argument], given: Sequence[tuple[str, int]]) -> dict[str, int]:
    """The sizes of --dim; raises InputError for a name that no input has."""
    known = {dim for a in arguments for dim in a.dims or () if isinstance(dim, str)}
    for name, _ in given:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise InputError(
                f"--dim {name}: no input has such a dimension; the symbolic ones are: {listed}"
            )
    return dict(given)


def _sized(argument: Argument, sizes: Mapping[str, int]) -> list[Any]:
    """The dimensions, with names replaced by their sizes where these are known."""
    return [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in argument.dims or ()]


def _argument(name: str | None, path: Path, arguments: Sequence[Argument]) -> Argument:
    if name is None and len(arguments) != 1:
        raise InputError(
            f"--input {path}: the model has {len(arguments)} inputs, say which: NAME={path}"
            f" with one of {_listed(arguments)}"
        )
    return next(a for a in arguments if name is None or a.name == name)


def _from_npy(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"'{path}' is not a readable .npy file: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"'{path}' is an .npz archive, its name must end in .npz")
    return array


def _from_npz(path: Path, name: str | None, arguments: Sequence[Argument]) -> list[Feed]:
    """For one input its array, or the only one; without a name all arrays that are inputs."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            wanted = [a.name for a in arguments] if name is None else [name]
            chosen = {}
            for one in wanted:
                keys = [key for key in (one, f"in:{one}") if key in names]
                if not keys and len(names) == 1 and len(wanted) == 1:
                    keys = names
                if keys:
                    chosen[one] = archive[keys[0]]
    except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"'{path}' is not a readable .npz file: {error}") from error
    if not chosen:
        raise InputError(
            f"'{path}' has no array for {_listed(arguments) if name is None else repr(name)};"
            f" it has {', '.join(map(repr, names)) or 'none'}"
        )
    return [Feed(one, array, str(path)) for one, array in chosen.items()]


def _names_hint(text: str, arguments: Sequence[Argument]) -> str:
    """What to say when NAME of NAME=FILE is the mistake."""
    if "=" not in text:
        return ""
    return (
        f", and no input is called {text.partition('=')[0]!r}; the inputs are {_listed(arguments)}"
    )


def _listed(arguments: Sequence[Argument]) -> str:
    return ", ".join(repr(a.name) for a in arguments) or "(none)"
