"""`qrt bench`: how long a model takes here, as a whole and row by row."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from qrt.cli.command import Command
from qrt.cli.inputs import as_dict, make_feeds
from qrt.cli.options import (
    add_inputs,
    add_limits,
    add_model,
    add_session,
    count_from,
    load_session,
    positive_seconds,
)
from qrt.cli.screen import duration, facts, show, show_json
from qrt.cli.stopwatch import time_calls

PROFILE_RUNS = 50


def add_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, inputs, how long to measure."""
    add_model(parser)
    add_inputs(parser)
    parser.add_argument(
        "--runs", type=count_from(1), default=1000, metavar="N", help="at most (default 1000)"
    )
    parser.add_argument(
        "--seconds", type=positive_seconds, default=3.0, metavar="S", help="at most (default 3)"
    )
    parser.add_argument("--profile", action="store_true", help="also time every row")
    add_session(parser)
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Time runs on the same inputs; those that no --input gives are random."""
    start = time.perf_counter()
    session = load_session(args)
    feeds = make_feeds(session.get_inputs(), args, fill=True)
    inputs = as_dict(feeds)
    session.run(None, inputs)
    ready = time.perf_counter() - start
    times = time_calls(lambda: session.run(None, inputs), args.runs, args.seconds)
    explanation = session.explain()
    profile = session.profile(inputs, runs=min(args.runs, PROFILE_RUNS)) if args.profile else None
    if args.json:
        report: dict[str, Any] = {
            "model": args.model,
            "inputs": [feed.facts() for feed in feeds],
            "features": list(explanation.features),
            "threads": explanation.threads,
            "first_result_s": ready,
            "runs": times.runs,
            "median_ms": 1e3 * times.median,
            "min_ms": 1e3 * times.min,
            "p90_ms": 1e3 * times.p90,
        }
        if profile is not None:
            report["profile"] = json.loads(profile.to_json())
        show_json(report)
        return 0
    rows = [("model", args.model), *(("input", str(feed)) for feed in feeds)]
    rows += [
        ("features", ", ".join(explanation.features) or "portable"),
        ("threads", str(explanation.threads)),
        ("ready", f"{duration(ready)} until the first result"),
        ("median", duration(times.median)),
        ("min", duration(times.min)),
        ("p90", duration(times.p90)),
        ("runs", str(times.runs)),
    ]
    show(facts(rows))
    if profile is not None:
        show(f"\n{profile}")
    return 0


COMMAND = Command(
    "bench",
    "time a model: median, min, p90, and every row with --profile",
    "Time runs of a model on the same inputs, random ones unless --input gives them.",
    add_options,
    run,
)
