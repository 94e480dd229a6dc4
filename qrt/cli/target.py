"""`qrt quantize --target-drop`: as many layers in integers as the score allows."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import qrt
from qrt import knobs
from qrt.errors import InputError

if TYPE_CHECKING:
    import onnx

    from qrt.ptq.target import TargetReport


# options that are fields of the recipe's config
CHANGES = ("backend", "equalize", "smooth", "bias_correction", "rounding", "reconstruct")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The drop, and what the score is of."""
    parser.add_argument(
        "--target-drop",
        type=_points,
        metavar="POINTS",
        help="of a calibrated recipe: lose at most so many points of top-1 on --labels, with 16-bit"
        " activations or float where 8 bits lose more; says why each layer is what it is",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="of --target-drop: .npz of samples like --data, and their classes as `y`",
    )


def quantize(args: argparse.Namespace, data: Any) -> tuple[onnx.ModelProto, TargetReport]:
    """What --target-drop asks for. Raises InputError when an option is missing or does not fit."""
    from qrt.ptq.config import PRESETS, config_of
    from qrt.ptq.target import read_labelled  # imports onnx, which --help does not need

    if args.recipe not in PRESETS:
        raise InputError(
            f"--target-drop is for calibrated recipes ({', '.join(PRESETS)}), not {args.recipe}"
        )
    if args.labels is None:
        raise InputError("--target-drop needs --labels: samples with classes to score models on")
    if args.form not in (None, "qdq"):
        raise InputError("--target-drop writes --form qdq only")
    if args.input_range is not None:
        raise InputError("--target-drop needs --data")
    for name in ("bits", "block_size", "method"):
        if getattr(args, name) is not None:
            raise InputError(f"--target-drop has no --{name.replace('_', '-')}: it finds a mix")
    changes = {name: getattr(args, name) for name in CHANGES if getattr(args, name) is not None}
    return qrt.quantize_to_target(
        args.model, data, args.target_drop / 100, labels=read_labelled(args.labels),
        config=config_of(args.recipe, **changes), progress=_tell,
    )  # fmt: skip


def _tell(text: str) -> None:
    """A score on stderr, where somebody looks on."""
    stream = sys.stderr
    if knobs.PROGRESS.get() != "0" and stream is not None and stream.isatty():
        print(f"qrt: {text}", file=stream, flush=True)


def _points(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 100:
        raise argparse.ArgumentTypeError(f"must be points from 0 to 100, got {text!r}")
    return found
