"""What the README says is so: its example runs, its commands exist, its tables are complete."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_harness import HELD_OUT

import qrt
from qrt.cli import COMMANDS, join_words, make_parser
from qrt.knobs import KNOBS
from qrt.simd.features import LEVELS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def command_lines() -> list[str]:
    """Every line of the shell blocks."""
    return [line for block in blocks("bash") for line in block.splitlines() if line]


def test_the_python_example_runs_as_written(tmp_path: Path) -> None:
    example = blocks("python")[0]
    assert len(example.splitlines()) == 5
    path = os.pathsep.join([str(Path(qrt.__file__).parent.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with np.load(HELD_OUT) as arrays:
        assert done.stdout.strip() == str(arrays["y"][:8])
    for block in blocks("python"):
        ast.parse(block)


def test_the_two_commands() -> None:
    lines = command_lines()
    assert lines[0] == "pip install . && qrt demo"
    assert lines[1] == "pip install tox && tox"
    # continuous integration runs exactly what the README says
    assert lines[1] in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("line", [line for line in command_lines() if line.startswith("qrt ")])
def test_commands_parse(line: str) -> None:
    make_parser().parse_args(join_words(shlex.split(line)[1:]))


def test_every_command_is_told() -> None:
    for command in COMMANDS:
        assert f"| `qrt {command.name}` |" in TEXT


def test_scripts_and_links_exist() -> None:
    scripts = [line.split()[1] for line in command_lines() if line.startswith("python ")]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert scripts
    assert links
    for path in (*scripts, *links):
        assert (ROOT / path).is_file(), path


def test_every_variable_is_told() -> None:
    table = [f"| `{k.name}` |{f' {k.default}' if k.default else ''} | {k.meaning} |" for k in KNOBS]
    missing = [row for row in table if row not in TEXT]
    assert not missing, "the README's table lacks:\n" + "\n".join(missing)
    told = set(re.findall(r"\bQRT_[A-Z_]+\b", TEXT))
    assert told <= {knob.name for knob in KNOBS}


def test_every_level_is_told() -> None:
    for arch, levels in LEVELS.items():
        told = re.sub(r"\s+", " ", TEXT)
        assert ", ".join(f"`{name}`" for name in levels) in told, arch


def test_python_versions_are_those_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()  # type: ignore[union-attr]
    assert f"Python 3.{low} to 3.{int(high) - 1}" in TEXT


def test_names_of_the_package_exist() -> None:
    for name in re.findall(r"`qrt\.([A-Za-z_]\w*)", TEXT):
        assert hasattr(qrt, name) or importlib.util.find_spec(f"qrt.{name}"), name
    session = qrt.load(ROOT / "qrt" / "data" / "digits_int8.onnx")
    for name in re.findall(r"`session\.([a-z_]+)", TEXT):
        assert hasattr(session, name), name
