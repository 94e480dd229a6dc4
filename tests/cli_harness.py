"""Run the command line in this process, and what its tests need to know."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qrt
from qrt.cli import main

DATA = Path(qrt.__file__).parent / "data"
DIGITS = str(DATA / "digits_int8.onnx")
HELD_OUT = str(DATA / "digits_test.npz")


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was printed; `err` is without the compiler's progress lines."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON object that --json promises."""
        return json.loads(self.out, parse_constant=_refuse)

    @property
    def message(self) -> str:
        """The one line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"expected one line on stderr, got {lines}"
        return lines[0]


def qrt_command(*argv: str | Path) -> Outcome:
    """`qrt ARGV...`"""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(arg) for arg in argv])
        except SystemExit as stop:  # argparse: --help, --version, a bad option
            assert isinstance(stop.code, int)
            code = stop.code
    lines = [line for line in err.getvalue().splitlines() if not line.startswith("qrt: compil")]
    return Outcome(code, out.getvalue(), "\n".join(lines))


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
