"""`qrt supported`: every operator, and what runs it."""

from __future__ import annotations

import argparse

from qrt.api.supported import HEADER, operator_table
from qrt.api.table import table
from qrt.cli.command import Command
from qrt.cli.screen import show, show_json


def add_options(parser: argparse.ArgumentParser) -> None:
    """How to print."""
    parser.add_argument("--markdown", action="store_true", help="print a table of Markdown")


def run(args: argparse.Namespace) -> int:
    """Print the operator table."""
    rows = operator_table()
    if args.json:
        show_json({"operators": [row.as_dict() for row in rows]})
    elif args.markdown:
        show(markdown())
    else:
        show(table(HEADER, [row.cells() for row in rows]))
    return 0


def markdown() -> str:
    """The table as docs/operators.md has it."""
    lines = [HEADER, tuple("---" for _ in HEADER), *(row.cells() for row in operator_table())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


COMMAND = Command(
    "supported",
    "list the operators, and what runs each",
    "Every operator of ONNX's domains as the installed onnx defines them, and those of others that"
    " qrt knows: the opsets in which it changed, what runs it, and which quantized spellings become"
    " integers.",
    add_options,
    run,
)
