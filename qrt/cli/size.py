"""`qrt size`: where the bytes of models are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from qrt.cli.command import Command
from qrt.cli.screen import show, show_json

if TYPE_CHECKING:
    from qrt.ptq.sizes import LayerSize

MB = 1e6
SMALL = 100  # bytes; layers below have one line in common


def add_options(parser: argparse.ArgumentParser) -> None:
    """MODEL..., and how many layers of it to show."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="ONNX files; the first is 1x")
    parser.add_argument(
        "--layers", action="store_true", help="also every layer, models side by side"
    )


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
    names = [Path(path).stem for path in args.models]
    if args.layers:
        show(_table(names, [size.layers for size in sizes]))
    first = sizes[0].file_nbytes
    for path, size in zip(args.models, sizes, strict=True):
        show(
            f"{path}: {size.file_nbytes / MB:.3f} MB, constants {size.nbytes / MB:.3f} MB"
            f" ({first / size.file_nbytes:.2f}x)"
        )
    return 0


def _table(names: Sequence[str], models: Sequence[Sequence[LayerSize]]) -> str:
    """MB of every layer, models side by side; layers are one by their names."""
    by_name = [{layer.layer: layer for layer in layers} for layers in models]
    every = {layer.layer: layer for layers in reversed(models) for layer in layers}
    order = dict.fromkeys(layer.layer for layers in models for layer in layers)
    rows = [["layer", "operator", *(f"{name}, MB" for name in names)]]
    small, count = [0] * len(models), 0
    for name in order:
        found = [layers[name].nbytes if name in layers else 0 for layers in by_name]
        if max(found) < SMALL:
            small, count = [a + b for a, b in zip(small, found, strict=True)], count + 1
        else:
            rows.append([name, every[name].op, *map(_mb, found)])
    if count:
        rows.append([f"{count} of less than {SMALL} bytes", "", *map(_mb, small)])
    totals = [sum(layer.nbytes for layer in layers) for layers in models]
    rows.append(["all constants", "", *map(_mb, totals)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [*(f"{text:<{width}}" for text, width in zip(row[:2], widths, strict=False)),
             *(f"{text:>{width}}" for text, width in zip(row[2:], widths[2:], strict=True))]
        ).rstrip()
        for row in rows
    )  # fmt: skip


def _mb(nbytes: int) -> str:
    return f"{nbytes / MB:.4f}" if nbytes else "-"


COMMAND = Command(
    "size",
    "show where the bytes of models are",
    "Bytes of models in total and per layer; what a DequantizeLinear makes real counts as it is"
    " stored.",
    add_options,
    run,
)
