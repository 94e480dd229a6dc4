"""`qrt explain`: which kernel runs each node, or why it stayed float."""

from __future__ import annotations

import argparse
import json

from qrt.cli.command import Command
from qrt.cli.inputs import as_dict, make_feeds
from qrt.cli.options import add_inputs, add_limits, add_model, add_session, load_session
from qrt.cli.screen import show, show_json


def add_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, and inputs whose shapes the program is made for."""
    add_model(parser)
    add_inputs(parser)
    add_session(parser)
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Print the session's explanation; with --input or --dim, that of the given shapes."""
    session = load_session(args)
    if args.input or args.dim:
        session.run(None, as_dict(make_feeds(session.get_inputs(), args, fill=True)))
    explanation = session.explain()
    if args.json:
        show_json({"model": args.model, **json.loads(explanation.to_json())})
    else:
        show(str(explanation))
    return 0


COMMAND = Command(
    "explain",
    "say which kernel runs each node, or why it stayed float",
    "Per node of the model as it runs here: the kernels, dtype, memory order, and why a node"
    " stayed float. Symbolic dimensions are 1 unless --dim or --input says otherwise.",
    add_options,
    run,
)
