"""How well two threads scale on a model, beside how well they scale on registers alone.

    python bench/scaling.py resnet50 mobilenet_v2
    python bench/scaling.py all --rounds 30
    python bench/scaling.py resnet50 --engine ort      the rival, by the same measure

A virtual machine rarely gives two threads twice the speed of one: cores share a clock budget, a
memory controller, or a neighbour. So a model's scaling is judged by the scaling that a loop of dot
products without any memory traffic reaches in the same run. One round is: loops on one thread, the
model on one thread, loops on all threads, the model on all threads. Shares are given twice: by
medians over the rounds, and by the fastest of each, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

from bench import compare, zoo
from bench.compare import Model, Options, Timing
from qrt.bench.machine import dot_seconds
from qrt.simd.features import active_features

# of a register loop: starting two threads takes a hundredth of it, and it fits into a time slice
LOOP_SECONDS = 0.004
LOOPS = 5  # per turn
BUSY = 0.85  # part of the loops' perfect scaling below which the machine has other things to do


@dataclass
class Turns:
    """Seconds of every run, by round."""

    rounds: list[list[float]] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the rounds' medians."""
        return median(self.medians)

    @property
    def medians(self) -> list[float]:
        """Each round's median."""
        return [median(seconds) for seconds in self.rounds]

    @property
    def fastest(self) -> float:
        """Minimum of all."""
        return min(min(seconds) for seconds in self.rounds)


@dataclass
class Scaling:
    """One model and the register loops beside it, on one thread and on all."""

    model: str
    threads: int
    model_one: Turns = field(default_factory=Turns)
    model_all: Turns = field(default_factory=Turns)
    loop_one: Turns = field(default_factory=Turns)
    loop_all: Turns = field(default_factory=Turns)

    def model_scaling(self, which: str) -> float:
        """How many times faster the model is on all threads; `which` is median or fastest."""
        return float(getattr(self.model_one, which) / getattr(self.model_all, which))

    def loop_scaling(self, which: str) -> float:
        """How many times more dot products all threads make than one; each makes its own."""
        one, every = getattr(self.loop_one, which), getattr(self.loop_all, which)
        return float(self.threads * one / every)

    def share(self, which: str) -> float:
        """The model's scaling over the loops': 1 means that nothing was lost."""
        return self.model_scaling(which) / self.loop_scaling(which)

    @property
    def shares(self) -> list[float]:
        """Each round's share by medians, sorted: how sure the number is."""
        every = (self.model_one, self.model_all, self.loop_one, self.loop_all)
        rounds = zip(*(turns.medians for turns in every), strict=True)
        return sorted(m1 / mn / (self.threads * d1 / dn) for m1, mn, d1, dn in rounds)

    @property
    def is_busy(self) -> bool:
        """True when even the loops did not scale, or beyond reason: the numbers say little."""
        found = [self.loop_scaling(which) / self.threads for which in ("median", "fastest")]
        return min(found) < BUSY or max(found) > 1 / BUSY

    def as_dict(self) -> dict[str, Any]:
        """For JSON: scalings and shares by median and fastest, and the times they come from."""
        turns = ("model_one", "model_all", "loop_one", "loop_all")
        return {
            "model": self.model,
            "threads": self.threads,
            "busy": self.is_busy,
            **{
                which: {
                    "model_scaling": self.model_scaling(which),
                    "loop_scaling": self.loop_scaling(which),
                    "share": self.share(which),
                    **{name: getattr(getattr(self, name), which) for name in turns},
                }
                for which in ("median", "fastest")
            },
        }


def measure(name: str, model: Model, engine: str, options: Options, rounds: int) -> Scaling:
    """Interleave `rounds` of loops and models; `options.threads` says how many are all."""
    features = active_features(options.features)
    one = replace(options, threads=1)
    sessions = [(compare.ENGINES[engine](model, o), o.threads) for o in (one, options)]
    feeds = next(iter(compare.input_samples(model, sessions[0][0].get_inputs(), options)))
    for session, _ in sessions:
        for _ in range(compare.WARM_UP_RUNS):
            session.run(None, feeds)
    found = Scaling(name, options.threads)
    loops, models = (found.loop_one, found.loop_all), (found.model_one, found.model_all)
    for _ in range(rounds):
        for (session, threads), loop, turns in zip(sessions, loops, models, strict=True):
            loop.rounds.append([dot_seconds(features, threads, LOOP_SECONDS) for _ in range(LOOPS)])
            timing = Timing(engine)
            # with the options of all threads, so that a pause lets idle workers fall asleep
            compare.take_turn(session, feeds, timing, options)
            turns.rounds.append(timing.seconds)
    return found


def format_table(results: Sequence[Scaling]) -> str:
    """Columns: times, then scalings and shares by median (with their spread) and by fastest."""
    header = (
        f"{'':20} {'median of rounds':^59}   {'fastest':^22}\n"
        f"{'model':20} {'1 thread ms':>11} {'all ms':>9} {'scaling':>8} {'loops':>6} {'share':>6}"
        f" {'half within':>14}   {'scaling':>8} {'loops':>6} {'share':>6}"
    )
    lines = [header, "-" * 104]
    for r in results:
        quarter = len(r.shares) // 4
        low, high = r.shares[quarter], r.shares[-1 - quarter]
        lines.append(
            f"{r.model:20} {1e3 * r.model_one.median:11.3f} {1e3 * r.model_all.median:9.3f}"
            f" {r.model_scaling('median'):8.2f} {r.loop_scaling('median'):6.2f}"
            f" {r.share('median'):6.0%} {low:6.0%} to {high:4.0%}"
            f"   {r.model_scaling('fastest'):8.2f} {r.loop_scaling('fastest'):6.2f}"
            f" {r.share('fastest'):6.0%}{'  (busy)' if r.is_busy else ''}"
        )
    if any(r.is_busy for r in results):
        lines.append(f"busy: the loops themselves did not scale (load average {_load()})")
    return "\n".join(lines)


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of the named models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="paths, zoo names, or all (of the zoo)")
    parser.add_argument("--engine", choices=sorted(compare.ENGINES), default="qrt")
    parser.add_argument("--threads", type=int, default=2, help="what all threads means")
    parser.add_argument("--features", help="CPU features qrt may use (default: all there are)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.threads < 2 or args.rounds < 1:
        parser.error("--threads must be at least 2 and --rounds at least 1")
    options = Options(threads=args.threads, features=args.features)
    names = list(zoo.ZOO) if args.models == ["all"] else args.models
    results = []
    for name in names:
        label, model = compare.load_model(name)
        results.append(measure(label, model, args.engine, options, args.rounds))
        if not args.json:
            print(f"{label}: {results[-1].share('median'):.0%}", file=sys.stderr)
    if args.json:
        print(json.dumps([r.as_dict() for r in results], indent=1))
    else:
        print(format_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
