"""`qrt compare`: where a quantized model differs from the one it was made from."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from qrt.api.quantization import run_float
from qrt.cli.command import Command
from qrt.cli.options import add_samples, count_from, samples
from qrt.cli.outputs import check_output
from qrt.cli.screen import show, show_json
from qrt.files import whole_file


def add_options(parser: argparse.ArgumentParser) -> None:
    """The two models, data, and how to show it."""
    parser.add_argument("first", metavar="FLOAT", help="the model to compare with")
    parser.add_argument("second", metavar="QUANTIZED", help="the model that was made from it")
    add_samples(parser, required=True, most=32)
    parser.add_argument("--layers", type=count_from(1), default=20, metavar="N", help="to show")
    parser.add_argument("--html", metavar="FILE", help="also write all layers as one page")


def run(args: argparse.Namespace) -> int:
    """Print the layers of least local SQNR first."""
    from qrt.ptq.compare import compare_models  # imports onnx, which --help does not need

    if args.html:
        check_output(args.html)
    found = compare_models(args.first, args.second, samples(args), run_float)
    if args.html:
        title = f"{Path(args.second).name} against {Path(args.first).name}"
        with whole_file(Path(args.html)) as file:
            file.write(found.page(title).encode())
    if args.json:
        layers = [asdict(layer) for layer in found.layers]
        show_json({"samples": found.samples, "layers": layers, "html": args.html})
        return 0
    show(found.table(args.layers))
    return 0


COMMAND = Command(
    "compare",
    "show where a quantized model differs from its float model",
    "Signal to noise of every tensor that both models have: of each layer alone, on exact inputs,"
    " and with all that came before; worst first, with the cause where one can be seen.",
    add_options,
    run,
)
