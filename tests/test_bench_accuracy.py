"""`bench.accuracy`: numbers are what NumPy makes of both models' outputs, bars what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import qrt
from bench.accuracy import Row, judged, measure, summary, table
from bench.labelled import MODELS
from bench.quantizers import OURS, THEIRS

DIGITS = MODELS["digits_fp32"]


def test_a_row_is_what_both_models_say() -> None:
    method = next(m for m in OURS if m.name == "int4 rtn")
    failing = replace(method, name="broken", make=lambda model, x: qrt.quantize_weights(model, 5))
    first, row, broken = measure(DIGITS, [method, failing], calibration=20, rows=50)
    x, y = DIGITS.arrays()
    x, y = x[20:70], y[20:70]
    made = qrt.quantize_weights(DIGITS.model, method="rtn")
    (want,), (got,) = (qrt.load(m).run(None, {"image": x}) for m in (DIGITS.model, made))
    assert first.top1 == float((want.argmax(1) == y).mean())
    assert row.top1 == float((got.argmax(1) == y).mean())
    assert row.agreement == float((got.argmax(1) == want.argmax(1)).mean())
    assert row.nbytes == len(made.SerializeToString())
    noise = ((got.astype(np.float64) - want) ** 2).sum()
    sqnr = 10 * np.log10((want.astype(np.float64) ** 2).sum() / noise)
    assert abs(row.sqnr - sqnr) < 1e-3
    assert "bits are one of" in broken.error
    lines = table([first, row, broken]).splitlines()
    assert len(lines) == 4
    assert row.bar in lines[2]


def test_copies_are_the_pictures_shifted_and_mirrored() -> None:
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    for case, count in ((DIGITS, 5), (MODELS["cifar_tinycnn_fp32"], 10)):
        copies = case.copies(x).reshape(count, *x.shape)
        assert np.array_equal(copies[0], x)
        assert np.array_equal(copies[1, :, :, 1:], x[:, :, :-1])  # a pixel down
        assert np.array_equal(copies[4, ..., :-1], x[..., 1:])
        assert np.array_equal(copies[4, ..., -1], x[..., -1])
        if count == 10:
            assert np.array_equal(copies[5:], copies[:5, ..., ::-1])


def test_bars_are_held_against_float_and_against_the_rival() -> None:
    rows = [
        Row("m", "a", "static", "qrt", top1=0.9, drop=0.2),
        Row("m", "b", "static", "qrt", top1=0.9, drop=0.4),
        Row("m", "lucky", "static", "qrt", top1=0.92, drop=-0.1),
        Row("m", "c", "dynamic", "qrt", drop=0.3),
        Row("m", "d", "weights", "qrt", drop=1.5),
        Row("m", "theirs", "static", "onnxruntime", drop=0.1),
        Row("m", "theirs, by luck", "static", "onnxruntime", drop=-1.0),
    ]
    bars = [row.bar for row in judged(rows)]
    assert bars[:5] == ["0.20 more than onnxruntime", "0.10 beyond 0.3; 0.40 more than onnxruntime",
                        "met", "met", "0.50 beyond 1.0"]  # fmt: skip
    assert bars[5:] == ["", ""]
    assert "m static: 1 of 3 meet the bar (lucky); best lucky" in summary(judged(rows))


def test_methods_have_names_of_their_own() -> None:
    names = [method.name for method in (*OURS, *THEIRS)]
    assert len(set(names)) == len(names)
