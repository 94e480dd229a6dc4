"""Where AArch64 packages or tools cannot be had, the scripts say which and why."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(script: str, path: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and output of a script that finds programs in `path` only."""
    env = {name: v for name, v in os.environ.items() if name != "QRT_ARM"}
    result = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        env={**env, "PATH": str(path), **variables},
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout + result.stderr


def programs(folder: Path, **scripts: str) -> Path:
    """A folder of shell scripts."""
    folder.mkdir()
    for name, body in scripts.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    return folder


def test_no_package_manager(tmp_path: Path) -> None:
    folder = ("--folder", str(tmp_path / "arm"))
    status, words = run("scripts/arm.py", programs(tmp_path / "bin"), *folder)
    assert words == "skipped, no AArch64 Python: apt-get is not here\n"
    assert status == 0
    assert run("scripts/arm.py", tmp_path / "bin", *folder, QRT_ARM="required") == (1, words)


def test_no_network(tmp_path: Path) -> None:
    """The reason is the package manager's own; nothing half built counts as complete."""
    broken = programs(tmp_path / "bin", apt_get="echo 'no route to it' >&2; exit 100", dpkg="")
    for _ in range(2):
        status, words = run("scripts/arm.py", broken, "--folder", str(tmp_path / "arm"))
        assert words.startswith("skipped, no AArch64 Python: apt-get ")
        assert "no route to it" in words
        assert status == 0


def test_a_hanging_fetch_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children of the package manager hold its pipes: they end with it."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import arm_root

    hanging = programs(tmp_path / "bin", apt_get="sleep 1000 & wait", dpkg="")
    monkeypatch.setenv("PATH", f"{hanging}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(arm_root, "PATIENCE", 1)
    with pytest.raises(arm_root.Unavailable, match=r"apt-get .* not done in 1 seconds"):
        arm_root.build_root(tmp_path / "arm")
    assert not (tmp_path / "arm" / arm_root.DONE).exists()


def test_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import arm_root

    with pytest.raises(arm_root.Unavailable, match="pip"):
        arm_root.install_wheels(tmp_path, time.monotonic() + 60)


def test_no_llvm_mca(tmp_path: Path) -> None:
    status, words = run("bench/arm_mca.py", programs(tmp_path / "bin"))
    assert status == 0
    assert words.startswith("llvm-mca is not here")
