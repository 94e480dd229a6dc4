"""Products that find the range of their outputs, and those that make codes by it themselves.

Expected floats are those of `product_cases`; range, scale and codes are spelled out here.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product as combinations
from typing import Any

import numpy as np
import pytest
from product_cases import (
    Array,
    Numbers,
    Tally,
    conv_node,
    conv_sums,
    draw_numbers,
    forced,
    level_of,
    run,
    runnable,
)

from qrt.gemm.depthwise_table import DEPTHWISE_CODES, DepthwiseSpec
from qrt.gemm.ranges import HIGH_AT, LOW_AT
from qrt.gemm.table import CODES, TILES, TileSpec
from qrt.gemm.winograd_table import WINOGRAD
from qrt.ir import Node, Value
from qrt.ops import winograd
from qrt.ops.conv import infer

HIGHEST = np.float32(6)
NAMES = ("strides", "pads", "dilations", "group")
# x, w, geometry: a last tile of few rows and columns, pads, a product of one pixel, groups
CONVS: tuple[tuple[tuple[int, ...], tuple[int, ...], Any], ...] = (
    ((1, 9, 5, 7), (37, 9, 1, 1), ((1, 1), (0, 0, 0, 0), (1, 1), 1)),
    ((2, 6, 4, 5), (10, 3, 3, 2), ((2, 1), (1, 1, 1, 0), (1, 1), 2)),
    ((1, 16, 1, 1), (70, 16, 1, 1), ((1, 1), (0, 0, 0, 0), (1, 1), 1)),
)
DEPTHWISES: tuple[tuple[tuple[int, ...], tuple[int, ...], Any], ...] = (
    ((1, 37, 5, 7), (37, 1, 3, 3), ((1, 1), (1, 1, 1, 1), (1, 1), 37)),
    ((2, 70, 6, 5), (70, 1, 5, 5), ((2, 2), (2, 2, 2, 2), (1, 1), 70)),
    ((1, 5, 9, 4), (5, 1, 2, 4), ((1, 2), (0, 1, 2, 3), (2, 1), 5)),
)
# factor of the floats: beyond HIGHEST, below it (the guess is wrong), nothing positive, past int32
SPREADS = (3e-3, 2e-5, -1e-4, 1e35)


# of what one generator makes: with fused multiply-adds and without them; and by hand
FAMILIES = ("vnni512", "madd256", "neon", "dotprod", "i8mm", "portable")


def here(table: Any) -> list[Any]:
    """The rows of FAMILIES that run here, one of each."""
    rows = {row.family: row for row in table if row.family in FAMILIES}
    return [row for row in rows.values() if runnable(row.features, row.family)]


def drawn(
    rng: np.random.Generator, w: tuple[int, ...], spread: float
) -> tuple[Array, Numbers]:
    """Weights, and numbers whose floats are about `spread` times the sums."""
    numbers = draw_numbers(rng, w[0], int(np.prod(w[1:])), "f32", weight_zero_points=w[1] > 1)
    scale = numbers.scale * np.float32(abs(spread))
    bias = np.full(w[0], -1e4 if spread < 0 else 0, np.float32)
    return (
        rng.integers(-128, 128, w, dtype=np.int8),
        replace(numbers, scale=scale.astype(np.float32), float_bias=bias),
    )


def node_of(x: Any, w: Array, numbers: Numbers, geometry: Any, **attrs: Any) -> Node:
    """qrt.Conv with all its outputs."""
    node = conv_node(x, w, numbers, **dict(zip(NAMES, geometry, strict=True)))
    node.attrs |= attrs
    layout = node.outputs[0].layout
    node.outputs = [
        Value(f"y{i}", np.dtype(dtype), tuple(shape), layout=None if i else layout)
        for i, (shape, dtype) in enumerate(infer(node))
    ]
    return node


def quantized(y: Array) -> list[Array]:
    """DynamicQuantizeLinear of clip(y, 0, HIGHEST)."""
    most = np.clip(y, 0, HIGHEST).max(initial=0).astype(np.float32)
    scale = np.float32(most / np.float32(255)) if most > 0 else np.float32(1)
    codes = np.clip(np.rint(np.clip(y, 0, HIGHEST) / scale), 0, 255)
    return [codes.astype(np.uint8), np.asarray(scale), np.asarray(0, np.uint8)]


def compare(tally: Tally, seed: int, case: Any, level: str, threads: int, expect: str) -> None:
    """Codes by every kind of guess, and floats with their range."""
    x_shape, w_shape, geometry = case
    rng = np.random.default_rng(seed)
    for spread in SPREADS:
        x = rng.integers(0, 256, x_shape, dtype=np.uint8)
        w, numbers = drawn(rng, w_shape, spread)
        node = node_of(x.shape, w, numbers, geometry, highest=HIGHEST)
        out = node.outputs[0].static_shape[2:]
        with np.errstate(over="ignore"):
            y = numbers.finish(conv_sums(x, w, numbers, *geometry, out), axis=1)
        got, kernels = run(node, x, level, threads, seed, outputs=3)
        what = (x_shape, w_shape, spread, threads)
        for name, a, b in zip(("codes", "scale", "zero"), got, quantized(y), strict=True):
            tally.compare((*what, name), a, b, kernels)
        tally.expect(what, kernels.count(expect + CODES) == 2, f"ran {kernels}, not {expect}")
        if spread < 1:
            node = node_of(x.shape, w, numbers, geometry, ranged=True)
            got, kernels = run(node, x, level, threads, seed, outputs=2)
            check_range(tally, what, got, y)
            tally.expect(what, expect + "f32" in kernels, f"ran {kernels}, not {expect}")


def check_range(tally: Tally, what: object, got: list[Array], y: Array) -> None:
    """Floats as ever, and their range in the records of some threads."""
    tally.compare(what, got[0], y)
    records = got[1].reshape(-1, got[1].shape[-1])
    for at, most, want in ((LOW_AT, np.min, min(y.min(), 0)), (HIGH_AT, np.max, max(y.max(), 0))):
        ends = records[:, at : at + 64].copy().view(np.float32)
        tally.compare((what, at), np.asarray(most(ends)), np.asarray(want, np.float32))


@pytest.mark.parametrize("tile", here(TILES), ids=lambda t: t.family)
def test_products(tile: TileSpec) -> None:
    tally = Tally(tile.family, seed=71)
    with forced(tile, threads_always=True):
        for i, (case, threads) in enumerate(combinations(CONVS, (1, 3))):
            expect = tile.kernel_name("")
            compare(tally, tally.seed + i, case, level_of(tile.features), threads, expect)
    tally.finish()


@pytest.mark.parametrize("spec", here(DEPTHWISE_CODES), ids=lambda s: s.family)
def test_depthwise(spec: DepthwiseSpec) -> None:
    tally = Tally(spec.family, seed=72)
    with forced(None, threads_always=True):
        for i, (case, threads) in enumerate(combinations(DEPTHWISES, (1, 3))):
            expect = spec.kernel_name.removesuffix(CODES)
            compare(tally, tally.seed + i, case, level_of(spec.features), threads, expect)
    tally.finish()


def test_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles at the edges compute outputs that are none: they are not in the range."""
    spec = next((s for s in WINOGRAD if runnable(s.features, s.tile.family)), None)
    if spec is None:
        pytest.skip("no Winograd here")
    monkeypatch.setattr(winograd, "select_winograd", lambda *args: spec)
    tally = Tally("winograd", seed=73)
    rng = np.random.default_rng(tally.seed)
    geometry = ((1, 1), (1, 1, 1, 1), (1, 1), 1)
    for threads, bias in combinations((1, 2), (-1e4, 1e4)):
        x = rng.integers(0, 256, (1, 20, 9, 6), dtype=np.uint8)
        w, numbers = drawn(rng, (33, 20, 3, 3), 1e-4)
        numbers = replace(numbers, float_bias=np.full(33, bias, np.float32))
        node = node_of(x.shape, w, numbers, geometry, ranged=True)
        y = numbers.finish(conv_sums(x, w, numbers, *geometry, (9, 6)), axis=1)
        got, kernels = run(node, x, level_of(spec.features), threads, tally.seed, outputs=2)
        check_range(tally, (threads, bias), got, y)
        tally.expect(threads, spec.kernel_name("f32") in kernels, f"ran {kernels}")
    tally.finish()
