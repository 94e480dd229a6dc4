"""`qrt bench kernels`: how fast the kernels are here, beside the machine's limits and a rival."""

from __future__ import annotations

import argparse
from pathlib import Path

import qrt
from qrt.cli.command import Command
from qrt.cli.options import add_session, positive_seconds
from qrt.cli.screen import facts, show, show_json

DETAILS = (
    "Time kernels at the sizes of real networks' layers. Each is compared with the limit of this"
    " machine, measured in the same run: products with a loop of the same dot-product instruction"
    " on registers alone, everything else with a copy of as many bytes (after a read of them, where"
    " all of the input must be known before anything is written); and with onnxruntime, where it is"
    " installed, on the same one-operator model and number of threads. Medians of turns that"
    " alternate. Winograd convolutions count the multiply-adds of the direct form, so their share"
    " may pass 100 %."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to time, how, and where results go."""
    parser.add_argument(
        "--family",
        action="append",
        default=[],
        metavar="NAME",
        help="only this family of kernels, see --list; may be repeated",
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="SHAPE",
        help="only shapes with this in their name, or sizes of your own for one --family, as"
        " 128x768x768; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="list families and shapes, time none")
    parser.add_argument(
        "--seconds",
        type=positive_seconds,
        default=0.3,
        metavar="S",
        help="per shape, about, without limits (default 0.3)",
    )
    parser.add_argument(
        "--alone", action="store_true", help="without onnxruntime, even where it is installed"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also write a roofline plot, a page of HTML"
    )
    add_session(parser)


def run(args: argparse.Namespace) -> int:
    """Time the chosen cases one after the other."""
    from qrt.bench import rival
    from qrt.bench.cases import choose_cases, list_facts, listing

    cases = choose_cases(args.family, args.shape)
    if args.list:
        if args.json:
            show_json({"shapes": list_facts(cases)})
        else:
            show(listing(cases))
        return 0
    from qrt.bench.plot import page
    from qrt.bench.report import (
        LEGEND,
        Table,
        as_json,
        describe_machine,
        machine_facts,
    )
    from qrt.bench.runner import measure, prepare
    from qrt.simd.features import active_features
    from qrt.vm import resolve_threads

    if args.plot is not None:
        args.plot.open("a").close()  # complains now, not after the measurements
    features, threads = active_features(args.features), resolve_threads(args.threads)
    with_rival = not args.alone and rival.onnxruntime() is not None
    machine = describe_machine(features, threads, with_rival=with_rival)
    table = Table(cases, machine)
    if not args.json:
        show(f"{facts(machine_facts(machine))}\n\n{table.head()}")
    measured = []
    for case in cases:
        measured.append(measure(prepare(case, features, threads, rival=with_rival), args.seconds))
        if not args.json:
            show(table.row(measured[-1]))
    if args.plot is not None:
        args.plot.write_text(page(machine, measured), encoding="utf-8")
    if args.json:
        show_json(as_json(machine, measured, qrt.__version__))
    else:
        absent = "\n-         onnxruntime is not installed (pip install onnxruntime)"
        show(f"\n{LEGEND}{absent if not args.alone and not with_rival else ''}")
    return 0


COMMAND = Command(
    "bench kernels",
    "time kernels at the sizes of real layers, beside the machine's limits and onnxruntime",
    DETAILS,
    add_options,
    run,
)
