"""`qrt run`: a model on given inputs, its outputs described and kept."""

from __future__ import annotations

import argparse
from pathlib import Path

from qrt.cli.command import Command
from qrt.cli.inputs import as_dict, make_feeds
from qrt.cli.options import add_inputs, add_limits, add_model, add_session, load_session
from qrt.cli.outputs import flat_outputs, summarise_output, write_outputs
from qrt.cli.screen import facts, show, show_json


def add_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, inputs, and where the outputs go."""
    add_model(parser)
    add_inputs(parser)
    parser.add_argument(
        "--random", action="store_true", help="draw the inputs that no --input gives"
    )
    parser.add_argument("--output", metavar="DIR", help="write each output to DIR/NAME.npy")
    add_session(parser)
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Run once; prints each output's shape, dtype, min, max, mean, and the top of vectors."""
    session = load_session(args)
    feeds = make_feeds(session.get_inputs(), args, fill=args.random)
    results = session.run(None, as_dict(feeds))
    names, arrays = flat_outputs([output.name for output in session.get_outputs()], results)
    summaries = [summarise_output(*item) for item in zip(names, arrays, strict=True)]
    files = write_outputs(Path(args.output), names, arrays) if args.output else []
    if args.json:
        show_json(
            {
                "model": args.model,
                "inputs": [feed.facts() for feed in feeds],
                "outputs": [summary.facts() for summary in summaries],
                "files": [str(path) for path in files],
            }
        )
        return 0
    rows = [("input", str(feed)) for feed in feeds]
    for summary in summaries:
        first, *more = summary.lines()
        rows += [("output", first), *(("", line) for line in more)]
    rows += [("wrote", str(path)) for path in files]
    show(facts(rows))
    return 0


COMMAND = Command(
    "run",
    "run a model on files, images or random inputs",
    "Run a model once and describe its outputs: shape, dtype, min, max, mean, and the five largest"
    " elements of a vector.",
    add_options,
    run,
)
