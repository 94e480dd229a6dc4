"""Which tile a product takes, what `explain` says of it, and the file that keeps measured times."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from product_cases import (
    ProductBench,
    Tally,
    conv_node,
    draw_numbers,
    matmul_node,
    matmul_sums,
    run,
)

import qrt
from qrt.gemm import choice, measure
from qrt.gemm.driver import FIELDS, PRODUCTS, is_dense
from qrt.gemm.table import TILES, TileSpec, candidates, cost, select_tile
from qrt.jit import timings
from qrt.jit.declare import HEADER, Kernel
from qrt.jit.target import target_for
from qrt.ops import conv, matmul
from qrt.simd.features import active_features

OPERANDS = ("x", "y", "panels", "columns", "sums", "pad", "limits", "rows")
VNNI = next(frozenset(t.features) for t in TILES if t.family == "vnni512")
CONVS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 8, 14, 14), (40, 8, 1, 1), {}),
    ((2, 8, 31, 13), (20, 8, 1, 1), {}),
    ((1, 16, 20, 500), (20, 16, 1, 1), {}),
    ((1, 70, 9, 9), (300, 70, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 16, 61, 33), (20, 8, 5, 5), {"group": 2, "strides": (2, 2), "pads": (2, 2, 2, 2)}),
    ((1, 1100, 40, 40), (520, 1100, 1, 1), {"strides": (2, 1)}),
]


def lowered(node: Any, features: frozenset[str]) -> ProductBench:
    """The rows and notes of a product."""
    bench = ProductBench(features)
    (conv if node.op == "Conv" else matmul).lower(node, bench)
    return bench


def product_node(m: int, n: int, k: int) -> Any:
    rng = np.random.default_rng(1)
    w = rng.integers(-128, 128, (k, n), dtype=np.int8)
    return matmul_node((m, k), w, draw_numbers(rng, n, k, "u8"))


@pytest.mark.parametrize("size", [(1, 1000, 64), (12, 32, 64), (24, 30, 700), (7, 200, 30)])
def test_the_model_and_its_words(size: tuple[int, int, int]) -> None:
    """The cheapest tile, first in the note, with every tile's figure."""
    m, n, k = size
    tiles = candidates(VNNI)
    assert len(tiles) > 1
    figures = {t: cost(m, n, -(-k // 4), t) for t in tiles}
    best = min(figures.values())
    bench = lowered(product_node(*size), VNNI)
    ((kernel, _),) = bench.rows
    (chosen,) = (t for t in tiles if t.kernel_name("u8") == kernel.name)
    assert figures[chosen] == best
    (note,) = bench.notes
    assert note.startswith(f"tile {chosen.mr}x{chosen.nr} by cost model (kcycles: ")
    for tile, figure in figures.items():
        assert f"{tile.mr}x{tile.nr} {figure / 1e3:.1f}" in note


def test_no_words_without_a_choice() -> None:
    assert lowered(product_node(5, 20, 30), frozenset()).notes == []


def test_a_precondition_is_told() -> None:
    """Scaled sums that may pass int32 send a product to the portable tile, and the note says so."""
    rng = np.random.default_rng(2)
    w = rng.integers(-128, 128, (30, 20), dtype=np.int8)
    numbers = draw_numbers(rng, 20, 30, "u8")
    numbers.scale[:] = 1e12
    bench = lowered(matmul_node((5, 30), w, numbers), VNNI)
    ((kernel, _),) = bench.rows
    assert "portable" in kernel.name and "portable" in bench.notes[0]


def test_explain_prints_notes() -> None:
    digits = Path(qrt.__file__).parent / "data" / "digits_int8.onnx"
    features = active_features()
    session = qrt.load(digits)
    notes = [row.note for row in session.explain() if any("gemm" in k for k in row.kernels)]
    assert notes and all(bool(note) == (len(candidates(features)) > 1) for note in notes)
    assert all(note in str(session.explain()) for note in notes)
    assert [row["note"] for row in json.loads(session.explain().to_json())["rows"] if row["note"]] \
        == [note for note in notes if note]  # fmt: skip


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """QRT_MEASURE=1 and a cache of its own for times (objects stay where they are)."""
    monkeypatch.setenv("QRT_MEASURE", "1")
    monkeypatch.setattr(timings, "cache_dir", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("winner", range(2))
def test_the_fastest_wins(
    winner: int, measuring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = candidates(VNNI)
    times = {t.kernel_name("u8"): 1000 if i == winner else 2000 for i, t in enumerate(tiles)}
    monkeypatch.setattr(choice, "measured", lambda kernels, row, features: times)
    bench = lowered(product_node(600, 300, 64), VNNI)
    ((kernel, row),) = bench.rows
    assert kernel.name == tiles[winner].kernel_name("u8")
    assert row["out_width"] == 600 and row["n"] == 300  # what is cut for the sample stays there
    best, other = tiles[winner], tiles[1 - winner]
    assert bench.notes == [
        f"tile {best.mr}x{best.nr} measured (µs at 120x64x172:"
        f" {best.mr}x{best.nr} 1.0, {other.mr}x{other.nr} 2.0)"
    ]


@pytest.mark.parametrize("ahead, moves", [(0.99, False), (0.96, True)])
def test_noise_does_not_decide(
    ahead: float, moves: bool, measuring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tile than the model's must be faster by more than two runs differ."""
    size = (24, 30, 64)
    model = select_tile(24, 30, 16, VNNI)
    times = {t.kernel_name("u8"): 10000 if t == model else int(10000 * ahead)
             for t in candidates(VNNI)}  # fmt: skip
    monkeypatch.setattr(choice, "measured", lambda kernels, row, features: times)
    ((kernel, _),) = lowered(product_node(*size), VNNI).rows
    assert (kernel.name != model.kernel_name("u8")) == moves


def test_too_large_to_measure(measuring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "measured", lambda *args: None)
    (note,) = lowered(product_node(5, 20, 30), VNNI).notes
    assert "cost model" in note


def test_samples_are_rows_of_the_same_kind() -> None:
    """Bounded, whole, as dense as the row, with the taps and steps of the row."""
    tally = Tally("samples", seed=601)
    rng = np.random.default_rng(tally.seed)
    nodes = []
    for x_shape, w_shape, geometry in CONVS:
        w = rng.integers(-128, 128, w_shape, dtype=np.int8)
        numbers = draw_numbers(rng, w_shape[0], w[0].size, "u8")
        nodes.append(conv_node(x_shape, w, numbers, **geometry))
    nodes += [product_node(*size) for size in ((1, 10, 64), (513, 900, 48), (3, 1001, 20000))]
    for node in nodes:
        ((kernel, row),) = lowered(node, VNNI).rows
        sample = choice.sample_of({k: v for k, v in row.items() if k not in OPERANDS})
        case = f"{row}"
        m = sample["batch"] * sample["out_height"] * sample["out_width"]
        taps = sample["kernel_h"] * sample["kernel_w"]
        tally.expect(case, m <= choice.MAX_ROWS and sample["n"] <= choice.MAX_COLUMNS, "large")
        macs = m * taps * sample["channels"] * sample["n"]
        tally.expect(case, macs <= choice.MAX_MACS or sample["channels"] <= 64, f"{macs} macs")
        for name, value in sample.items():
            tally.expect((case, name), 0 <= value <= max(row[name], 1), "grew")
        for name in ("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "x_pixel", "y_pixel"):
            tally.expect((case, name), sample[name] == row[name], "changed")
        tally.expect(case, _dense(kernel, row) == _dense(kernel, sample), "another walk")
        operands = dict.fromkeys(OPERANDS, 0)
        extents = {e.field: e.nbytes for e in kernel.extents(sample | operands)}
        whole = {e.field: e.nbytes for e in kernel.extents(row)}
        for name, nbytes in extents.items():
            tally.expect((case, name), 0 <= nbytes <= whole[name], "more bytes than the row")
    tally.finish()


def _dense(kernel: Kernel, row: dict[str, int]) -> bool:
    return bool(is_dense([0] * len(HEADER) + [row.get(name, 0) for name in kernel.fields]))


def usable() -> tuple[TileSpec, ...]:
    """The candidates of this CPU, two of them at least, or the test is skipped."""
    tiles = candidates(active_features())
    if len(tiles) == 1:
        pytest.skip(f"{tiles[0].family} has one tile")
    return tiles


def test_measuring(measuring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel gets a time; the second time it comes from the file, for this row only."""
    tiles = usable()
    kernels = [PRODUCTS[t, "u8"] for t in tiles]
    features = active_features()
    ((_, row),) = lowered(product_node(5, 70, 30), features).rows
    row = choice.sample_of({k: v for k, v in row.items() if k not in OPERANDS})
    first = measure.measured(kernels, row, features)
    assert first is not None and set(first) == {k.name for k in kernels}
    assert all(time > 0 for time in first.values())
    monkeypatch.setattr(measure, "_measure", lambda *args: None)
    assert measure.measured(kernels, row, features) == first
    assert measure.measured(kernels, row | {"n": 71}, features) is None
    assert [f.name for f in measuring.iterdir()] == [timings.FILE]


def test_measured_choices_have_the_same_bits(measuring: Path) -> None:
    usable()
    tally = Tally("measured choices", seed=602)
    rng = np.random.default_rng(tally.seed)
    for m, n, k in ((1, 100, 33), (5, 48, 64), (13, 70, 9), (30, 33, 20)):
        for epilogue in ("u8", "f32"):
            x = rng.integers(0, 256, (m, k), dtype=np.uint8)
            w = rng.integers(-128, 128, (k, n), dtype=np.int8)
            numbers = draw_numbers(rng, n, k, epilogue)
            want = numbers.finish(matmul_sums(x, w, numbers), axis=1)
            got, kernels = run(matmul_node(x.shape, w, numbers), x)
            tally.compare((m, n, k, epilogue), got, want, kernels)
    tally.finish()
    stored = json.loads((measuring / timings.FILE).read_text())["timings"]
    assert len(stored) == 8


def test_nothing_is_measured_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.delenv("QRT_MEASURE", raising=False)
    monkeypatch.setattr(choice, "measured", refuse)
    lowered(product_node(5, 20, 30), VNNI)


def kernels_and_key() -> tuple[list[str], str]:
    kernels = [PRODUCTS[t, "u8"] for t in candidates(VNNI)]
    target = target_for(active_features())
    return [k.name for k in kernels], timings.timing_key(kernels, target, {"n": 5})


DAMAGED = {
    "empty": b"",
    "cut": b'{"version": 1, "timings": {"a": ',
    "not JSON": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "another version": b'{"version": 2, "timings": {"KEY": {"A": 1, "B": 2}}}',
    "no timings": b'{"version": 1}',
    "timings are a list": b'{"version": 1, "timings": []}',
    "an entry is a number": b'{"version": 1, "timings": {"KEY": 3}}',
    "a time is text": b'{"version": 1, "timings": {"KEY": {"A": "1", "B": 2}}}',
    "a time is a float": b'{"version": 1, "timings": {"KEY": {"A": 1.5, "B": 2}}}',
    "a time is true": b'{"version": 1, "timings": {"KEY": {"A": true, "B": 2}}}',
    "a time is 0": b'{"version": 1, "timings": {"KEY": {"A": 0, "B": 2}}}',
    "a kernel is missing": b'{"version": 1, "timings": {"KEY": {"A": 1}}}',
    "a kernel too many": b'{"version": 1, "timings": {"KEY": {"A": 1, "B": 2, "c": 3}}}',
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files(what: str, measuring: Path) -> None:
    """Nothing is read, and the next write makes the file whole."""
    names, key = kernels_and_key()
    body = DAMAGED[what].replace(b"KEY", key.encode())
    for letter, name in zip((b'"A"', b'"B"'), names, strict=True):
        body = body.replace(letter, json.dumps(name).encode())
    (measuring / timings.FILE).write_bytes(body)
    assert timings.read_timing(key, names) is None
    times = {name: 7 + i for i, name in enumerate(names)}
    timings.write_timing(key, times)
    assert timings.read_timing(key, names) == times


def test_files_that_are_too_large(measuring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, key = kernels_and_key()
    timings.write_timing(key, dict.fromkeys(names, 1))
    monkeypatch.setattr(timings, "MAX_NBYTES", 10)
    assert timings.read_timing(key, names) is None


def test_the_oldest_entries_go(measuring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "MAX_ENTRIES", 3)
    for key in "abcda":
        timings.write_timing(key, {"k": 1})
    assert list(json.loads((measuring / timings.FILE).read_text())["timings"]) == ["c", "d", "a"]


@pytest.mark.parametrize("what", ["a file", "missing", "read-only"])
def test_folders_that_cannot_be_written(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    if what == "a file":
        folder.write_text("")
    elif what == "read-only":
        folder.mkdir()
        monkeypatch.setattr(os, "replace", _refuse)
    else:
        monkeypatch.setattr(timings.Path, "mkdir", _refuse)
    monkeypatch.setattr(timings, "cache_dir", lambda: folder)
    timings.write_timing("key", {"k": 1})
    assert timings.read_timing("key", ["k"]) is None
    assert what != "read-only" or list(folder.iterdir()) == []  # no temporary file is left


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise PermissionError("read-only")


def test_another_cpu_or_build_finds_nothing(
    measuring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, key = kernels_and_key()
    timings.write_timing(key, dict.fromkeys(names, 1))
    assert kernels_and_key()[1] == key
    with monkeypatch.context() as patch:
        patch.setattr(timings, "cpu_name", lambda: "another")
        assert kernels_and_key()[1] != key
    with monkeypatch.context() as patch:
        patch.setattr(timings, "kernel_digest", lambda kernel, target: "another build")
        assert kernels_and_key()[1] != key
    kernels = [PRODUCTS[t, "u8"] for t in candidates(VNNI)]
    assert timings.timing_key(kernels, target_for(active_features()), {"n": 6}) != key
    assert timings.cpu_name()
    assert set(FIELDS) >= set(OPERANDS)
