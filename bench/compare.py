"""Time models in qrt and onnxruntime side by side, in one process and turn by turn.

    python bench/compare.py resnet50 some/model.onnx --threads 2
    python bench/compare.py all --markdown
    python bench/compare.py resnet50 --engines ort,ort     how far noise alone moves the ratio

Engines take turns, so that a noisy neighbour or a falling clock hits both alike. A turn starts with
untimed runs, which bring the engine's own weights back into the caches. With more than one thread
there is a pause before it, because idle threads of the other engine still spin. `--turn 0` is one
timed run per turn and nothing untimed.

A model is a path or a name from `zoo.py`. Inputs come from the `.npz` beside the model (arrays
`in:<name>`); without one, floats are standard normal and integers random.
"""

import argparse
import gc
import importlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

from bench import zoo

Model = Path | ModelProto
Feeds = dict[str, NDArray[Any]]

WARM_UP_RUNS = 3
SETTLE_SECONDS = 0.005  # untimed start of a turn
PAUSE_SECONDS = 0.06  # onnxruntime's idle threads were seen to spin for 40 ms after a run
MIN_TURNS = 10
ELEMENT_TYPES = {"float": "float32", "double": "float64"}  # where ONNX and NumPy names differ
SAMPLES = 8  # random inputs on which outputs are compared


class InputInfo(Protocol):
    """What a session tells about one input."""

    name: str
    shape: Sequence[int | str | None]
    type: str


class Session(Protocol):
    """The part of onnxruntime's session that qrt shares."""

    def get_inputs(self) -> Sequence[InputInfo]:
        """Return the inputs that must be fed."""
        ...

    def run(self, output_names: Sequence[str] | None, feeds: Feeds, /) -> Sequence[NDArray[Any]]:
        """Return all outputs in the order of the model."""
        ...


@dataclass(frozen=True)
class Options:
    """What the command line says about how to run."""

    threads: int = 1
    features: str | None = None  # CPU features qrt may use
    runs: int = 500  # timed runs per engine, at most
    seconds: float = 5.0  # per model, at most
    turn: float = 0.02  # seconds of timed runs in one turn
    dims: dict[str, int] = field(default_factory=dict)
    seed: int = 0


@dataclass
class Timing:
    """Seconds of one engine's runs of one model."""

    engine: str
    seconds: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """Median in milliseconds."""
        return 1e3 * median(self.seconds)

    @property
    def min_ms(self) -> float:
        """Minimum in milliseconds."""
        return 1e3 * min(self.seconds)


@dataclass
class Result:
    """One model on one or two engines; the comparison is None for one engine."""

    model: str
    engines: list[str]
    runs: list[int]
    median_ms: list[float]
    min_ms: list[float]
    macs: int | None = None
    ratio: float | None = None  # median of the first engine / median of the second
    max_abs_diff: float | None = None
    argmax_agreement: float | None = None  # 0..1


def load_ort(model: Model, options: Options) -> Session:
    """Load `model` in onnxruntime on the CPU with all its optimisations."""
    ort = _import("onnxruntime", "pip install onnxruntime, or time qrt alone with --engines qrt")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session: Session = ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    return session


def load_qrt(model: Model, options: Options) -> Session:
    """Load `model` in qrt."""
    qrt = _import("qrt", "run from a checkout, or pip install it")
    source = str(model) if isinstance(model, Path) else model
    session: Session = qrt.load(source, threads=options.threads, features=options.features)
    return session


ENGINES: dict[str, Callable[[Model, Options], Session]] = {"ort": load_ort, "qrt": load_qrt}


def compare(name: str, model: Model, engines: Sequence[str], options: Options) -> Result:
    """Time `model` on one or two `engines` and compare the outputs of two."""
    sessions = [ENGINES[engine](model, options) for engine in engines]
    samples = list(input_samples(model, sessions[0].get_inputs(), options))
    timings = [Timing(engine) for engine in engines]
    measure(sessions, samples[0], timings, options)
    result = Result(
        name,
        list(engines),
        [len(timing.seconds) for timing in timings],
        [timing.median_ms for timing in timings],
        [timing.min_ms for timing in timings],
        zoo.macs(model) if isinstance(model, ModelProto) else None,
    )
    if len(sessions) == 2:
        result.ratio = timings[0].median_ms / timings[1].median_ms
        result.max_abs_diff, result.argmax_agreement = compare_outputs(
            sessions[0], sessions[1], samples
        )
    return result


def measure(
    sessions: Sequence[Session], feeds: Feeds, timings: Sequence[Timing], options: Options
) -> None:
    """Let sessions take turns on the same `feeds` until runs or seconds are used up."""
    for session in sessions:
        for _ in range(WARM_UP_RUNS):
            session.run(None, feeds)
    deadline = time.perf_counter() + options.seconds
    turns = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        while turns < MIN_TURNS or time.perf_counter() < deadline:
            if min(len(timing.seconds) for timing in timings) >= options.runs:
                break
            for session, timing in zip(sessions, timings, strict=True):
                take_turn(session, feeds, timing, options)
            turns += 1
    finally:
        if collecting:
            gc.enable()


def take_turn(session: Session, feeds: Feeds, timing: Timing, options: Options) -> None:
    """Run untimed for `SETTLE_SECONDS`, then timed for the length of a turn; each at least once.

    A turn has at most a `MIN_TURNS`-th of the wanted runs, however short they are.
    """
    clock = time.perf_counter
    limit = min(options.runs, len(timing.seconds) + -(-options.runs // MIN_TURNS))
    if options.threads > 1:
        time.sleep(PAUSE_SECONDS)
    if options.turn > 0:
        settled = clock() + SETTLE_SECONDS
        session.run(None, feeds)
        while clock() < settled:
            session.run(None, feeds)
    end = clock() + options.turn
    while True:
        start = clock()
        session.run(None, feeds)
        stop = clock()
        timing.seconds.append(stop - start)
        if stop >= end or len(timing.seconds) >= limit:
            return


def compare_outputs(a: Session, b: Session, samples: Iterable[Feeds]) -> tuple[float, float]:
    """Return the largest absolute difference of outputs, and the share of equal arg-maxima.

    Arg-maxima are taken over the channels (axis 1) of images, otherwise over the last axis.
    """
    worst, same, total = 0.0, 0, 0
    for feeds in samples:
        for x, y in zip(a.run(None, feeds), b.run(None, feeds), strict=True):
            if x.shape != y.shape or x.dtype != y.dtype:
                raise ValueError(
                    f"outputs must be of one kind, got {x.dtype}{x.shape} and {y.dtype}{y.shape}"
                )
            if x.size == 0 or x.dtype.kind not in "fiub":
                continue
            wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
            with np.errstate(invalid="ignore"):
                difference = np.where(wide_x == wide_y, 0.0, np.abs(wide_x - wide_y))
            difference[np.isnan(wide_x) & np.isnan(wide_y)] = 0.0
            worst = float(np.maximum(worst, difference.max()))  # a NaN on one side stays a NaN
            if x.ndim:
                axis = 1 if x.ndim == 4 else -1
                equal = x.argmax(axis) == y.argmax(axis)
                same, total = same + int(np.sum(equal)), total + equal.size
    return worst, same / total if total else 1.0


def input_samples(model: Model, inputs: Sequence[InputInfo], options: Options) -> Iterable[Feeds]:
    """Yield inputs for `model`: the stored one if there is one, else `SAMPLES` random ones."""
    stored = model.with_suffix(".npz") if isinstance(model, Path) else None
    if stored is not None and stored.exists():
        with np.load(stored) as arrays:
            yield {info.name: arrays[f"in:{info.name}"] for info in inputs}
        return
    rng = np.random.default_rng(options.seed)
    for _ in range(SAMPLES):
        yield {info.name: random_input(info, options.dims, rng) for info in inputs}


def random_input(info: InputInfo, dims: dict[str, int], rng: np.random.Generator) -> NDArray[Any]:
    """Draw one input: standard normal floats, the full range of 8-bit integers, else 0 or 1.

    0 and 1 suit what wide integers are fed for: masks, token types, token ids of any vocabulary.
    Symbolic dimensions are 1 unless `dims` has their name.
    """
    shape = tuple(d if isinstance(d, int) else dims.get(d or "", 1) for d in info.shape)
    element = info.type.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype(ELEMENT_TYPES.get(element, element))
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return rng.integers(0, 2, shape).astype(dtype)


def load_model(name: str) -> tuple[str, Model]:
    """Return label and model of a path or a zoo name."""
    if name in zoo.ZOO:
        return name, zoo.build(name)
    path = Path(name)
    if not path.is_file():
        raise SystemExit(f"{name} is neither a file nor one of the zoo: {', '.join(zoo.ZOO)}")
    return path.stem, path


def format_table(results: Sequence[Result], *, markdown: bool) -> str:
    """Lay `results` of the same engines out as text columns or a Markdown table."""
    engines = results[0].engines
    header = ["model"]
    header += [f"{engine} {what} ms" for engine in engines for what in ("median", "min")]
    header += ["GMAC/s"] if len(engines) == 1 else [f"{'/'.join(engines)}", "max diff", "arg-max"]
    rows = [header] + [_cells(result) for result in results]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        for row in rows
    ]
    if not markdown:
        return "\n".join("  ".join(line) for line in lines)
    rule = ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def main(argv: Sequence[str] | None = None) -> int:
    """Compare the named models; 1 if one of them failed."""
    args = _parser().parse_args(argv)
    engines = args.engines.split(",")
    if not 1 <= len(engines) <= 2 or not set(engines) <= set(ENGINES):
        raise SystemExit(f"--engines must be one or two of {', '.join(ENGINES)}: {args.engines}")
    options = Options(
        threads=args.threads,
        features=args.features,
        runs=args.runs,
        seconds=args.seconds,
        turn=args.turn / 1e3,
        dims=dict(args.dim),
        seed=args.seed,
    )
    names = list(zoo.ZOO) if args.models == ["all"] else args.models
    results, failures = [], []
    for name in names:
        label, model = load_model(name)
        try:
            results.append(compare(label, model, engines, options))
        except Exception as error:  # an engine may fail in any way; the other models still count
            failures.append({"model": label, "error": f"{type(error).__name__}: {error}"})
    if args.json:
        measured = [asdict(result) for result in results]
        report = {"environment": environment(engines, options), "results": measured}
        print(json.dumps(report | {"failures": failures}, indent=1))
    elif results:
        print(format_table(results, markdown=args.markdown))
    for failure in failures:
        print(f"{failure['model']}: {failure['error']}", file=sys.stderr)
    return 1 if failures else 0


def environment(engines: Sequence[str], options: Options) -> dict[str, Any]:
    """Describe machine, versions and options, for the record."""
    modules = {"ort": "onnxruntime", "qrt": "qrt"}
    versions = {
        engine: getattr(importlib.import_module(modules[engine]), "__version__", "?")
        for engine in engines
    }
    return {"cpu": _cpu_name(), "python": platform.python_version(), **versions, **asdict(options)}


def _cells(result: Result) -> list[str]:
    times = zip(result.median_ms, result.min_ms, strict=True)
    cells = [result.model] + [f"{value:.4g}" for pair in times for value in pair]
    if result.ratio is None:
        rate = f"{result.macs / result.median_ms[0] / 1e6:.1f}" if result.macs else "-"
        return [*cells, rate]
    return [
        *cells,
        f"{result.ratio:.2f}",
        f"{result.max_abs_diff:.3g}",
        f"{result.argmax_agreement:.1%}",
    ]


def _import(name: str, advice: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise SystemExit(f"compare needs {name}, which is not installed: {advice}") from None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _dim(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not name or not value.isdigit():
        raise argparse.ArgumentTypeError(f"must be NAME=SIZE, got {text!r}")
    return name, int(value)


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="paths, zoo names, or all (of the zoo)")
    parser.add_argument("--engines", default="ort,qrt", help="one or two of: " + ", ".join(ENGINES))
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--features", help="CPU features qrt may use (default: all there are)")
    parser.add_argument("--runs", type=int, default=default.runs, help="timed runs, at most")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="budget per model")
    parser.add_argument("--turn", type=float, default=default.turn * 1e3, metavar="MS")
    parser.add_argument("--dim", type=_dim, action="append", default=[], metavar="NAME=SIZE")
    parser.add_argument("--seed", type=int, default=default.seed)
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--json", action="store_true")
    style.add_argument("--markdown", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
