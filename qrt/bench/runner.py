"""Time a case: qrt, the machine's limits and the rival in turn, in one run."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from qrt.api.progress import ProgressLine
from qrt.api.recipe import ModelRecipe
from qrt.bench import machine
from qrt.bench.cases import Case
from qrt.bench.draft import constants_nbytes, empty, random_inputs
from qrt.bench.rival import Rival, prepare_rival
from qrt.gemm.limits import DOT_LIMITS, FLOAT_LIMITS, DotLimit
from qrt.jit.declare import KERNELS
from qrt.loader import load_graph
from qrt.program import build_program
from qrt.program.program import Program
from qrt.vm.executor import Executor

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]

ROUNDS = 5  # turns of the limits, qrt and the rival
LIMIT_RUNS = 2  # loops of 2 ms per limit and turn
WARM_UP_SECONDS = 0.001  # of a turn, untimed: brings one's own data back into the caches
CALL_SECONDS = 0.01  # of empty calls, and to choose between two forms of the rival
# between turns of several threads: onnxruntime's idle ones were seen to spin for 40 ms after a run
PAUSE_SECONDS = 0.06
# a machine that does something else: median over best, and time on a CPU over time of the clock
# of calls that are longer than this, since most others end before a scheduler stops them
DISTURBED, RUNNING, LONG_SECONDS = 1.25, 0.9, 1e-3
MIN_CALLS, MAX_CALLS = 3, 1000  # per turn


@dataclass(frozen=True)
class Limit:
    """What bounds a case: its name, and the rate of this moment in the case's unit."""

    name: str
    rate: Callable[[], float]
    on_registers: bool = False


@dataclass(frozen=True)
class Measured:
    """A case's result. Times in microseconds; rates in `unit`, by medians over all turns."""

    case: Case
    kernels: tuple[str, ...]
    threads: int
    median_us: float
    min_us: float
    rate: float
    limit: str | None
    limit_rate: float | None
    loops: Mapping[str, float]  # rates of the limits on registers, whether or not they are lowest
    intensity: float  # multiply-adds per byte of operands and weights
    footprint: int  # bytes of operands, for a product of weights too
    rival_us: float | None
    is_disturbed: bool  # the machine did something else meanwhile: the numbers say little

    @property
    def unit(self) -> str:
        """GMAC/s, GFLOP/s or GB/s."""
        return self.case.family.unit

    @property
    def share(self) -> float | None:
        """Part of the limit that was reached; 1 is all of it."""
        return None if self.limit_rate is None else self.rate / self.limit_rate

    @property
    def ratio(self) -> float | None:
        """How many times longer the rival takes."""
        return None if self.rival_us is None else self.rival_us / self.median_us


@dataclass
class Prepared:
    """A case, compiled, bound and fed: `enter` is one native call of qrt.

    Memory of an input may serve a later row as scratch: only the first call, which `prepare` makes,
    computes with the inputs; others do the same work on what is there.
    """

    case: Case
    features: frozenset[str]
    executor: Executor
    call: Any
    home: Any
    operand_nbytes: int
    weight_nbytes: int
    rival: Rival | None = None

    @property
    def enter(self) -> Callable[[], int]:
        """Run once; 0 is success."""
        call: Callable[[], int] = self.call.enter
        return call

    @property
    def threads(self) -> int:
        """Threads that walk the rows: fewer than asked for where the case is small."""
        return self.executor.threads

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names, in the order of their first row."""
        return tuple(self.executor.program.kernels)

    @cached_property
    def limits(self) -> list[Limit]:
        """What may bound the case, of which the lowest counts; none where nothing is known."""
        found = []
        for kind in self.case.family.limits:
            limit = LIMITS[kind](self)
            if limit is not None:
                found.append(limit)
        return found

    def rate(self, seconds: float) -> float:
        """The family's unit, for a call that took `seconds`."""
        unit = self.case.family.unit
        work = {"GMAC/s": self.case.macs, "GFLOP/s": 2 * self.case.macs, "GB/s": self.footprint}
        return work[unit] / seconds / 1e9

    @property
    def footprint(self) -> int:
        """Bytes that a run must read and write at least."""
        return self.operand_nbytes + (self.weight_nbytes if self.case.macs else 0)

    @property
    def intensity(self) -> float:
        """Multiply-adds per byte of the footprint."""
        return self.case.macs / self.footprint


def program_of(model: onnx.ModelProto, features: frozenset[str], threads: int = 1) -> Program:
    """The rows that qrt makes of a case's model; nothing is compiled."""
    recipe = ModelRecipe(load_graph(model), features)
    shapes = {v.name: v.static_shape for v in recipe.graph.inputs}
    return build_program(recipe.specialize(shapes, {}), features, threads)


def bound_call(executor: Executor, inputs: Mapping[str, Array]) -> tuple[Any, Any]:
    """A call of `executor` with `inputs` in place, run once, and the list that owns it."""
    call, home = executor.take([inputs[name] for name, _, _ in executor.expected])
    failure = call.enter()
    if failure:
        executor.fail(failure)
    return call, home


def prepare(
    case: Case, features: frozenset[str], threads: int = 1, *, rival: bool = False
) -> Prepared:
    """Lower, compile and feed one case; with `rival`, onnxruntime on the same too."""
    model = case.model()
    program = program_of(model, features, threads)
    executor = Executor(program, features, threads=threads, progress=ProgressLine())
    call, home = bound_call(executor, random_inputs(model))
    operands = sum(view.nbytes for view in (*call.inputs, *call.outputs))
    prepared = Prepared(case, features, executor, call, home, operands, constants_nbytes(model))
    if rival:
        prepared.rival = fastest_rival(case, model, threads)
    return prepared


def fastest_rival(case: Case, model: onnx.ModelProto, threads: int) -> Rival | None:
    """onnxruntime on the case's model, or on the same with the channels first if that is faster."""
    models = [model, case.model(channels_last=False)] if case.family.of_images else [model]
    rivals = [prepare_rival(m, random_inputs(m), threads) for m in models]
    found = [rival for rival in rivals if rival is not None]
    if len(found) < 2:
        return found[0] if found else None
    return min(found, key=lambda rival: median(time_turn(rival.enter, CALL_SECONDS)))


def call_seconds(features: frozenset[str], *, with_rival: bool) -> tuple[float, float | None]:
    """What a call costs before any work is done: qrt's, and the rival's where there is one."""
    model = empty()
    inputs = random_inputs(model)
    executor = Executor(program_of(model, features), features, progress=ProgressLine())
    call, _ = bound_call(executor, inputs)
    ours = median(time_turn(call.enter, CALL_SECONDS))
    rival = prepare_rival(model, inputs, 1) if with_rival else None
    return ours, None if rival is None else median(time_turn(rival.enter, CALL_SECONDS))


def measure(prepared: Prepared, seconds: float) -> Measured:
    """Time calls for about `seconds`, in turns of the limits, qrt and the rival."""
    sides = [prepared.enter] + ([prepared.rival.enter] if prepared.rival is not None else [])
    times: list[list[float]] = [[] for _ in sides]
    rates: dict[str, list[float]] = {limit.name: [] for limit in prepared.limits}
    pause = PAUSE_SECONDS if prepared.threads > 1 and len(sides) > 1 else 0.0
    running = elapsed = 0.0  # seconds of this thread on a CPU, and of the clock, in all turns
    for _ in range(ROUNDS):
        time.sleep(pause)
        for limit in prepared.limits:
            rates[limit.name].append(limit.rate())
        for enter, taken in zip(sides, times, strict=True):
            time.sleep(pause)
            running, elapsed = running - time.thread_time(), elapsed - time.perf_counter()
            taken += time_turn(enter, seconds / ROUNDS / len(sides))
            running, elapsed = running + time.thread_time(), elapsed + time.perf_counter()
    middles = [median(taken) for taken in times]
    limits = {name: median(found) for name, found in rates.items()}
    lowest = min(limits, key=lambda name: limits[name], default=None)
    # threads sleep at barriers, which is no disturbance
    stopped = running < RUNNING * elapsed and middles[0] > LONG_SECONDS and prepared.threads == 1
    uneven = middles[0] > DISTURBED * min(times[0]) or (
        lowest is not None and max(rates[lowest]) > DISTURBED * limits[lowest]
    )
    return Measured(
        prepared.case,
        prepared.kernels,
        prepared.threads,
        middles[0] * 1e6,
        min(times[0]) * 1e6,
        prepared.rate(middles[0]),
        lowest,
        None if lowest is None else limits[lowest],
        {limit.name: limits[limit.name] for limit in prepared.limits if limit.on_registers},
        prepared.intensity,
        prepared.footprint,
        middles[1] * 1e6 if len(middles) > 1 else None,
        stopped or uneven,
    )


def time_turn(enter: Callable[[], Any], seconds: float) -> list[float]:
    """Seconds of each of the calls that fill about `seconds`, after some untimed ones."""
    clock = time.perf_counter_ns
    warm = clock() + int(WARM_UP_SECONDS * 1e9)
    enter()
    while clock() < warm:
        enter()
    taken: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = clock() + int(seconds * 1e9)
        while len(taken) < MAX_CALLS:
            start = clock()
            enter()
            stop = clock()
            taken.append((stop - start) / 1e9)
            if stop >= deadline and len(taken) >= MIN_CALLS:
                break
    finally:
        if collecting:
            gc.enable()
    return taken


def dot_limit_of(kernels: Sequence[str]) -> DotLimit:
    """The dot loop of the instructions that `kernels` use.

    That is the one of the family that a kernel is named after,
    else the newest whose features they need.
    """
    words = {word for name in kernels for word in name.split("_")}
    needed = frozenset().union(*(KERNELS[name].features for name in kernels))
    named = [limit for limit in (*DOT_LIMITS, *FLOAT_LIMITS) if limit.family in words]
    return named[0] if named else machine.dot_limit(needed)


def _dots(prepared: Prepared) -> Limit | None:
    return _loop(prepared, dot_limit_of(prepared.kernels), 1)


def _fma(prepared: Prepared) -> Limit | None:
    """The fused multiply-add of the newest family, or its emulation; two operations each."""
    usable = [limit for limit in FLOAT_LIMITS if prepared.features.issuperset(limit.features)]
    return _loop(prepared, usable[0], 2) if usable else None


def _loop(prepared: Prepared, limit: DotLimit, per_mac: int) -> Limit:
    features, threads = prepared.features, prepared.threads

    def rate() -> float:
        found = machine.dot_rate(features, limit.family, threads=threads, runs=LIMIT_RUNS)
        return per_mac * found

    return Limit(limit.family if limit.is_float else f"{limit.family} dots", rate, True)


def _read(prepared: Prepared) -> Limit | None:
    """The time that reading the weights takes at least."""
    return _stream(prepared, prepared.weight_nbytes, copies=False)


def _copy(prepared: Prepared) -> Limit | None:
    """The time that moving as many bytes as are read and written takes, and reading the inputs
    before where nothing can be written until all of them are known."""
    copied = _stream(prepared, prepared.footprint, copies=True)
    rereads = prepared.case.family.rereads.get(prepared.case.variant, 0)
    nbytes = rereads * sum(view.nbytes for view in prepared.call.inputs)
    read = _stream(prepared, nbytes, copies=False)
    if copied is None or read is None:
        return copied
    rates = copied.rate, read.rate
    return Limit("read + copy", lambda: 1 / sum(1 / rate() for rate in rates))


def _stream(prepared: Prepared, nbytes: int, *, copies: bool) -> Limit | None:
    if not nbytes:
        return None
    features, threads = prepared.features, prepared.threads
    span = nbytes // 2 if copies else nbytes

    def rate() -> float:
        found = machine.stream_rate(features, span, copies=copies, threads=threads, runs=LIMIT_RUNS)
        return prepared.rate(nbytes / found / 1e9)

    return Limit("copy" if copies else "read", rate)


LIMITS: dict[str, Callable[[Prepared], Limit | None]] = {
    "dots": _dots,
    "fma": _fma,
    "read": _read,
    "copy": _copy,
}
