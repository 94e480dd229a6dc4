"""Verification refuses what would leave the arena, and what it lets pass does no harm."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qrt.errors import ProgramError
from qrt.ir import Graph
from qrt.jit.declare import HEADER
from qrt.program import Program, build_program, disassemble, verify
from qrt.program.program import BARRIER, KERNEL, NODE
from tests.machine.graphs import OPS, constant, node, rotating_chain, tensor

FIRST = len(HEADER)  # slot of field x


def program_of(graph: Graph) -> Program:
    return build_program(graph, frozenset(), ops=OPS)


def with_slot(program: Program, row: int, slot: int, value: int) -> Program:
    rows = program.rows.copy()
    rows[row, slot] = value
    return replace(program, rows=rows)


@pytest.mark.parametrize(
    "slot, value, message",
    [
        (KERNEL, 1, "kernel index 1, expected 0 to 0"),
        (KERNEL, -1, "kernel index -1"),
        (NODE, 3, "node index 3, expected 0 to 2"),
        (NODE, -1, "node index -1"),
        (BARRIER, 2, "barrier flag 2"),
        (BARRIER, 0, "has no barrier"),
        (FIRST, 10**9, "of the arena by x"),
        (FIRST, -(10**9), "of the constants by x"),
        (FIRST + 2, -1, "writes out, which is a constant"),
        (FIRST + 3, -1, "has -4 bytes"),
        (FIRST + 3, 1 << 62, "of the arena by x"),
    ],
)
def test_each_rule_is_checked(slot: int, value: int, message: str) -> None:
    program = program_of(rotating_chain(3, 16))
    verify(program)
    with pytest.raises(ProgramError, match=f"^row 1: .*{message}"):
        verify(with_slot(program, 1, slot, value))


def test_constants_end_where_they_end() -> None:
    program = program_of(rotating_chain(1, 16))
    place = program.fields(0)["y"]
    with pytest.raises(ProgramError, match="of the constants by y"):
        verify(with_slot(program, 0, FIRST + 1, place - 4))


def test_the_interpreter_is_no_row() -> None:
    import qrt.vm  # noqa: F401 (declares it)

    program = program_of(rotating_chain(1, 16))
    for name in ("vm_run", "vm_serve"):
        rows = program.rows.copy()
        rows[:, FIRST:] = 0
        with pytest.raises(ProgramError, match="no row"):
            verify(replace(program, kernels=(name,), rows=rows))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: replace(p, kernels=("nonsense",)), "'nonsense' is unknown"),
        (lambda p: replace(p, arena_nbytes=-1), "an arena of -1 bytes"),
        (lambda p: replace(p, threads=0), "0 threads"),
        (lambda p: replace(p, arena_nbytes=64), "there are 64"),
        (lambda p: replace(p, inputs=(replace(p.inputs[0], offset=-1),)), "lies in the constants"),
        (lambda p: replace(p, inputs=(replace(p.inputs[0], shape=(1 << 40,)),)), "does not fit"),
        (lambda p: replace(p, inputs=(replace(p.inputs[0], shape=(-4,)),)), "does not fit"),
        (lambda p: replace(p, outputs=(replace(p.outputs[0], offset=~(1 << 40)),)), "not fit"),
        (lambda p: replace(p, outputs=(replace(p.outputs[0], layout=(1,)),)), "no order of 1 axes"),
    ],
)
def test_rules_of_the_whole(change: Callable[[Program], Program], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        verify(change(program_of(rotating_chain(2, 16))))


def test_slots_behind_the_fields_are_zero() -> None:
    x, trigger = tensor("x", (8,)), tensor("t", (1,), np.int64)
    out, armed = tensor("out", (8,)), tensor("armed", (1,), np.int64)
    nodes = [node("Add", [x, x], out), node("Fail", [trigger], armed, status=0, thread=0)]
    program = program_of(Graph(nodes, [x, trigger], [out, armed]))
    verify(program)
    with pytest.raises(ProgramError, match="slots"):
        verify(with_slot(program, 1, program.rows.shape[1] - 1, 5))


def test_disassembly_names_rooms_kernels_and_nodes() -> None:
    x, out = tensor("x", (2, 5)), tensor("out", (2, 5))
    graph = Graph([node("Add", [x, constant("c", np.ones(10, np.float32))], out, 4)], [x], [out])
    text = disassemble(program_of(graph))
    assert "1 rows, 1 kernels" in text
    assert "in   x: float32 2x5 at a+" in text
    assert "test_add  x=a+" in text and "y=c+0" in text and "n=10" in text
    assert "; Add 'make_out' (#4)" in text


CORRUPT = """
import sys
from dataclasses import replace
import numpy as np
import qrt.vm.call as call
from qrt.errors import KernelError, ProgramError
from qrt.program import build_program, verify
from qrt.simd.features import active_features
from qrt.vm import Executor
from tests.machine.graphs import OPS, failing_graph, rotating_chain

GUARD = 1 << 20
guarded = []

def with_guards(nbytes):
    raw = np.full(nbytes + 2 * GUARD + 64, 0xA5, np.uint8)
    start = GUARD + (-(raw.ctypes.data + GUARD)) % 64
    guarded.append((raw, start, start + nbytes))
    return raw[start : start + nbytes]

call.aligned_bytes = with_guards
features = active_features()
rng = np.random.default_rng(int(sys.argv[1]))
ran = refused = 0
for trial in range(150):
    graph = rotating_chain(3, 50) if trial % 2 else failing_graph(0, 0, n=40)
    program = build_program(graph, features, ops=OPS)
    rows = program.rows.copy()
    for _ in range(int(rng.integers(1, 3))):
        row, slot = rng.integers(rows.shape[0]), rng.integers(rows.shape[1])
        old = int(rows[row, slot])
        rows[row, slot] = [old ^ (1 << int(rng.integers(63))), old + int(rng.integers(-70, 70)),
                           int(rng.integers(-300, 300)), ~old, -1 << 63, (1 << 63) - 1,
                           int(rng.integers(-1 << 40, 1 << 40))][int(rng.integers(7))]
    broken = replace(program, rows=rows)
    try:
        verify(broken)
    except ProgramError:
        refused += 1
        continue
    ran += 1
    before = program.constants.buffer.copy()
    executor = Executor(broken, features)
    try:
        executor.run([np.ones(b.shape, b.dtype) for b in broken.inputs])
    except KernelError:  # an answer like any other
        pass
    assert (program.constants.buffer == before).all(), "constants were written"
    for raw, start, stop in guarded:
        assert (raw[:start] == 0xA5).all() and (raw[stop:] == 0xA5).all(), (trial, "guard bytes")
    guarded.clear()
print(ran, refused)
assert ran > 5 and refused > 20
"""


@pytest.mark.parametrize("seed", range(3))
def test_random_corruption_is_refused_or_harmless(seed: int) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", CORRUPT, str(seed)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"seed {seed}: exit {done.returncode}\n{done.stderr}"
