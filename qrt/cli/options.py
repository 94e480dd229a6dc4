"""Options that several commands share, and the session that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import qrt
from qrt.api import Session
from qrt.api.images import ImageFolder, Preprocessing, open_samples
from qrt.simd.features import levels

if TYPE_CHECKING:
    from qrt.ptq.samples import SampleFiles


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, the file to work on."""
    parser.add_argument("model", metavar="MODEL", help="path of an .onnx file")


# options of `qrt.load` that bound a model, and what each bounds
LIMITS = {
    "max_bytes": "bytes of constants, arenas, and results outside of programs",
    "max_nodes": "nodes, functions inlined",
    "max_depth": "functions and subgraphs inside of each other",
    "max_steps": "steps that the loops of one run may take",
}


def add_session(parser: argparse.ArgumentParser) -> None:
    """How to run: threads and CPU features."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads (default 1; 0: all usable ones)"
    )
    parser.add_argument(
        "--features",
        metavar="SPEC",
        help=f"CPU features to use: {', '.join(levels())} and/or +name,-name"
        " (default: all that this CPU has); --features=-name where it begins with a dash",
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """What a model may ask for."""
    for name, meaning in LIMITS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=count_from(0),
            metavar="N",
            help=f"refuse a model that needs more {meaning}",
        )


def add_dims(parser: argparse.ArgumentParser) -> None:
    """Sizes of dimensions that the model leaves open."""
    parser.add_argument(
        "--dim",
        type=_dim,
        action="append",
        default=[],
        metavar="NAME=SIZE",
        help="size of a symbolic dimension of random inputs (default 1); may be repeated",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Where random inputs start."""
    parser.add_argument(
        "--seed", type=count_from(0), default=0, metavar="N", help="of random inputs (default 0)"
    )


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Where inputs come from."""
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a .npy array, an .npz with arrays named like the inputs (or in:NAME), or a PNG or"
        " JPEG image, resized to the input's height and width; NAME= may be left out where only"
        " one input is possible; may be repeated",
    )
    add_dims(parser)
    add_seed(parser)
    add_images(parser)


def add_images(parser: argparse.ArgumentParser) -> None:
    """What happens to images."""
    parser.add_argument(
        "--scale",
        type=_number,
        metavar="S",
        help="images: (pixel * S - mean) / std (default 1/255 for float inputs, 1 for integers)",
    )
    parser.add_argument("--mean", type=_numbers, metavar="M[,M,M]", help="images: default 0")
    parser.add_argument("--std", type=_numbers, metavar="D[,D,D]", help="images: default 1")


def add_samples(parser: argparse.ArgumentParser, *, required: bool, most: int | None) -> None:
    """Samples to run a model on, and what happens to images."""
    parser.add_argument(
        "--data",
        required=required,
        metavar="PATH",
        help="samples: .npy or .npz (first axis), a folder of .npz files, one run each, or a folder"
        " of PNG or JPEG images, resized to the input's height and width",
    )
    parser.add_argument(
        "--samples", type=count_from(1), default=most, metavar="N",
        help=f"take only the first N (default {'all' if most is None else most})",
    )  # fmt: skip
    add_dims(parser)
    add_images(parser)


def samples(args: argparse.Namespace) -> SampleFiles | ImageFolder | None:
    """What --data names."""
    if args.data is None:
        return None
    return open_samples(args.data, args.samples, preprocessing(args), dict(args.dim))


def preprocessing(args: argparse.Namespace) -> Preprocessing:
    """What --scale, --mean and --std ask for."""
    return Preprocessing(args.scale, args.mean, args.std)


def load_session(args: argparse.Namespace) -> Session:
    """The session of MODEL."""
    limits = {name: getattr(args, name) for name in LIMITS}
    return qrt.load(args.model, threads=args.threads, features=args.features, **limits)


def count_from(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least `least`."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got {text!r}")
        return int(text)

    return count


def positive_seconds(text: str) -> float:
    """The type of an option that is a time."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, got {text!r}")
    return seconds


def _dim(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition("=")
    if not name or not size.isdecimal():
        raise argparse.ArgumentTypeError(f"must be NAME=SIZE, got {text!r}")
    return name, int(size)


def _number(text: str) -> float:
    """0.5 or 1/255."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"must be a number or a fraction, got {text!r}") from None


def _numbers(text: str) -> tuple[float, ...]:
    """One number, or one for each of three channels."""
    numbers = tuple(_number(part) for part in text.split(","))
    if len(numbers) not in (1, 3):
        raise argparse.ArgumentTypeError(f"must be one number or three, got {text!r}")
    return numbers
