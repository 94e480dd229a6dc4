"""Bad input at the command line: exit code 2 and one clear line on stderr, nothing on stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_harness import DIGITS, HELD_OUT, Outcome, qrt_command

import qrt
from qrt.cli import options

COMMANDS_OF_A_MODEL = ("run", "bench", "explain", "inspect")


def refused(done: Outcome, *words: str) -> None:
    """Exit code 2, an empty stdout, one line that starts with the command and has `words`."""
    assert done.code == 2, done
    assert done.out == ""
    assert done.message.startswith("qrt"), done.message
    assert not done.message.startswith("qrt run: internal"), done.message
    for word in words:
        assert word in done.message, done.message


@pytest.mark.parametrize("command", COMMANDS_OF_A_MODEL)
def test_a_model_that_is_no_model(tmp_path: Path, command: str) -> None:
    whole = Path(DIGITS).read_bytes()
    files = {
        "truncated.onnx": whole[: len(whole) // 2],
        "text.onnx": b"hello, this is a note about a model\n" * 40,
        "zeros.onnx": bytes(1000),
        "empty.onnx": b"",
        "image.onnx": b"\x89PNG\r\n\x1a\n" + bytes(64),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        refused(qrt_command(command, tmp_path / name), name)
    refused(qrt_command(command, tmp_path / "absent.onnx"), "absent.onnx", "does not exist")
    refused(qrt_command(command, tmp_path), "folder")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), ("required", "COMMAND")),
        (("dance",), ("dance", "run")),
        (("run",), ("MODEL",)),
        (("run", DIGITS, "--nonsense"), ("--nonsense",)),
        (("run", DIGITS, "--random", "--threads", "two"), ("--threads", "two")),
        (("run", DIGITS, "--random", "--threads", "-1"), ("threads", "-1")),
        (("run", DIGITS, "--random", "--features", "mmx"), ("mmx", "avx2")),
        (("run", DIGITS, "--random", "--seed", "-1"), ("--seed",)),
        (("run", DIGITS, "--random", "--dim", "batch"), ("--dim", "NAME=SIZE")),
        (("run", DIGITS, "--random", "--dim", "width=3"), ("width", "batch")),
        (("run", DIGITS, "--random", "--scale", "1/0"), ("--scale",)),
        (("run", DIGITS, "--random", "--mean", "1,2"), ("--mean", "three")),
        (("bench", DIGITS, "--runs", "0"), ("--runs",)),
        (("bench", DIGITS, "--seconds", "nan"), ("--seconds",)),
    ],
    ids=lambda value: " ".join(value[2:]) or "nothing" if isinstance(value, tuple) else None,
)
def test_bad_options(argv: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(qrt_command(*argv), *words)


def test_inputs_that_are_missing_or_unknown(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8), np.float32))
    refused(qrt_command("run", DIGITS), "'image'", "--random", "float32")
    refused(
        qrt_command("run", DIGITS, "--input", f"picture={tmp_path / 'x.npy'}"),
        "'picture'",
        "'image'",
    )
    refused(qrt_command("run", DIGITS, "--input", tmp_path / "y.npy"), "y.npy", "does not exist")
    refused(qrt_command("run", DIGITS, "--input", tmp_path), "is not a file")
    twice = ("--input", tmp_path / "x.npy") * 2
    refused(qrt_command("run", DIGITS, *twice), "twice")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 1, 8), np.float32), ("rank", "(batch, 1, 8, 8)")),
        (np.zeros((1, 1, 8, 9), np.float32), ("dimension 3", "8", "9")),
        (np.zeros((1, 1, 8, 8), np.float64), ("float64", "float32")),
        (np.zeros((1, 1, 8, 8), np.uint8), ("uint8", "float32")),
        (np.array([["a"]]), ("<U1",)),
    ],
    ids=["rank", "shape", "float64", "uint8", "text"],
)
def test_arrays_that_do_not_fit(tmp_path: Path, array: np.ndarray, words: tuple[str, ...]) -> None:
    np.save(tmp_path / "x.npy", array)
    refused(qrt_command("run", DIGITS, "--input", tmp_path / "x.npy"), "'image'", *words)


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, None], object), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", a=np.zeros(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    np.savez(tmp_path / "other.npz", a=np.zeros(3), b=np.zeros(3))
    whole = Path(HELD_OUT).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text.npy", "text.npz", "text.png", "text.jpg", "text.txt"):
        (tmp_path / name).write_text("not at all\n")
    for path in sorted(tmp_path.iterdir()):
        refused(qrt_command("run", DIGITS, "--input", path), path.name)
        refused(qrt_command("run", DIGITS, "--input", f"image={path}"), path.name)


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(qrt_command("run", DIGITS, "--random", "--output", tmp_path / "file"), "file")


def test_names_cannot_drive_the_terminal(tmp_path: Path) -> None:
    name = "a\x1b[2Jb\nc.onnx"
    refused(qrt_command("inspect", tmp_path / name), r"a\x1b[2Jb")


def test_a_mistake_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(options.qrt, "load", fail)
    done = qrt_command("run", DIGITS, "--random")
    assert done.code == 3
    assert done.message == (
        "qrt run: internal error, RuntimeError: two lines (QRT_DEBUG=1 shows where)"
    )
    monkeypatch.setenv("QRT_DEBUG", "1")
    shown = qrt_command("run", DIGITS, "--random").err
    assert shown.startswith("Traceback")
    assert shown.splitlines()[-1] == done.message


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (qrt.KernelError("Conv 'a' (#1): status 3"), 2, "status 3"),
        (MemoryError(), 2, "not enough memory"),
        (OSError(28, "No space left on device", "x.npy"), 2, "'x.npy': No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(options.qrt, "load", fail)
    done = qrt_command("run", DIGITS, "--random")
    assert done.code == code
    assert words in done.message


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "import sys; from qrt.cli import main; sys.exit(main(sys.argv[1:]))"
    path = os.pathsep.join([str(Path(qrt.__file__).parent.parent), *filter(None, sys.path)])
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, "inspect", DIGITS, "--nodes"],
            stdout=write,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_json_does_not_change_errors(tmp_path: Path) -> None:
    for command in COMMANDS_OF_A_MODEL:
        refused(qrt_command(command, tmp_path / "absent.onnx", "--json"), "does not exist")
    with pytest.raises(json.JSONDecodeError):
        _ = qrt_command("run", DIGITS, "--json").json
