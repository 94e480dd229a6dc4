"""`qrt inspect`: what an ONNX file holds, before any rewrite."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

from qrt.cli.command import Command
from qrt.cli.options import add_model
from qrt.cli.screen import show, show_json
from qrt.ir.text import format_graph, summarize_graph


def add_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, and how much to show of it."""
    add_model(parser)
    parser.add_argument("--nodes", action="store_true", help="also list every node")


def run(args: argparse.Namespace) -> int:
    """Print the summary of the graph, and its nodes with --nodes."""
    from qrt.loader import load_graph  # imports onnx, which --help does not need

    graph = load_graph(args.model)
    summary = summarize_graph(graph)
    nbytes = os.path.getsize(args.model)
    if args.json:
        report = {"model": args.model, "file_nbytes": nbytes, **asdict(summary)}
        if args.nodes:
            report["listing"] = format_graph(graph).splitlines()
        show_json(report)
        return 0
    show(f"file       {args.model}, {nbytes:,} bytes\n{summary}")
    if args.nodes:
        show(f"\n{format_graph(graph)}".rstrip("\n"))
    return 0


COMMAND = Command(
    "inspect",
    "show what an ONNX file holds",
    "Inputs, outputs, operators, parameters and bytes of a model as its file has them.",
    add_options,
    run,
)
