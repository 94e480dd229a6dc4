"""A pytest plugin: tests of kernels run here, the kernels themselves on an emulated AArch64 CPU.

`arm.py` calls pytest with it. Lowering sees the features that the emulated CPU detects. What
`kernel_harness.run_calls` gets is compiled here, run there (`arm_rows.py`), and compared by the
test with its own expectation; a kernel that needs no feature runs here too, and must give the same
bytes. Rows of tables that need features are tested on the first CPU that has them, all else on
every CPU. At the end every kernel of the CPU has run, or the session fails. (Emulated Python is
20 times slower than ours; so it only calls.)
"""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kernel_harness
import numpy as np
import pytest
from arm import CPUS, ROOT, environment, oldest_level, tested_kernels
from arm_root import command

from qrt.jit.build import build_objects
from qrt.jit.target import target_for
from qrt.simd import features as simd_features

CPU = os.environ["QRT_ARM_CPU"]
LEVEL = CPUS[CPU]

Array = np.ndarray[Any, Any]
run_here = kernel_harness.run_calls
seen: set[str] = set()
compared: set[str] = set()
built: set[tuple[str, frozenset[str]]] = set()


class EmulatedCpu:
    """A process on the emulated CPU that runs calls."""

    def __init__(self) -> None:
        root = Path(os.environ["QRT_ARM_ROOT"]).resolve()
        self.process = subprocess.Popen(
            command(root, CPU, str(ROOT / "scripts" / "arm_rows.py")),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(root), cwd=ROOT,
        )  # fmt: skip
        self.features: frozenset[str] = frozenset(self.answer())

    def answer(self) -> Any:
        """What it says next."""
        assert self.process.stdout
        return pickle.load(self.process.stdout)

    def stop(self) -> None:
        """Let it end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def run(
        self, features: frozenset[str], calls: Sequence[kernel_harness.Call],
        arena: Array, constants: Array,
    ) -> None:  # fmt: skip
        """`kernel_harness.run_calls` there."""
        assert self.process.stdin
        request = (
            features,
            [kernel.name for kernel, *_ in calls],
            [(thread, threads) for _, _, thread, threads in calls],
            [row.tobytes() for _, row, _, _ in calls],
            arena.tobytes(),
            constants.tobytes(),
        )
        pickle.dump(request, self.process.stdin)
        self.process.stdin.flush()
        answer = self.answer()
        if isinstance(answer, str):
            raise AssertionError(f"on {CPU}: {answer}")
        arena[:] = np.frombuffer(answer, np.uint8)


def run_there(
    features: frozenset[str],
    calls: Sequence[kernel_harness.Call],
    arena: Array,
    constants: Array,
    scratches: Sequence[tuple[int, int]] = (),
) -> None:
    """In place of `kernel_harness.run_calls`."""
    kernels = kernel_harness.called_kernels(calls)
    names = {kernel.name for kernel in kernels}
    fresh = {k.name: k for k in kernels if (k.name, features) not in built}
    build_objects(fresh.values(), target_for(features, "aarch64"))
    built.update((name, features) for name in fresh)
    seen.update(names)
    if any(kernel.features for kernel in kernels):
        cpu.run(features, calls, arena, constants)
        return
    expected = arena.copy()
    run_here(frozenset(), calls, expected, constants)
    cpu.run(features, calls, arena, constants)
    compared.update(names)
    differ = differing(arena, expected)
    for start, stop in scratches:
        differ[start:stop] = False
    where = np.flatnonzero(differ)
    assert not where.size, (
        f"{', '.join(sorted(names))} on {CPU}: {where.size} bytes are not those of this machine,"
        f" first at {where[0]}: {arena[where[0]]} instead of {expected[where[0]]}"
    )


def differing(got: Array, want: Array) -> Array:
    """Where bytes differ; a float32 that is NaN in both is equal, whatever its sign and payload."""
    differ = got != want
    whole = got.size // 4 * 4
    floats = (np.isnan(a[:whole].copy().view(np.float32)) for a in (got, want))
    differ[:whole] &= ~np.repeat(np.logical_and(*floats), 4)
    return differ


cpu = EmulatedCpu()
simd_features.host_arch = lambda: "aarch64"  # type: ignore[assignment]
simd_features.detected_features = lambda: cpu.features  # type: ignore[assignment]
kernel_harness.detected_features = simd_features.detected_features
kernel_harness.run_calls = run_there
kernel_harness.feature_levels = lambda: ["portable", ""]  # rows that need nothing run too


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out rows of tables that an older CPU ran, or that are not of AArch64, and sessions."""
    dropped = []
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        rows = [value.features for value in parameters if hasattr(value, "features")]
        older = any(oldest_level(features) not in (LEVEL, "portable") for features in rows)
        if older or item.get_closest_marker("session"):
            dropped.append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Every kernel of this CPU must have run."""
    cpu.stop()
    if not session.exitstatus and unseen():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what ran."""
    terminalreporter.write_line(
        f"{CPU} ({', '.join(sorted(cpu.features))}): {len(seen)} kernels ran there,"
        f" {len(compared)} of them here too; never run: {', '.join(unseen()) or 'none'}"
    )


def unseen() -> list[str]:
    """Kernels of this CPU that no test ran."""
    return sorted(set(tested_kernels(LEVEL)) - seen)
