"""Grids of arrays: worked examples to the digit, and properties that every grid must have."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qrt
from qrt.errors import QuantizationError
from qrt.ir import QParams
from qrt.quant import (
    FORMATS,
    NF4,
    QuantizedArray,
    additive_powers_of_two,
    choose_qparams,
    dequantize,
    error_report,
    fake_quantize,
    fake_quantize_gradient,
    gather_nodes,
    kmeans,
    lsq,
    lsq_gradient,
    nearest,
    nf4,
    pack,
    powers_of_two,
    quantize,
    quantize_array,
    simple_scaling,
    to_float,
    unpack,
)
from qrt.quant.affine import spread_over

Array = np.ndarray[Any, Any]
TEXTBOOK = np.array([-10.0, -5.0, 0.0, 5.0, 10.0])

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
ARRAYS = arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(0, 9)), elements=FLOATS)
GRIDS = st.fixed_dictionaries(
    {
        "bits": st.integers(2, 16),
        "symmetric": st.booleans(),
        "axis": st.sampled_from([None, 0, 1, -1]),
    }
)


def test_scale_2_zero_point_0_code_10_is_20() -> None:
    q = QParams(np.float32(2).reshape(()), np.zeros((), np.int8), np.dtype(np.int8))
    assert dequantize(np.array(10, np.int8), q) == 20


def test_simple_scaling_comes_out_as_in_the_textbooks() -> None:
    simple = simple_scaling(TEXTBOOK)
    assert simple.qparams.scale == np.float32(20 / 255)
    assert simple.q.tolist() == [-127, -64, 0, 64, 127]
    assert np.round(simple.dequantize(), 4).tolist() == pytest.approx(
        [-9.9608, -5.0196, 0, 5.0196, 9.9608], abs=1e-6
    )
    report = error_report(TEXTBOOK, simple)
    assert np.round(report.absolute, 4).tolist() == [0.0392, 0.0196, 0, 0.0196, 0.0392]
    assert np.round(report.percentage, 4).tolist() == [-0.3922, -0.3922, 0, 0.3922, 0.3922]


def test_simple_scaling_clips_what_is_not_symmetric_and_the_affine_grid_does_not() -> None:
    x = np.linspace(0, 10, 101)
    simple, affine = error_report(x, simple_scaling(x)), error_report(x, quantize_array(x))
    # 127 steps of 10 / 255 end at 4.98: all beyond 5.0 is clipped
    assert simple.clipped == pytest.approx(np.mean(x > 5.0))
    assert simple.max_absolute == pytest.approx(10 - 127 * 10 / 255, rel=1e-6)
    assert affine.clipped == 0
    assert affine.max_absolute <= 10 / 255 / 2 * 1.0001


@pytest.mark.parametrize(
    ("x", "options", "scale", "zero_point"),
    [
        # (r_max - r_min) / (q_max - q_min), round(q_min - r_min / s)
        ([-1.0, 3.0], {}, 4 / 255, 64),
        ([-1.0, 3.0], {"signed": True}, 4 / 255, -64),
        ([-1.0, 3.0], {"bits": 4}, 4 / 15, 4),
        ([-1.0, 3.0], {"symmetric": True}, 3 / 127, 0),
        ([-1.0, 3.0], {"symmetric": True, "bits": 4}, 3 / 7, 0),
        ([0.0, 3.0], {"symmetric": True, "signed": False}, 3 / 255, 0),
        ([2.0, 3.0], {}, 3 / 255, 0),  # widened to hold 0
        ([-3.0, -2.0], {}, 3 / 255, 255),
        ([5.0, 5.0], {}, 5 / 255, 0),
        ([0.0, 0.0], {}, 1.0, 0),
        ([], {}, 1.0, 0),
    ],
)
def test_qparams_by_the_formulas(
    x: list[float], options: dict[str, Any], scale: float, zero_point: int
) -> None:
    q = choose_qparams(np.array(x), **options)
    assert q.scale == np.float32(scale)
    assert q.zero_point == zero_point


def _steps(q: QParams, shape: tuple[int, ...]) -> Array:
    """The grid's step at every element."""
    wide = dequantize(np.full(shape, 1, q.dtype), q).astype(np.float64)
    return wide - dequantize(np.full(shape, 0, q.dtype), q)


@settings(max_examples=300, deadline=None)
@given(ARRAYS, GRIDS, st.sampled_from([None, 1, 2, 3, 32]))
def test_round_trip_is_within_half_a_step_and_idempotent(
    x: Array, grid: dict[str, Any], block_size: int | None
) -> None:
    if grid["axis"] is not None:
        grid = {**grid, "block_size": block_size}
    quantized = quantize_array(x, **grid)
    q = quantized.qparams
    assert quantized.q.min(initial=0) >= q.qmin
    assert quantized.q.max(initial=0) <= q.qmax
    back = quantized.dequantize()
    # a float32 product or quotient of up to 2**16 steps is a 2**-7 of a step off
    steps = _steps(q, x.shape)
    assert (np.abs(back.astype(np.float64) - x) <= steps * (0.5 + 2**-6)).all()
    assert (back[x == 0] == 0).all()
    assert np.array_equal(quantize(back, q), quantized.q)


@settings(max_examples=200, deadline=None)
@given(ARRAYS, GRIDS, st.sampled_from([None, 1, 2, 3, 32]))
def test_quantization_is_monotone_within_each_grid(
    x: Array, grid: dict[str, Any], block_size: int | None
) -> None:
    if grid["axis"] is not None:
        grid = {**grid, "block_size": block_size}
    q = choose_qparams(x, **grid)
    codes = quantize(x, q).astype(np.int64).reshape(-1)
    numbers = np.arange(q.scale.size).reshape(q.scale.shape)
    which = np.broadcast_to(spread_over(numbers, x.shape, q), x.shape).reshape(-1)
    order = np.lexsort((x.reshape(-1), which))  # by value, grid by grid
    is_one_grid = np.diff(which[order]) == 0
    assert (np.diff(codes[order])[is_one_grid] >= 0).all()


TABLES = {
    "nf4": lambda x: nf4(x, 8),
    "nf4 in one": lambda x: nf4(x, None),
    "powers of two": lambda x: nearest(x, powers_of_two(4), scaled=True),
    "additive": lambda x: nearest(x, additive_powers_of_two(5, 2), scaled=True),
    "k-means": lambda x: kmeans(x, 4),
}
# far from where float32 products lose bits
MODEST = st.floats(-(2.0**60), 2.0**60, width=32).map(lambda v: v if abs(v) > 2.0**-60 else 0.0)


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 20)), elements=MODEST))
def test_codebooks_take_the_nearest_entry(name: str, x: Array) -> None:
    book = TABLES[name](x)
    back = book.dequantize()
    scale = book._spread_scale()
    values = book.entries.astype(np.float64) * np.broadcast_to(scale, x.shape)[..., None]
    errors = np.abs(values - x[..., None])
    slack = 1e-6 * np.abs(values).max(axis=-1)  # entries times scale, rounded to float32
    assert (np.abs(back.astype(np.float64) - x) <= errors.min(axis=-1) + slack).all()
    # so at most half of the gap that a value lies in, inside the table
    order = np.argsort(x, axis=1)
    if book.scale.ndim == 0:
        assert (np.diff(np.take_along_axis(book.q.astype(int), order, 1), axis=1) >= 0).all()
        again = nearest(back, values[0, 0].astype(np.float32))
        assert np.array_equal(again.dequantize(), back)
    if 0 in book.entries:
        assert (back[x == 0] == 0).all()
    if name != "k-means":  # the largest has an entry of its own: the scale stays
        assert np.array_equal(TABLES[name](back).dequantize(), back)


def test_channels_and_blocks_are_grids_of_their_own() -> None:
    x = np.random.default_rng(0).standard_normal((3, 70)).astype(np.float32) * [[1], [10], [100]]
    per_channel = quantize_array(x, axis=0, symmetric=True)
    for row, codes in zip(x, per_channel.q, strict=True):
        assert np.array_equal(quantize_array(row, symmetric=True).q, codes)
    blocks = quantize_array(x, 4, axis=1, block_size=32)
    assert blocks.qparams.scale.shape == (3, 3)
    for first in (0, 32, 64):  # the last block has 6
        alone = quantize_array(x[1:2, first : first + 32], 4)
        assert np.array_equal(alone.q, blocks.q[1:2, first : first + 32])


@pytest.mark.parametrize("bits", range(2, 17))
def test_packing_is_a_stream_of_bits(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for dtype, low in ((np.int16, -(1 << bits - 1)), (np.uint16, 0)):
        q = rng.integers(low, low + (1 << bits), (3, 7), dtype=np.int32).astype(dtype)
        packed = pack(q, bits)
        assert packed.size == -(-21 * bits // 8)
        text = "".join(format(byte, "08b")[::-1] for byte in packed)
        third = text[2 * bits : 3 * bits][::-1]
        assert int(third, 2) == int(q.reshape(-1)[2]) & ((1 << bits) - 1)
        assert np.array_equal(unpack(packed, bits, (3, 7), dtype), q)


def test_four_bits_are_packed_as_onnx_does() -> None:
    q = np.array([-8, 7, 1, -1, 5], np.int8)
    tensor = numpy_helper.from_array(q.astype(ml_dtypes.int4))
    assert pack(q, 4).tobytes() == tensor.raw_data


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: choose_qparams([1.0, np.nan]), "1 of 2 values are not finite; the first, at [1]"),
        (lambda: choose_qparams([[1.0, -np.inf]]), "at [0, 1], is -inf"),
        (lambda: choose_qparams(["a"]), "real numbers are needed"),
        (lambda: choose_qparams([1.0], 1), "bits must be 2 to 16, got 1"),
        (lambda: choose_qparams([1.0], 17), "got 17"),
        (lambda: choose_qparams([1.0], axis=1), "axis 1 is not one of 1 axes"),
        (lambda: choose_qparams([1.0], block_size=2), "a block needs an axis"),
        (lambda: choose_qparams([1.0], axis=0, block_size=0), "at least 1 element"),
        (lambda: choose_qparams([-1.0], symmetric=True, signed=False), "no negative values"),
        (lambda: simple_scaling([np.inf]), "not finite"),
        (lambda: pack(np.array([8], np.int8), 4), "integers of 4 bits are -8 to 7, got 8 to 8"),
        (lambda: pack(np.array([1.5]), 4), "got float64"),
        (lambda: unpack(np.zeros(2, np.uint8), 4, (5,), np.uint8), "take 3 bytes"),
        (lambda: kmeans([1.0], 0), "1 to 65536 entries"),
        (lambda: kmeans([1.0], weights=[-1.0]), "must not be negative"),
        (lambda: nearest([1.0], []), "at least one entry"),
        (lambda: nf4([1.0], 0), "at least 1 element"),
        (lambda: additive_powers_of_two(4, 2), "do not divide"),
        (lambda: to_float([1.0], "float9"), "a format is one of"),
        (lambda: lsq(np.ones(1), 0.0), "a scale must be positive"),
        (lambda: lsq_gradient(np.ones(2), 1.0, np.ones(3)), "shape of its tensor"),
        (lambda: error_report([1.0], np.ones(2)), "must have one shape"),
    ],
)
def test_what_has_no_meaning_is_refused(call: Any, says: str) -> None:
    with pytest.raises(QuantizationError) as raised:
        call()
    assert says in str(raised.value)


@pytest.mark.parametrize("name", FORMATS)
def test_float_formats_round_to_the_nearest_and_saturate(name: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, name, None) or name)
    x = np.random.default_rng(1).standard_normal(1000).astype(np.float32) * 300
    small = to_float(x, name)
    largest = float(ml_dtypes.finfo(kind).max)
    want = np.clip(x / small.scale, -largest, largest).astype(kind)
    assert np.array_equal(small.q.astype(np.float32), want.astype(np.float32))
    assert np.isfinite(small.dequantize()).all()
    far = to_float([1e30, -1e30, 1.0], name, scaled=False)
    assert far.q.astype(np.float64)[0] == (largest if largest < 1e30 else far.q[0])
    assert error_report(x, small).clipped == 0


def test_kmeans_finds_the_clusters_and_its_error_is_a_local_minimum() -> None:
    rng = np.random.default_rng(2)
    centers = np.array([-7.0, -1.0, 0.5, 9.0])
    x = (centers[rng.integers(0, 4, 4000)] + rng.normal(0, 0.05, 4000)).astype(np.float32)
    book = kmeans(x, 4)
    assert np.abs(book.entries - centers).max() < 0.02
    distance = np.abs(x[:, None] - book.entries)
    assert np.array_equal(book.q, distance.argmin(axis=1))
    for entry in range(4):
        assert book.entries[entry] == pytest.approx(x[book.q == entry].mean(), abs=1e-4)


def test_kmeans_weighs_errors_and_keeps_few_values_exactly() -> None:
    x = np.array([0.0, 1.0, 10.0, 11.0], np.float32)
    book = kmeans(x, 2, weights=np.array([1.0, 3.0, 1.0, 1.0]))
    assert book.entries.tolist() == [0.75, 10.5]
    exact = kmeans(x, 4)
    assert np.array_equal(exact.dequantize(), x)
    assert exact.bits == 2


def test_tables_of_powers_of_two() -> None:
    assert powers_of_two(3).tolist() == [-1, -0.5, -0.25, 0, 0.25, 0.5, 1]
    # Li et al. 2020: two terms of 1 bit: {0, 1} + {0, 1/2}, over their largest, 1.5
    assert additive_powers_of_two(3, 2) == pytest.approx([-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1])
    assert additive_powers_of_two(5, 2).size == 31


def test_nf4_scales_each_block_by_its_largest() -> None:
    x = np.random.default_rng(3).standard_normal((2, 100)).astype(np.float32)
    book = nf4(x, 64)
    assert book.scale.shape == (2, 2)
    assert book.scale[1, 1] == np.abs(x[1, 64:]).max()
    back = book.dequantize()
    stretched = x[0, :64] / book.scale[0, 0]
    want = NF4[np.abs(stretched[:, None] - NF4).argmin(axis=1)] * book.scale[0, 0]
    assert np.array_equal(back[0, :64], want.astype(np.float32))
    assert book.nbytes == 100 + 64 + 16


@pytest.mark.parametrize("make", [lambda x: kmeans(x, 16), lambda x: nf4(x, 32)])
def test_a_codebook_runs_in_a_graph(make: Any) -> None:
    w = np.random.default_rng(4).standard_normal((64, 8)).astype(np.float32)
    book = make(w.T.copy())
    nodes, initializers = gather_nodes(book, "w")
    nodes.append(helper.make_node("Gemm", ["x", "w"], ["y"], transB=1))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in (("x", (3, 64)), ("y", (3, 8)))]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    x = np.random.default_rng(5).standard_normal((3, 64)).astype(np.float32)
    want = x @ book.dequantize().T
    (reference,) = ReferenceEvaluator(model).run(None, {"x": x})
    (got,) = qrt.load(model).run(None, {"x": x})
    assert np.allclose(reference, want, rtol=1e-5, atol=1e-5)
    assert np.allclose(got, want, rtol=1e-5, atol=1e-5)


def test_blocks_that_do_not_fill_the_axis_have_no_graph() -> None:
    with pytest.raises(QuantizationError, match="do not fill axis 1"):
        gather_nodes(nf4(np.ones((2, 50), np.float32), 32), "w")


def test_fake_quantization_passes_gradients_inside_the_grid() -> None:
    x = np.array([-3.0, -1.0, 0.2, 1.1, 5.0], np.float32)
    q = choose_qparams(np.array([-1.0, 1.1]), 8, symmetric=True)
    assert np.array_equal(fake_quantize(x, q), dequantize(quantize(x, q), q))
    up = np.arange(1, 6).astype(np.float32)
    assert fake_quantize_gradient(x, q, up).tolist() == [0, 2, 3, 4, 0]


def test_the_gradient_of_a_learned_scale_is_that_of_the_paper() -> None:
    x, scale, bits = np.array([-9.0, -0.8, 0.3, 0.6, 40.0]), 0.5, 4
    by_x, by_scale = lsq_gradient(x, scale, np.ones(5), bits)
    # -8 and 7 where clipped, else round(v) - v: v is -1.6, 0.6, 1.2
    slope = -8 + (-2 + 1.6) + (1 - 0.6) + (1 - 1.2) + 7
    assert by_scale == pytest.approx(slope / np.sqrt(5 * 7))
    assert by_x.tolist() == [0, 1, 1, 1, 0]
    # where nothing rounds, the scale's slope is that of the clipped ends
    step = 1e-3
    ends = np.array([-9.0, 40.0])
    rise = (lsq(ends, scale + step, bits).sum() - lsq(ends, scale - step, bits).sum()) / (2 * step)
    assert rise == pytest.approx(-8 + 7, abs=1e-3)


def test_a_report_says_what_happened() -> None:
    x = np.random.default_rng(6).standard_normal(10_000).astype(np.float32)
    report = error_report(x, quantize_array(x, symmetric=True))
    noise = report.x - report.back
    assert report.sqnr == pytest.approx(10 * np.log10((report.x**2).sum() / (noise**2).sum()))
    step = np.abs(x).max() / 127
    assert report.mse == pytest.approx(step**2 / 12, rel=0.05)  # uniform noise
    assert report.nbytes_before == 40_000
    assert report.nbytes_after == 10_004
    text = str(report)
    assert "SQNR" in text
    assert "40000 -> 10004 (4.00x smaller)" in text
    assert error_report(x, x.copy()).sqnr == np.inf
    assert error_report(np.zeros(3), np.zeros(3)).cosine == 1


def test_bytes_count_packed_integers_scales_and_zero_points() -> None:
    x = np.random.default_rng(7).standard_normal((4, 64)).astype(np.float32)
    assert quantize_array(x, 4, symmetric=True, axis=1, block_size=32).nbytes == 128 + 8 * 4
    assert quantize_array(x, 4, axis=1, block_size=32).nbytes == 128 + 8 * 4 + 4
    assert isinstance(quantize_array(x), QuantizedArray)
    assert quantize_array(x, 3).packed().size == 96


def test_plots_appear_whole(tmp_path: Path) -> None:
    x = np.random.default_rng(8).standard_normal(500)
    report = error_report(x, quantize_array(x, 4))
    report.plot(tmp_path / "grid.html")
    page = (tmp_path / "grid.html").read_text()
    assert page.count("<line") == np.unique(report.back).size
    assert "SQNR" in page
    assert "src=" not in page
    for odd in (np.zeros(3), np.full(3, 5e20), np.zeros(0)):  # nothing to spread bins over
        error_report(odd, quantize_array(odd)).plot(tmp_path / "grid.html")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    report.plot(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(QuantizationError, match=r"\.html or \.png"):
        report.plot(tmp_path / "grid.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid.html", "grid.png"]


def test_the_examples_of_the_documentation_come_out() -> None:
    path = Path(__file__).resolve().parent.parent / "docs" / "quantization.md"
    result = doctest.testfile(str(path), module_relative=False)
    assert result.attempted >= 15
    assert result.failed == 0
