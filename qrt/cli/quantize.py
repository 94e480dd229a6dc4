"""`qrt quantize`: a float model to standard ONNX with small integers."""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import qrt
from qrt.api.progress import CalibrationLine
from qrt.api.recipes import NEEDED, RECIPES
from qrt.cli import target
from qrt.cli.command import Command
from qrt.cli.options import add_model, add_samples, samples
from qrt.cli.outputs import check_output
from qrt.cli.screen import facts, one_line, show, show_json
from qrt.errors import InputError
from qrt.files import whole_file

if TYPE_CHECKING:
    from qrt.ptq.expected import InputRanges

# options that count where they are given: each recipe says which it has
OPTIONS = ("form", "bits", "block_size", "method", *target.CHANGES)


def add_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, the recipe, its options and its data."""
    add_model(parser)
    parser.add_argument("--output", "-o", required=True, metavar="FILE", help="the model to write")
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        default="static",
        help="; ".join(f"{name}: {recipe.what}" for name, recipe in RECIPES.items())
        + " (default: static)",
    )
    add_samples(parser, required=False, most=None)
    parser.add_argument(
        "--form",
        help="how it is written; qdq or qoperator where calibrated, blocked or matmulnbits of"
        " weights_int4, weights or full of float16 (the first is the default)",
    )
    parser.add_argument("--bits", type=int, help="of weights_int4: 2, 4 (default) or 8")
    parser.add_argument("--block-size", type=int, help="of weights_int4 (default 32)")
    parser.add_argument(
        "--method",
        help="of weights_int4: rtn, mse, hqq, or with --data gptq, learned (default: gptq with"
        " --data, mse without)",
    )
    parser.add_argument(
        "--backend", help="engine that shall run it in integers, where calibrated (default qrt)"
    )
    parser.add_argument(
        "--equalize",
        action="store_const",
        const=True,
        help="where calibrated: first bring channels that share a grid to the same range",
    )
    parser.add_argument(
        "--smooth",
        type=float,
        metavar="ALPHA",
        help="where calibrated: move wide channels of what MatMul and Gemm read into their weights,"
        " by so much (0 to 1; 0.5 is usual)",
    )
    parser.add_argument(
        "--bias-correction",
        action="store_const",
        const=True,
        help="where calibrated: take from biases what quantization adds to means",
    )
    parser.add_argument(
        "--rounding",
        help="of weights, where calibrated or dynamic with --data: nearest, gptq, learned",
    )
    parser.add_argument(
        "--reconstruct",
        action="store_const",
        const=True,
        help="where calibrated, and of weights_int4 with --data: last, learn scales and biases over"
        " the whole model",
    )
    parser.add_argument(
        "--input-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="in place of --data, where calibrated: what inputs reach; all else is told by"
        " BatchNormalization",
    )
    target.add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Quantize, write, and say what became of the bytes."""
    from qrt.ptq.sizes import model_size  # imports onnx, which --help does not need

    check_output(args.output)
    if args.labels is not None and args.target_drop is None:
        raise InputError("--labels is for --target-drop")
    data: Any = samples(args)
    count = None if data is None else len(data)
    if args.input_range is not None:
        data = _unseen(args)
    if data is None and RECIPES[args.recipe].data == NEEDED:
        raise InputError(f"--recipe {args.recipe} needs --data: samples to see ranges on")
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    report = None
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        if args.target_drop is not None:
            made, report = target.quantize(args, data)
        else:
            with CalibrationLine(count) as progress:
                made = qrt.quantize(args.model, args.recipe, data, progress=progress, **options)
    for note in notes:
        print(f"qrt quantize: {one_line(str(note.message))}", file=sys.stderr)
    before, after = model_size(args.model), model_size(made)
    with whole_file(args.output) as file:
        file.write(made.SerializeToString())
    if args.json:
        show_json(
            {
                "model": args.model,
                "output": args.output,
                "recipe": args.recipe,
                "nbytes_before": before.nbytes,
                "nbytes_after": after.nbytes,
                "file_nbytes_before": before.file_nbytes,
                "file_nbytes_after": after.file_nbytes,
                **({} if report is None else {"target": asdict(report)}),
            }
        )
        return 0
    if report is not None:
        show(report.table())
    ratio = before.file_nbytes / after.file_nbytes
    show(
        facts(
            [
                ("recipe", args.recipe),
                ("wrote", f"{args.output}, {after.file_nbytes:,} bytes"),
                ("before", f"{before.file_nbytes:,} bytes ({ratio:.2f} times as many)"),
            ]
        )
    )
    return 0


def _unseen(args: argparse.Namespace) -> InputRanges:
    """What --input-range says. Raises InputError where it does not belong."""
    from qrt.ptq.expected import InputRanges  # imports onnx, which --help does not need

    if args.data is not None or RECIPES[args.recipe].data != NEEDED:
        raise InputError("--input-range is for calibrated recipes, in place of --data")
    low, high = args.input_range
    return InputRanges((low, high))


COMMAND = Command(
    "quantize",
    "quantize a float model",
    "Write a quantized form of an ONNX model by a recipe: static from calibration data, dynamic,"
    " weights of few bits, float16, or a model trained with quantization. The result is standard"
    " ONNX.",
    add_options,
    run,
)
