"""Corrupt rows of a program at random; run what verification lets pass, with guards around it.

    python -m tests.program.corrupt_program chain|fail|MODEL.onnx SEED TRIALS

Prints one line for every corruption that was neither refused nor harmless, then the counts.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

import qrt
from qrt.errors import KernelError, ProgramError
from qrt.jit.declare import HEADER
from qrt.program import Program, build_program, verify
from qrt.simd.features import active_features
from qrt.vm import Executor, call
from tests.machine.graphs import OPS, failing_graph, rotating_chain

GUARD = 1 << 20  # bytes before and after every arena
FILL = 0xA5
SECONDS = 20  # a run that takes longer counts as endless

_guarded: list[tuple[np.ndarray[Any, Any], int, int]] = []


def main(what: str, seed: int, trials: int) -> int:
    """The number of corruptions that did harm."""
    program = load(what)
    call.aligned_bytes = with_guards
    rng = np.random.default_rng(seed)
    ran = refused = harmful = 0
    for _ in range(trials):
        broken, label = corrupted(program, rng)
        try:
            verify(broken)
        except ProgramError:
            refused += 1
            continue
        ran += 1
        status = run_in_child(broken)
        if status:
            harmful += 1
            print(f"harm (status {status}): {label}", flush=True)
    print(f"{ran} ran, {refused} refused, {harmful} did harm")
    return harmful


def load(what: str) -> Program:
    """The program to corrupt."""
    if what in ("chain", "fail"):
        graph = rotating_chain(3, 50) if what == "chain" else failing_graph(0, 0, n=40)
        return build_program(graph, active_features(), ops=OPS)
    session = qrt.load(what)
    session.explain()
    return next(iter(session._programs._executors.values())).program


def corrupted(program: Program, rng: np.random.Generator) -> tuple[Program, str]:
    """The program with one or two slots of its rows changed, and what changed."""
    rows, labels = program.rows.copy(), []
    for _ in range(int(rng.integers(1, 3))):
        row = int(rng.integers(len(rows)))
        kernel = program.kernel(row)
        names = HEADER + kernel.fields
        slot = int(rng.integers(len(names)))
        old = int(rows[row, slot])
        choices = [
            old ^ (1 << int(rng.integers(63))),
            old + int(rng.integers(-8, 8)),
            old + int(rng.integers(-300, 300)),
            int(rng.integers(-300, 300)),
            old * 2,
            old // 2,
            ~old,
            0,
            -1 << 63,
            (1 << 63) - 1,
            int(rng.integers(1 << 40)),
        ]
        new = max(-1 << 63, min((1 << 63) - 1, choices[int(rng.integers(len(choices)))]))
        rows[row, slot] = new
        labels.append(f"row {row} {kernel.name} {names[slot]} {old} -> {new}")
    return replace(program, rows=rows), "; ".join(labels)


def with_guards(nbytes: int) -> np.ndarray[Any, Any]:
    """Arena bytes with guards on both sides."""
    raw = np.full(nbytes + 2 * GUARD + 64, FILL, np.uint8)
    start = GUARD + -(raw.ctypes.data + GUARD) % 64
    _guarded.append((raw, start, start + nbytes))
    return raw[start : start + nbytes]


def run_in_child(program: Program) -> int:
    """Exit status of a process that runs `program`: 0 when nothing outside was written."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    signal.alarm(SECONDS)
    before = program.constants.buffer.copy()
    executor = Executor(program, active_features())
    with suppress(KernelError):  # an answer like any other
        executor.run([np.ones(b.shape, b.dtype) for b in program.inputs])
    unharmed = bool((program.constants.buffer == before).all())
    for raw, start, stop in _guarded:
        unharmed &= bool((raw[:start] == FILL).all() and (raw[stop:] == FILL).all())
    os._exit(0 if unharmed else 1)


if __name__ == "__main__":
    sys.exit(min(100, main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
