"""Compile, keep and load kernels: digests, the cache on disk, workers, features."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jit_kernels
import numpy as np
import pytest

from qrt import knobs
from qrt.errors import CompileError, QrtError
from qrt.jit import cache
from qrt.jit.build import build_objects
from qrt.jit.digest import kernel_digest
from qrt.jit.load import kernel_addresses
from qrt.jit.process import CompileProcess
from qrt.jit.target import target_for
from qrt.simd.features import X86_LEVELS, active_features, detected_features, is_x86

TARGET = target_for(active_features("portable"))


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("QRT_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def call(address: int, row: list[int]) -> int:
    """Run a kernel on a row."""
    values = np.array(row, np.int64)
    arguments = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2
    function = ctypes.CFUNCTYPE(ctypes.c_int64, *arguments)(address)
    return int(function(values.ctypes.data, 0, 0, 0, 1))


def test_a_kernel_runs() -> None:
    """2 * a + b + STEP, from the fields after the header."""
    kernel = jit_kernels.add_kernel
    address = kernel_addresses([kernel], TARGET)[kernel.name]
    assert call(address, [0, 0, 0, 20, 5]) == 2 * 20 + 5 + jit_kernels.STEP


def test_the_digest_follows_what_the_code_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant or a helper that changes gives another name; the target does too."""
    kernel = jit_kernels.add_kernel
    first = kernel_digest(kernel, TARGET)
    assert kernel_digest(kernel, TARGET) == first
    with monkeypatch.context() as patch:
        patch.setattr(jit_kernels, "STEP", 4)
        assert kernel_digest(kernel, TARGET) != first
    with monkeypatch.context() as patch:
        patch.setattr(jit_kernels.doubled, "fn", lambda v: v * 3)
        assert kernel_digest(kernel, TARGET) != first
    assert kernel_digest(kernel, TARGET) == first
    if is_x86() and "avx2" in detected_features():
        assert kernel_digest(kernel, target_for(active_features("avx2"))) != first


def test_an_object_of_other_sources_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    """The worker imports the files as they are: a digest it cannot confirm is refused."""
    monkeypatch.setattr(jit_kernels, "STEP", 4)  # as if the file had been edited since
    with pytest.raises(CompileError, match="files changed"):
        build_objects([jit_kernels.add_kernel], TARGET)
    assert not list(empty_cache.glob("*.o"))


def test_compiler_errors_name_the_kernel() -> None:
    """The compiler's own words reach the user, led by the kernel."""
    with pytest.raises(CompileError, match=r"kernel 'test_jit_wrong' does not compile"):
        build_objects([jit_kernels.wrong_kernel], TARGET)


def test_a_worker_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that stops (LLVM may abort its process) gives an error, not a hang."""
    monkeypatch.setenv(knobs.JIT_KEEP.name, "0")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CompileError, match=r"stopped|not"):
        build_objects([jit_kernels.add_kernel], TARGET)


def test_a_kept_process_compiles_the_same_for_any_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One process serves two targets and a kernel that fails; it gives what new ones give."""
    targets = [TARGET, target_for(frozenset(), "aarch64")]
    made: dict[str, list[dict[str, bytes]]] = {}
    CompileProcess.end_all()
    monkeypatch.setenv(knobs.JIT_WORKERS.name, "1")
    for keep in "01":
        monkeypatch.setenv(knobs.CACHE_DIR.name, str(tmp_path / keep))
        monkeypatch.setenv(knobs.JIT_KEEP.name, keep)
        made[keep] = [build_objects([jit_kernels.add_kernel], t) for t in targets]
        waiting = [p.process.pid for p in CompileProcess._idle]
        assert len(waiting) == int(keep)
    assert made["0"] == made["1"]
    with pytest.raises(CompileError, match="does not compile"):
        build_objects([jit_kernels.wrong_kernel], TARGET)
    CompileProcess.end_all()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in waiting)


def test_objects_are_kept_and_used_again(empty_cache: Path) -> None:
    """The second time nothing is compiled; progress is told for what is."""
    told: list[tuple[int, int, str]] = []
    first = build_objects([jit_kernels.add_kernel], TARGET, lambda *a: told.append(a))
    assert told[-1] == (1, 1, "test_jit_add")
    told.clear()
    assert build_objects([jit_kernels.add_kernel], TARGET, lambda *a: told.append(a)) == first
    assert not told
    (file,) = empty_cache.iterdir()
    assert file.suffix == ".o"


@pytest.mark.parametrize("damage", ("cut", "flipped", "empty", "foreign magic", "world-writable"))
def test_a_damaged_object_is_compiled_again(empty_cache: Path, damage: str) -> None:
    """Whatever lies in the cache, only what was written whole is loaded."""
    good = build_objects([jit_kernels.add_kernel], TARGET)
    (file,) = empty_cache.iterdir()
    data = bytearray(file.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
    elif damage == "empty":
        data = bytearray()
    elif damage == "foreign magic":
        data[0] ^= 1
    file.write_bytes(data)
    if damage == "world-writable":
        file.chmod(file.stat().st_mode | stat.S_IWOTH)
    digest = kernel_digest(jit_kernels.add_kernel, TARGET)
    assert cache.read_object(digest) is None
    assert build_objects([jit_kernels.add_kernel], TARGET) == good


def test_a_cache_that_cannot_be_written_costs_time_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file where the folder should be."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("QRT_CACHE_DIR", str(blocked))
    assert build_objects([jit_kernels.add_kernel], TARGET)


def test_numba_stays_out_of_the_process() -> None:
    """Workers compile: the process that runs a model never imports numba."""
    code = (
        "import sys, jit_kernels\n"
        "from qrt.jit.load import kernel_addresses\n"
        "from qrt.jit.target import target_for\n"
        "kernel_addresses([jit_kernels.add_kernel], target_for(frozenset()))\n"
        "assert 'numba' not in sys.modules\n"
    )
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


@pytest.mark.skipif(not is_x86(), reason="levels of x86-64")
def test_features() -> None:
    """A level, then single features; what the CPU lacks and what nobody knows is refused."""
    assert active_features("portable") == frozenset()
    assert active_features("") == detected_features()
    if "avx2" in detected_features():
        assert active_features("avx2") == frozenset(X86_LEVELS["avx2"])
        assert "avx2" not in active_features("-avx2")
        assert active_features("portable,+avx2") == {"avx2"}
    with pytest.raises(QrtError, match="'sse9' is unknown"):
        active_features("sse9")
    absent: Any = {"avxvnni", "avx512vnni", "avx512vbmi", "f16c"} - detected_features()
    for name in absent:
        with pytest.raises(QrtError, match=f"lacks {name}"):
            active_features(f"portable,+{name}")
