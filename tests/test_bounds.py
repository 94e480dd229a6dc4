"""`QRT_BOUNDS=check`: a kernel that leaves its operands is refused by name, in its own memory.

And a part of the suite runs once with it: kernels of all families, whole random graphs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bounds_kernels import copy_kernel, fill_kernel, masked_kernel, read_kernel, vector_kernel

from qrt import knobs
from qrt.errors import KernelError
from qrt.ir import Graph, Node, Value
from qrt.jit.declare import Kernel
from qrt.ops.spec import Lowering, OpSpec
from qrt.program.builder import build_program
from qrt.simd.features import active_features
from qrt.vm.executor import Executor

U8 = np.dtype(np.uint8)
NBYTES = 256

# kernel, bytes `by`, what its message says of an access that is refused; "" when none is
CASES = [
    (copy_kernel, 0, ""),
    (copy_kernel, 1, "writes"),
    (copy_kernel, -1, ""),
    (fill_kernel, 0, ""),
    (fill_kernel, 1, "writes"),
    (vector_kernel, NBYTES - 64, ""),
    (vector_kernel, NBYTES - 63, "writes 64 bytes"),
    (vector_kernel, -1, "writes 64 bytes"),
    (read_kernel, -1, ""),
    (read_kernel, 63, ""),  # kernels may read 64 bytes behind an operand
    (read_kernel, 64, "reads 1 bytes"),
    (read_kernel, -NBYTES - 1, "reads 1 bytes"),
    (masked_kernel, 0, ""),
    (masked_kernel, 4, "writes"),
]


@dataclass
class Wrong:
    """An operator `Wrong` that is `kernel`, then one that copies what it made."""

    kernel: Kernel
    by: int

    def lower(self, node: Node, program: Lowering) -> None:
        """A row of the kernel; the second node is an honest copy."""
        x, y = node.required(0), node.outputs[0]
        wrong = node.op == "Wrong"
        program.emit(
            self.kernel if wrong else copy_kernel,
            x=program.operand(x),
            y=program.operand(y),
            n=NBYTES,
            by=self.by if wrong else 0,
        )

    def executor(self, features: str) -> Executor:
        """x -> Wrong -> Copy -> y."""
        x, middle, y = (Value(name, U8, (NBYTES,)) for name in ("x", "middle", "y"))
        nodes = [Node("Wrong", [x], [middle], {}, "test"), Node("Good", [middle], [y], {}, "test")]
        spec = OpSpec("Wrong", "test", lambda node: [((NBYTES,), U8)], None, self.lower)
        ops = {("test", "Wrong"): spec, ("test", "Good"): spec}
        active = active_features(features)
        return Executor(build_program(Graph(nodes, [x], [y]), active, ops=ops), active)


def _run(kernel: Kernel, by: int, features: str) -> None:
    """One run on an arena full of positive float32; raises KernelError when a row fails."""
    executor = Wrong(kernel, by).executor(features)
    call, _ = executor.take([np.full(NBYTES, 63, np.uint8)])
    call.arena[:] = 63
    failure = call.enter()
    if failure:
        executor.fail(failure)


@pytest.mark.parametrize("features", ["portable", ""], ids=["portable", "native"])
def test_what_leaves_its_operands_is_refused(
    features: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(knobs.BOUNDS.name, "check")
    wrong = []
    for kernel, by, words in CASES:
        try:
            _run(kernel, by, features)
            said = ""
        except KernelError as error:
            said = str(error)
        if bool(said) != bool(words) or words not in said:
            wrong.append(f"{kernel.name} by {by}: {said!r} instead of {words!r}")
        elif words and not (f"kernel {kernel.name} (row 0)" in said and "Wrong" in said):
            wrong.append(f"{said!r} does not name kernel, row and node")
    assert not wrong, f"{len(wrong)} of {len(CASES)} cases; " + "; ".join(wrong[:3])


def test_without_checks_nobody_notices() -> None:
    """The same rows: the arena's padding takes what the wrong kernels write."""
    for kernel, by in ((copy_kernel, 1), (fill_kernel, 1), (read_kernel, 64)):
        _run(kernel, by, "")


def test_what_is_refused_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(knobs.BOUNDS.name, "check")
    executor = Wrong(copy_kernel, 32).executor("")
    call, _ = executor.take([np.full(NBYTES, 63, np.uint8)])
    (start,) = (executor.program.fields(0)["y"],)
    call.arena[start + NBYTES : start + NBYTES + 32] = 99
    assert call.enter() != 0
    assert (call.arena[start + NBYTES : start + NBYTES + 32] == 99).all()


CHECKED = (
    "tests/test_ops_binary.py",
    "tests/test_ops_compare.py",
    "tests/test_ops_dynamic_quantize.py",
    "tests/test_ops_float_products.py",
    "tests/test_ops_lookup.py",
    "tests/test_ops_movement.py",
    "tests/test_ops_pools.py",
    "tests/test_ops_resize.py",
    "tests/test_ops_softmax.py",
    "tests/test_depthwise_tiles.py",
    "tests/test_random_graphs.py::test_random_graphs_equal_the_contract[native-qdq]",
)


def test_the_suite_stays_inside_its_operands() -> None:
    """On all features of this CPU, one thread and two; a failure is a kernel's or its extents'."""
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {knobs.BOUNDS.name: "check", "QRT_TEST_LEVELS": "native"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist",
         *CHECKED],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
