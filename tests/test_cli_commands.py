"""Help, version, and the commands that look at a model: explain, inspect, bench."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_harness import DIGITS, qrt_command

import qrt
from qrt.cli import COMMANDS


def test_version_and_help() -> None:
    assert qrt_command("--version").out == f"qrt {qrt.__version__}\n"
    page = qrt_command("--help")
    assert page.code == 0
    for command in COMMANDS:
        assert command.summary in " ".join(page.out.split())
        own = qrt_command(command.name, "--help")
        assert own.code == 0
        assert "--json" in own.out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_commands_are_told_the_same_way(command: object) -> None:
    assert command.summary[0].islower()  # type: ignore[attr-defined]
    assert command.details.endswith(".")  # type: ignore[attr-defined]


def test_python_dash_m(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(qrt.__file__).parent.parent), *filter(None, sys.path)])
    env = {**os.environ, "PYTHONPATH": path}
    argv = [sys.executable, "-m", "qrt"]
    for rest, code in ((["--version"], 0), (["run", "absent.onnx"], 2)):
        done = subprocess.run(argv + rest, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == code
        assert (done.stdout + done.stderr).count("\n") == 1


def test_explain() -> None:
    text = qrt_command("explain", DIGITS).out
    report = qrt_command("explain", DIGITS, "--json").json
    assert report["model"] == DIGITS
    assert [row["node"] for row in report["rows"]]
    for row in report["rows"]:
        for kernel in row["kernels"]:
            assert kernel in text
    larger = qrt_command("explain", DIGITS, "--dim", "batch=64", "--json").json
    assert larger["arena_nbytes"] > report["arena_nbytes"]


def test_explain_names_forced_kernels() -> None:
    report = qrt_command("explain", DIGITS, "--features", "portable", "--json").json
    assert report["features"] == []
    products = [k for row in report["rows"] for k in row["kernels"] if k.startswith("gemm")]
    assert products
    assert all("portable" in kernel for kernel in products)


def test_inspect() -> None:
    text = qrt_command("inspect", DIGITS).out
    report = qrt_command("inspect", DIGITS, "--json").json
    assert report["ops"]["Conv"] == 5
    assert report["file_nbytes"] == Path(DIGITS).stat().st_size
    assert report["inputs"] == ["image: float32[batch, 1, 8, 8]"]
    assert report["inputs"][0] in text
    assert "5 Conv" in text
    assert "'stem'" not in text
    assert "'stem'" in qrt_command("inspect", DIGITS, "--nodes").out
    listing = qrt_command("inspect", DIGITS, "--nodes", "--json").json["listing"]
    assert sum("Conv 'stem'" in line for line in listing) == 1


def test_bench() -> None:
    text = qrt_command("bench", DIGITS, "--runs", "20")
    assert text.code == 0
    for word in ("median", "min", "p90", "features", "threads"):
        assert word in text.out
    assert "kernel" not in text.out
    argv = ("bench", DIGITS, "--runs", "20", "--profile")
    assert "kernel" in qrt_command(*argv).out
    report = qrt_command(*argv, "--dim", "batch=4", "--json").json
    assert report["runs"] == 20
    assert 0 < report["min_ms"] <= report["median_ms"] <= report["p90_ms"]
    assert report["inputs"][0]["shape"] == [4, 1, 8, 8]
    assert report["profile"]["rows"]


def test_bench_ends_in_time() -> None:
    report = qrt_command("bench", DIGITS, "--runs", "100000000", "--seconds", "0.05", "--json").json
    assert 1 <= report["runs"] < 100_000_000
