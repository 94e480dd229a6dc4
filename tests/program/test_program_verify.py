"""Verification refuses what would leave the arena, and what it lets pass does no harm."""

from __future__ import annotations

import os
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


def test_what_a_row_writes_overlaps_nothing_else_of_it() -> None:
    program = replace(program_of(rotating_chain(3, 16)), arena_nbytes=1000)
    place = program.fields(1)["x"]
    for shift in (0, 4, 60):
        with pytest.raises(ProgramError, match=r"^row 1: .* overlap$"):
            verify(with_slot(program, 1, FIRST + 2, place + shift))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="every trial runs in a forked child")
@pytest.mark.parametrize("what", ["chain", "fail", "qrt/data/digits_int8.onnx"])
def test_random_corruption_is_refused_or_harmless(what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.program.corrupt_program", what, "0", "150"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    ran, refused = (int(word) for word in done.stdout.split()[-7::2][:2])
    assert ran > 10 and refused > 10, done.stdout
