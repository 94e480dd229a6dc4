"""Calibration data: where they come from, how much of them is in memory, what is said meanwhile."""

from __future__ import annotations

import io
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_harness import DATA, qrt_command
from onnx import parser

import qrt
from qrt.api.progress import CalibrationLine
from qrt.ptq.config import Grid, QuantConfig
from qrt.ptq.observers import OBSERVERS

Array = np.ndarray[Any, Any]
FLOAT = DATA / "digits_fp32.onnx"
with np.load(DATA / "digits_test.npz") as _arrays:
    X = _arrays["x"][:, None].astype(np.float32) / np.float32(16)
DATA_CONFIGS = {
    **{name: QuantConfig(activations=Grid(observer=name)) for name in OBSERVERS},
    "two passes": QuantConfig(rounding="gptq", bias_correction=True),
}
MB = 2**20


def _images(folder: Path, count: int) -> list[Array]:
    """Random grey images as files; their pixels."""
    image = pytest.importorskip("PIL.Image", reason="images need pillow")
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (8, 8), np.uint8) for _ in range(count)]
    for i, one in enumerate(pixels):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        image.fromarray(one).save(folder / str(i % 2) / f"{i:03}.png")
    return [*pixels[::2], *pixels[1::2]]  # sorted by path


def test_every_kind_of_data_gives_the_same_model(tmp_path: Path) -> None:
    pixels = _images(tmp_path / "images", 12)
    x = ((np.stack(pixels)[:, None] / 255 - 0.25) / 0.5).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", image=x, classes=np.arange(3))
    runs = tmp_path / "runs"
    runs.mkdir()
    for i, one in enumerate(x):
        np.savez(runs / f"{i:03}.npz", **{"in:image": one[None]})
    config = QuantConfig(bias_correction=True)  # reads the data twice
    want = qrt.quantize_static(FLOAT, x, config)
    for name, data in {
        "dict": {"image": x},
        "npy": tmp_path / "x.npy",
        "npz": str(tmp_path / "x.npz"),
        "folder": runs,
        "list of arrays": list(x[:, None]),
        "iterator of feeds": ({"image": one[None]} for one in x),
        "images": qrt.ImageFolder(tmp_path / "images", mean=[0.25], std=[0.5]),
    }.items():
        assert qrt.quantize_static(FLOAT, data, config) == want, name
    out = tmp_path / "out.onnx"
    done = qrt_command("quantize", FLOAT, "--data", tmp_path / "images", "--mean", ".25",
                       "--std", ".5", "--samples", "6", "-o", out)  # fmt: skip
    assert done.code == 0, done.err
    assert onnx.load(out) == qrt.quantize_static(FLOAT, x[:6])
    done = qrt_command("compare", FLOAT, out, "--data", tmp_path / "images", "--json")
    assert done.json["samples"] == 12


def test_a_model_of_fixed_batch_takes_that_many_at_once() -> None:
    proto = onnx.load(FLOAT)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    del proto.graph.value_info[:]
    made = qrt.quantize_static(proto, X[:10])
    assert {t.name: t for t in made.graph.initializer}["image_scale"] == {
        t.name: t for t in qrt.quantize_static(FLOAT, X[:8]).graph.initializer
    }["image_scale"]
    with pytest.raises(qrt.InputError, match="takes 4 samples at once, got only 3"):
        qrt.quantize_static(proto, X[:3])


@pytest.mark.parametrize("name", DATA_CONFIGS)
def test_memory_does_not_grow_with_the_number_of_samples(name: str) -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 1, 256, 256] x) => (float[1, 4, 256, 256] y)
    <float[4, 1, 1, 1] w = {0.5, -1.0, 0.25, 2.0}> {
      c = Conv (x, w)  r = Relu (c)  y = Conv <group = 4> (r, w)
    }""")

    def samples(count: int) -> Iterator[Array]:
        rng = np.random.default_rng(0)
        for _ in range(count):
            yield rng.standard_normal((1, 1, 256, 256)).astype(np.float32)  # 0.25 MB

    def peak(count: int) -> float:
        tracemalloc.start()
        try:
            qrt.quantize_static(model, samples(count), DATA_CONFIGS[name])
            return tracemalloc.get_traced_memory()[1] / MB
        finally:
            tracemalloc.stop()

    peak(1)  # what only the first call allocates
    few, many = peak(2), peak(40)
    assert few > 2  # arrays are counted
    assert many - few < 0.5, (few, many)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_calibration_draws_a_bar_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QRT_PROGRESS", raising=False)
    for stream, of, says in (
        (_Terminal(), 4, f"[{'#' * 15}{'.' * 15}] 2 of 4 runs"),
        (_Terminal(), None, "2 runs done"),
        (io.StringIO(), 4, ""),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        with CalibrationLine(of) as line:
            line(2)
        text = stream.getvalue()
        assert says in text
        # nothing of it is left in the end
        assert text.split("\r")[-2:] == ([" " * 78, ""] if says else [""]) or not says
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("QRT_PROGRESS", "0")
    with CalibrationLine(4) as line:
        line(2)
    assert terminal.getvalue() == ""
