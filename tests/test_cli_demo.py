"""`qrt demo`: the packaged model on the packaged images."""

from __future__ import annotations

import numpy as np
import pytest
from cli_harness import qrt_command

from qrt.cli import demo, digits


def test_figures() -> None:
    done = qrt_command("demo", "--json")
    assert done.code == 0, done.err
    report = done.json
    assert report["images"] == 597
    assert report["int8"]["accuracy"] >= demo.REQUIRED
    assert report["int8"]["nbytes"] < report["float32"].get("nbytes", 100_000)
    if "accuracy" in report["float32"]:
        assert abs(report["int8"]["accuracy"] - report["float32"]["accuracy"]) <= 0.003
    labels = digits.read_digits().labels
    right = np.mean(np.array(report["predictions"]) == labels)
    assert right == report["int8"]["accuracy"]
    assert any(name.startswith("gemm") for name in report["kernels"])
    assert report["one_image_s"]["median"] > 0


def test_text_fits_a_terminal() -> None:
    done = qrt_command("demo")
    assert done.code == 0, done.err
    for word in ("accuracy", "latency", "kernels", "bytes", "says 6, is 6", "WRONG"):
        assert word in done.out
    pictures = done.out.split("\naccuracy")[0]
    assert max(len(line) for line in pictures.splitlines()) <= 80


def test_low_accuracy_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    true = digits.read_digits()
    wrong = digits.Digits(true.images, (true.labels + 1) % 10)
    monkeypatch.setattr(demo, "read_digits", lambda: wrong)
    done = qrt_command("demo", "--json")
    assert done.code == 1
    assert "97%" in done.message
    assert done.json["int8"]["accuracy"] < 0.1


def test_drawing() -> None:
    ramp = np.array([[0, 4, 8, 12, 16]], np.uint8)
    assert digits.draw(ramp, blocks=True) == ["  ░░▒▒▓▓██"]
    assert digits.draw(ramp, blocks=False) == ["  ..::**##"]


def test_examples_are_different_digits() -> None:
    held_out = digits.read_digits()
    shown = digits.examples(held_out)
    assert len({int(held_out.labels[i]) for i in shown}) == len(shown) == digits.SHOWN
