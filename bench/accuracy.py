"""What quantization costs in accuracy: models, methods, and onnxruntime's quantizer beside ours.

    python -m bench.accuracy
    python -m bench.accuracy --models digits_fp32,mnist_cnn_fp32 --methods 'static*,ort static*'
    python -m bench.accuracy --json report.json --list

Every method sees the same 200 pictures without their classes; the others are scored, one at a time,
with --copies shifted and mirrored ones, too. What qrt makes runs in qrt, what onnxruntime makes in
onnxruntime. `drop` is in points of top-1 against the float model, with the standard error of that
difference, as if all pictures were independent: those on which the two are right and wrong in turn
decide it. `agree` is the share on which both say the same, `SQNR` is of the outputs. Bars: a static
model loses at most 0.3 points and no more than the best static one of onnxruntime (one that gained
by chance lost nothing); a dynamic one loses at most 0.3; weights of 4 bits in blocks of 32 at
most 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

from bench.labelled import MODELS, Labelled
from bench.quantizers import FLOAT, OURS, THEIRS, Quantizer, quiet, runner

Array = NDArray[Any]
CALIBRATION = 200  # pictures
BARS = {"static": 0.3, "dynamic": 0.3, "weights": 1.0}  # points that a kind may lose
RIVAL_KINDS = ("static",)  # kinds that must not lose more than onnxruntime's best, either
EXACT = 1e-9  # points; drops are differences of floats


@dataclass(frozen=True)
class Row:
    """What a method did to a model. Shares are 0 to 1, `drop` and `deviation` points of top-1."""

    model: str
    method: str
    kind: str
    engine: str
    top1: float = 0.0
    drop: float = 0.0
    deviation: float = 0.0
    agreement: float = 0.0
    sqnr: float = 0.0
    nbytes: int = 0
    seconds: float = 0.0
    bar: str = ""
    error: str = ""


@dataclass(frozen=True)
class Baseline:
    """Outputs of the float model on the scored samples."""

    outputs: Array
    right: Array


def measure(
    case: Labelled, methods: Sequence[Quantizer], calibration: int = CALIBRATION,
    rows: int | None = None, with_copies: bool = False, tell: Any = lambda row: None,
) -> list[Row]:  # fmt: skip
    """The float model's row and one per method, on at most `rows` scored samples and copies."""
    x, y = case.arrays()
    seen, scored = x[:calibration], slice(calibration, None if rows is None else calibration + rows)
    x, y = x[scored], y[scored]
    if with_copies:
        x = case.copies(x)
        y = np.tile(y, len(x) // len(y))
    found = _outputs(FLOAT, case, seen, x)
    base = Baseline(found[0], found[0].argmax(axis=1) == y)
    made = [_row(case, FLOAT, found, base, y)]
    tell(made[0])
    for method in methods:
        start = time.perf_counter()
        try:
            row = _row(case, method, _outputs(method, case, seen, x), base, y)
        # a row that cannot be made says so, and the table goes on: some need more packages
        except Exception as error:
            row = Row(case.name, method.name, method.kind, method.engine, error=_short(error))
        made.append(replace(row, seconds=time.perf_counter() - start))
        tell(made[-1])
    return judged(made)


def judged(rows: Sequence[Row]) -> list[Row]:
    """The rows of one model with what became of their bars."""
    made = []
    for row in rows:
        if row.kind not in BARS or row.engine != "qrt" or row.error:
            made.append(row)
            continue
        missed = []
        if row.drop > BARS[row.kind] + EXACT:
            missed.append(f"{row.drop - BARS[row.kind]:.2f} beyond {BARS[row.kind]}")
        rivals = [r.drop for r in rows if r.kind == row.kind and r.engine != "qrt" and not r.error]
        least = max(0.0, min(rivals, default=np.inf))
        if row.kind in RIVAL_KINDS and row.drop > least + EXACT:
            missed.append(f"{row.drop - least:.2f} more than onnxruntime")
        made.append(replace(row, bar="; ".join(missed) or "met"))
    return made


def table(rows: Sequence[Row]) -> str:
    """Text, a line per row."""
    lines = [("model", "method", "top-1", "drop", "agree", "SQNR", "bytes", "bar")]
    for row in rows:
        if row.error:
            lines.append((row.model, row.method, "", "", "", "", "", row.error))
            continue
        lines.append(
            (
                row.model,
                row.method,
                f"{100 * row.top1:.2f}",
                f"{row.drop:.2f} ± {row.deviation:.2f}" if row.kind != "float" else "",
                f"{100 * row.agreement:.2f}",
                f"{row.sqnr:.1f}",
                f"{row.nbytes:,}",
                row.bar,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(7)]
    return "\n".join(
        "  ".join(
            [*(f"{line[i]:<{widths[i]}}" for i in range(2)),
             *(f"{line[i]:>{widths[i]}}" for i in range(2, 7)), line[7]]
        ).rstrip()
        for line in lines
    )  # fmt: skip


def summary(rows: Sequence[Row]) -> str:
    """One line per model and kind: which methods meet the bar, and the most accurate one."""
    lines = []
    for model in dict.fromkeys(row.model for row in rows):
        for kind in BARS:
            ours = [r for r in rows if (r.model, r.kind, r.engine) == (model, kind, "qrt")]
            ours = [r for r in ours if not r.error]
            if ours:
                met = [r.method for r in ours if r.bar == "met"]
                most = max(ours, key=lambda r: (r.top1, r.sqnr))
                lines.append(
                    f"{model} {kind}: {len(met)} of {len(ours)} meet the bar"
                    f" ({', '.join(met) or 'none'}); best {most.method}, drop {most.drop:.2f}"
                )
    return "\n".join(lines)


def _outputs(method: Quantizer, case: Labelled, seen: Array, x: Array) -> tuple[Array, int]:
    """Outputs (samples, classes) of the method's model, and its bytes."""
    with quiet():
        made = method.make(case.model, seen)
    run = runner(method.engine, made)
    outputs = [run(x[i : i + 1]).reshape(1, -1) for i in range(len(x))]
    return np.concatenate(outputs).astype(np.float64), made.ByteSize()


def _row(
    case: Labelled, method: Quantizer, found: tuple[Array, int], base: Baseline, y: Array
) -> Row:
    outputs, nbytes = found
    right = outputs.argmax(axis=1) == y
    change = base.right.astype(np.float64) - right
    noise = float(((outputs - base.outputs) ** 2).sum())
    signal = float((base.outputs**2).sum())
    return Row(
        case.name,
        method.name,
        method.kind,
        method.engine,
        top1=float(right.mean()),
        drop=100 * float(change.mean()),
        deviation=100 * float(change.std() / np.sqrt(len(y))),
        agreement=float((outputs.argmax(axis=1) == base.outputs.argmax(axis=1)).mean()),
        sqnr=10 * float(np.log10(signal / noise)) if noise else float("inf"),
        nbytes=nbytes,
    )


def _short(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:100] if lines else ''}"


def chosen(globs: str, methods: Sequence[Quantizer]) -> list[Quantizer]:
    """Methods whose name one of the comma-separated patterns matches."""
    return [m for m in methods if any(fnmatchcase(m.name, g.strip()) for g in globs.split(","))]


def main() -> int:
    """Measure, print, and say which bars are met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names, comma-separated")
    parser.add_argument("--methods", default="*", help="patterns of names, comma-separated")
    parser.add_argument("--rows", type=int, help="score at most so many pictures")
    parser.add_argument(
        "--copies", action="store_true", help="score shifted and mirrored copies, too: less luck"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--list", action="store_true", help="only name models and methods")
    args = parser.parse_args()
    methods = chosen(args.methods, (*OURS, *THEIRS))
    unknown = [name for name in args.models.split(",") if name not in MODELS]
    if unknown or not methods:
        parser.error(f"no model '{unknown[0]}'" if unknown else f"no method '{args.methods}'")
    if args.list:
        print("\n".join([*MODELS, *(m.name for m in methods)]))
        return 0
    rows: list[Row] = []
    for name in args.models.split(","):
        if not MODELS[name].model.exists():
            print(f"{name}: {MODELS[name].model} is not here", file=sys.stderr)
            continue
        found = measure(
            MODELS[name], methods, rows=args.rows, with_copies=args.copies,
            tell=lambda row: print(f"{row.model} {row.method}", file=sys.stderr),
        )  # fmt: skip
        print(table(found), flush=True)
        rows += found
    print(summary(rows))
    if args.json:
        Path(args.json).write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
