"""How much of a model's time Python takes: operators without a kernel, nodes that are no program.

    python bench/python_share.py resnet50 some/model.onnx
    python bench/python_share.py all ../shared/models/*.onnx

Names and inputs are those of `compare.py`. The exit status says whether a model is above LIMIT.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

import qrt
from bench import compare, zoo

LIMIT = 0.02
RUNS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per model; the number of models above LIMIT, at most 100."""
    parser = argparse.ArgumentParser(description="Print how much of a model's time Python takes.")
    parser.add_argument("models", nargs="+", help="paths, names of zoo.py, or all of its models")
    names = parser.parse_args(argv).models
    above = 0
    print(f"{'model':32} {'us':>10} {'Python':>8}  operators")
    for name in [n for given in names for n in (zoo.ZOO if given == "all" else [given])]:
        label, model = compare.load_model(name)
        session = qrt.load(model, threads=1)
        feeds = next(iter(compare.input_samples(model, session.get_inputs(), compare.Options())))
        session.run(None, feeds)
        profile = session.profile(feeds, RUNS)
        python = " ".join(sorted({row.operator for row in profile if row.runs_in_python}))
        share, time = profile.python_share, profile.median_ns / 1e3
        print(f"{label:32} {time:10.1f} {100 * share:7.2f}%  {python}", flush=True)
        above += share > LIMIT
    return min(above, 100)


if __name__ == "__main__":
    sys.exit(main())
