"""`qrt quantize`: a float model to standard ONNX with small integers."""

from __future__ import annotations

import argparse
import sys

import qrt
from qrt import knobs
from qrt.cli.command import Command
from qrt.cli.options import add_model, count_from
from qrt.cli.screen import facts, show, show_json
from qrt.errors import InputError
from qrt.files import whole_file

RECIPES = ("static", "x86", "arm", "int16", "dynamic", "weights")


def add_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, the recipe and its data."""
    add_model(parser)
    parser.add_argument("--output", "-o", required=True, metavar="FILE", help="the model to write")
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        default="static",
        help="static, x86, arm, int16: calibrated QDQ; dynamic: ranges found at every run; weights:"
        " few bits in blocks, activations float (default: static)",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="calibration data: .npy or .npz of samples (first axis), or a folder of .npz files,"
        " one run each",
    )
    parser.add_argument(
        "--samples", type=count_from(1), metavar="N", help="take only the first N samples"
    )
    parser.add_argument("--bits", type=int, default=4, help="of --recipe weights: 2, 4 or 8")
    parser.add_argument("--block-size", type=int, default=32, help="of --recipe weights")
    parser.add_argument(
        "--method", default="rtn", help="of --recipe weights: rtn, mse, hqq or gptq"
    )
    parser.add_argument(
        "--form",
        help="how it is written: qdq (default) or qoperator where calibrated, blocked (default) or"
        " matmulnbits with --recipe weights",
    )


def run(args: argparse.Namespace) -> int:
    """Quantize, write, and say what became of the bytes."""
    from qrt.ptq.sizes import model_size  # imports onnx, which --help does not need

    data = None if args.data is None else _samples(args.data, args.samples)
    if args.recipe == "dynamic":
        made = qrt.quantize_dynamic(args.model)
    elif args.recipe == "weights":
        made = qrt.quantize_weights(
            args.model, args.bits, args.block_size, method=args.method,
            form=args.form or "blocked", symmetric=args.method != "hqq", calibration_data=data,
        )  # fmt: skip
    else:
        if data is None:
            raise InputError(f"--recipe {args.recipe} needs --data: samples to see ranges on")
        made = qrt.quantize_static(
            args.model, data, args.recipe, form=args.form or "qdq", progress=_progress
        )
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
            }
        )
        return 0
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


def _samples(path: str, most: int | None) -> object:
    """What `--data` names, as `qrt.quantize_static` takes it."""
    from qrt.ptq.samples import SampleFiles

    return SampleFiles(path, most)


def _progress(done: int) -> None:
    stream = sys.stderr
    if knobs.PROGRESS.get() != "0" and stream is not None and stream.isatty():
        stream.write(f"\rqrt: calibrating, {done} runs done")
        stream.flush()


COMMAND = Command(
    "quantize",
    "quantize a float model",
    "Write a quantized form of a float ONNX model: static from calibration data, dynamic, or with"
    " weights of few bits. The result is standard ONNX.",
    add_options,
    run,
)
