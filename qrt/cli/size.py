"""`qrt size`: where the bytes of models are."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from qrt.cli.command import Command
from qrt.cli.screen import show, show_json

MB = 1e6


def add_options(parser: argparse.ArgumentParser) -> None:
    """MODEL..., and how many layers of it to show."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="ONNX files; the first is 1x")
    parser.add_argument("--layers", action="store_true", help="also every layer")


def run(args: argparse.Namespace) -> int:
    """Print bytes in total, and per layer with --layers."""
    from qrt.ptq.sizes import model_size  # imports onnx, which --help does not need

    sizes = [model_size(path) for path in args.models]
    if args.json:
        found = [
            {"model": path, "nbytes": size.nbytes, "file_nbytes": size.file_nbytes,
             "layers": [asdict(layer) for layer in size.layers]}
            for path, size in zip(args.models, sizes, strict=True)
        ]  # fmt: skip
        show_json({"models": found})
        return 0
    first = sizes[0].file_nbytes
    for path, size in zip(args.models, sizes, strict=True):
        show(
            f"{path}: {size.file_nbytes / MB:.3f} MB, constants {size.nbytes / MB:.3f} MB"
            f" ({first / size.file_nbytes:.2f}x)"
        )
        if args.layers:
            width = max((len(layer.layer) for layer in size.layers), default=0)
            for layer in size.layers:
                show(
                    f"  {layer.layer:<{width}}  {layer.op:<20} {layer.elements:>12,}"
                    f" {layer.nbytes / MB:>10.4f} MB"
                )
    return 0


COMMAND = Command(
    "size",
    "show where the bytes of models are",
    "Bytes of models in total and per layer; what a DequantizeLinear makes real counts as it is"
    " stored.",
    add_options,
    run,
)
