"""If as rows of a program: both branches native, the condition read while the program runs.

The oracle is onnx.reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import qrt
from qrt.errors import KernelError, ProgramError
from qrt.jit.declare import HEADER
from qrt.program import Program, build_program, load_program, save_program, verify
from qrt.program.program import BARRIER
from qrt.simd.features import active_features
from qrt.vm import Executor
from tests.passes_reference import machine_graph
from tests.passes_reference import run as run_references
from tests.test_stages import parsed, same


def nested(inner: str = "CumSum(b, one)") -> onnx.ModelProto:
    """An If in an If; a branch gives a constant's sum, a value of the graph around, its input, and
    what Python runs (CumSum)."""
    return parsed(f"""g (float[N,4] x, bool[1] c, bool d) => (float[N,4] y, float[N,4] z)
        <float[4] w = {{1, 2, 3, 4}}, int64 one = {{1}}> {{
        r = Relu(x)
        p, q = If (c) <
            then_branch = t () => (float[N,4] pt, float[N,4] qt) {{
                a = Add(r, w)
                pt = If (d) <
                    then_branch = f () => (float[N,4] pf) {{ pf = Mul(a, x) }},
                    else_branch = h () => (float[N,4] ph) {{ b = Sub(a, x)  ph = {inner} }}
                >
                qt = Identity(r)
            }},
            else_branch = e () => (float[N,4] pe, float[N,4] qe) {{
                s = Transpose(x)
                pe = Transpose(s)
                qe = Softmax(r)
            }}
        >
        y = Add(p, x)
        z = Add(q, p)
    }}""")


def cases(rows: int = 3) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(7)
    for c in (True, False, True):
        for d in (False, True):
            x = rng.normal(size=(rows, 4)).astype(np.float32)
            yield {"x": x, "c": np.array([c]), "d": np.array(d)}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [3, 5000])
def test_branches_are_rows(rows: int, threads: int) -> None:
    model = nested()
    session = qrt.load(model, threads=threads)
    oracle = ReferenceEvaluator(model)
    for inputs in cases(rows):
        for want, got in zip(oracle.run(None, inputs), session.run(None, inputs), strict=True):
            same(want, got)
    explained = session.explain()
    assert not any(row.stage for row in explained)
    notes = {row.operator: row.note for row in explained}
    assert "in then_branch of If" in notes["Mul"] and "in else_branch of If" in notes["Softmax"]
    times = {row.operator: row.median_ns for row in session.profile(inputs, 3)}
    assert times["Softmax"] == 0, "the branch that the last inputs do not choose takes no time"


def test_the_references_of_branches_agree() -> None:
    model = nested("Abs(b)")
    oracle = ReferenceEvaluator(model)
    for inputs in cases():
        got = run_references(machine_graph(model, inputs), inputs)
        for want, name in zip(oracle.run(None, inputs), ("y", "z"), strict=True):
            same(want, got[name])


def broken(branch: str, other: str = "yt = Relu(x)") -> onnx.ModelProto:
    return parsed(f"""g (float[N,4] x, bool c) => (y)
        <int64[1] three = {{3}}, float[2] k = {{1, 2}}> {{
        y = If (c) <
            then_branch = t () => (yt) {{ {other} }},
            else_branch = e () => (ye) {{ {branch} }}
        >
    }}""")


@pytest.mark.parametrize(
    "branch, ends",
    [
        ("ye = Reshape(x, three)", KernelError),  # no tensor of 3 elements
        ("ye = Identity(k)", None),  # another shape
        ("ye = Cast <to = 7> (x)", None),  # another type
        ("n = NonZero(x)  ye = Cast <to = 1> (n)", None),  # only a run can tell
    ],
)
def test_what_does_not_fit_runs_by_itself(branch: str, ends: type[Exception] | None) -> None:
    """A branch that is never chosen does no harm."""
    session = qrt.load(broken(branch))
    x = np.array([[1, -2, 0, 3]], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x, "c": np.array(True)})[0], x.clip(0))
    assert any(row.operator == "If" and row.kernels == ("stages",) for row in session.explain())
    other = {"x": x, "c": np.array(False)}
    if ends is None:
        same(ReferenceEvaluator(broken(branch)).run(None, other)[0], session.run(None, other)[0])
    else:
        with pytest.raises(qrt.QrtError, match="Reshape"):
            session.run(None, other)


def program() -> Program:
    graph = machine_graph(nested("Abs(b)"), next(cases()))
    return build_program(graph, active_features())


def test_programs_with_branches_are_files(tmp_path: Path) -> None:
    path = tmp_path / "p.qrt"
    made = program()
    save_program(made, path)
    executors = [Executor(p, active_features()) for p in (made, load_program(path))]
    for inputs in cases():
        for one, other in zip(*(e.run(list(inputs.values())) for e in executors), strict=True):
            np.testing.assert_array_equal(one, other)


def test_jumps_go_forward_to_a_barrier() -> None:
    made = program()
    jumps = [i for i in range(len(made.rows)) if made.kernel(i).family == "jumps"]
    assert len(jumps) == 4
    for i in jumps:
        slot = len(HEADER) + made.kernel(i).fields.index("target")
        target = int(made.rows[i, slot])
        for wrong in (-1, 0, i, len(made.rows) + 1, 1 << 40):
            rows = made.rows.copy()
            rows[i, slot] = wrong
            with pytest.raises(ProgramError, match=f"row {i}: jumps to row {wrong}, expected"):
                verify(replace(made, rows=rows))
        rows = made.rows.copy()
        rows[target, BARRIER] = 0
        with pytest.raises(ProgramError, match=f"row {target}: "):
            verify(replace(made, rows=rows))
