"""The progress line: one line, silent on request, never a reason to fail."""

from __future__ import annotations

import io
import sys

import pytest

from qrt.api.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    line = ProgressLine()
    for done in range(4):
        line(done, 3, "kernel" * 30)
    return stream.getvalue() if stream is not None else ""


def test_a_terminal_sees_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QRT_PROGRESS", raising=False)
    text = show(Terminal(), monkeypatch)
    assert text.count("\n") == 1 and text.endswith("\n")
    assert all(len(part.rstrip("\n")) <= 78 for part in text.split("\r"))
    assert "compiled 3 kernels" in text.split("\r")[-1]


def test_a_log_sees_start_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QRT_PROGRESS", raising=False)
    lines = show(io.StringIO(), monkeypatch).splitlines()
    assert len(lines) == 2 and "compiling 3 kernels" in lines[0] and "compiled 3" in lines[1]


def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRT_PROGRESS", "0")
    assert show(Terminal(), monkeypatch) == ""


def test_no_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QRT_PROGRESS", raising=False)
    show(None, monkeypatch)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    ProgressLine()(0, 1, "x")
