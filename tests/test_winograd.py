"""Every row of the table of Winograd convolutions equals gathered windows bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product as combinations
from typing import Any

import numpy as np
import pytest
from product_cases import (
    Array,
    Numbers,
    ProductBench,
    Tally,
    conv_node,
    conv_sums,
    draw_numbers,
    level_of,
    level_or_skip,
    run,
    runnable,
)

from qrt.errors import QrtError
from qrt.gemm import winograd as matrices
from qrt.gemm.table import EPILOGUES
from qrt.gemm.winograd_table import WINOGRAD, WinogradSpec, pack_winograd
from qrt.ops import conv, winograd

ROWS = [
    pytest.param(spec, epilogue, id=spec.kernel_name(epilogue))
    for spec, epilogue in combinations(WINOGRAD, EPILOGUES)
]
SAME = (1, 1, 1, 1)


def name_or_skip(spec: WinogradSpec, epilogue: str) -> str:
    """The row's kernel name, where it can run."""
    name = spec.kernel_name(epilogue)
    level_or_skip(spec.features, name)
    return name


@contextmanager
def always(spec: WinogradSpec, l2_nbytes: int | None = None) -> Iterator[None]:
    """Winograd by `spec` wherever it is exact, in blocks that fill `l2_nbytes`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QRT_WINOGRAD", "always")
        patch.setattr(winograd, "WINOGRAD", (spec,))
        if l2_nbytes is not None:
            patch.setenv("QRT_CACHE_SIZES", f"32K,{l2_nbytes},0")
        yield


def compare(
    tally: Tally, case: object, x: Array, w: Array, numbers: Numbers, pads: tuple[int, ...],
    spec: WinogradSpec, threads: int = 1, l2_nbytes: int | None = None,
) -> None:  # fmt: skip
    """Run a convolution of x (batch, c, h, w) and w (n, c, 3, 3) by `spec`."""
    node = conv_node(x.shape, w, numbers, strides=(1, 1), pads=pads, dilations=(1, 1), group=1)
    out = node.outputs[0].static_shape[2:]
    sums = conv_sums(x, w, numbers, (1, 1), pads, (1, 1), 1, out)
    want = numbers.finish(sums, axis=1)
    with always(spec, l2_nbytes):
        got, kernels = run(node, x, level_of(spec.features), threads, tally.seed)
    tally.compare(case, got, want, kernels)
    epilogue = "sums" if numbers.sums else "f32" if numbers.y_scale is None else "u8"
    expect = spec.kernel_name(epilogue)
    tally.expect(case, expect in kernels, f"ran {kernels}, not {expect}")


def drawn(
    rng: np.random.Generator, batch: int, c: int, n: int, size: tuple[int, int], epilogue: str,
    **kwargs: Any,
) -> tuple[Array, Array, Numbers]:  # fmt: skip
    """x, w and numbers."""
    x = rng.integers(0, 256, (batch, c, *size), dtype=np.uint8)
    w = rng.integers(-128, 128, (n, c, 3, 3), dtype=np.int8)
    return x, w, draw_numbers(rng, n, 9 * c, epilogue, **kwargs)


def test_the_matrices() -> None:
    """The equation of `winograd.py`, in Python's integers; its factors fit int16."""
    rng = np.random.default_rng(701)
    left, kernel, right = (
        np.array(m, object) for m in (matrices.INPUT, matrices.KERNEL, matrices.OUTPUT)
    )
    powers = np.array([[2 ** (a + b) for b in matrices.EXPONENTS] for a in matrices.EXPONENTS])
    for _ in range(50):
        d = rng.integers(0, 256, (6, 6)).astype(object)
        g = rng.integers(-255, 256, (3, 3)).astype(object)
        y = np.array([[(d[a : a + 3, b : b + 3] * g).sum() for b in range(4)] for a in range(4)])
        m = (kernel @ g @ kernel.T) * (left @ d @ left.T)
        assert (right @ m @ right.T == 9 * powers * y).all()
        # what is added at BIAS_POSITION is added to each output
        m.reshape(-1)[matrices.BIAS_POSITION] += matrices.BIAS_FACTOR
        assert (right @ m @ right.T == 9 * powers * (y + 1)).all()
    assert matrices.INVERSE_9 * 9 % 2**32 == 1
    assert powers.max() * matrices.LIMIT == 2**31
    outer = np.einsum("ai,bj->abij", left, left).reshape(36, 36)
    inputs = max(np.maximum(outer, 0).sum(1).max(), np.maximum(-outer, 0).sum(1).max()) * 255
    weights = np.abs(np.einsum("ai,bj->abij", kernel, kernel).reshape(36, 9)).sum(1).max() * 255
    assert inputs == 17340 and weights == 12495
    assert 2 * inputs * weights < 2**31
    extremes = np.where(rng.random((20, 3, 3, 3)) < 0.5, -255, 255)
    exact = np.einsum("ai,ncij,bj->abnc", kernel, extremes.astype(object), kernel)
    assert (matrices.transform_weights(extremes) == exact.reshape(36, 20, 3)).all()


def test_packing() -> None:
    """A ramp can be read off: panel, position, pair, column, channel."""
    for spec in WINOGRAD:
        nr, narrow = spec.tile.nr, spec.tile.widths[-1] * spec.tile.lanes
        n, channels = nr + 1, 5
        w = np.arange(n * channels * 9).reshape(n, channels, 3, 3) % 251 - 125
        transformed = matrices.transform_weights(w)
        packed = pack_winograd(w, spec).view(np.int16)
        at = 0
        for first, width in ((0, nr), (nr, narrow)):
            for position, pair, column, k in np.ndindex(36, 3, width, 2):
                c, o = 2 * pair + k, first + column
                want = transformed[position, o, c] if c < channels and o < n else 0
                assert packed[at] == want, (spec, position, o, c)
                at += 1
        assert at == packed.size


@pytest.mark.parametrize("spec, epilogue", ROWS)
def test_sizes(spec: WinogradSpec, epilogue: str) -> None:
    """Maps around tiles, channels around vectors and pairs, columns around panels."""
    name = name_or_skip(spec, epilogue)
    tally = Tally(name, seed=702)
    rng = np.random.default_rng(tally.seed)
    lanes, nr = spec.tile.lanes, spec.tile.nr
    sizes = [(h, w) for h, w in combinations(range(1, 10), repeat=2) if (h + w) % 3 == 0 or h == w]
    channels = (1, 2, 3, 4, 2 * lanes - 1, 2 * lanes, 2 * lanes + 1, 67)
    columns = sorted({1, lanes - 1, lanes, lanes + 1, nr - 1, nr, nr + 1, 2 * nr + 3, 83})
    for size, c, n in (
        *combinations(sizes, (3,), (lanes + 1,)),
        *combinations(((5, 7),), channels, columns),
        *combinations(((13, 2), (2, 13), (14, 14), (17, 23)), (19,), (5, nr + 1)),
    ):
        x, w, numbers = drawn(rng, 1, c, n, size, epilogue)
        compare(tally, (size, c, n), x, w, numbers, SAME, spec)
    tally.finish()


@pytest.mark.parametrize("spec, epilogue", ROWS)
def test_random_geometry(spec: WinogradSpec, epilogue: str) -> None:
    """Any pads, also ones wider than a tile, batches, threads, blocks, weight zero points."""
    name = name_or_skip(spec, epilogue)
    tally = Tally(name, seed=703)
    rng = np.random.default_rng(tally.seed)
    for i in range(120):
        pads = tuple(int(v) for v in rng.integers(0, 4 if i % 4 else 9, 4))
        size = tuple(int(v) for v in rng.integers(1, 18, 2))
        if min(size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3]) < 3:
            continue
        batch, threads = int(rng.integers(1, 4)), int(rng.integers(1, 5))
        c, n = int(rng.integers(1, 80)), int(rng.integers(1, 150))
        x, w, numbers = drawn(
            rng, batch, c, n, (size[0], size[1]), epilogue, weight_zero_points=i % 3 == 0
        )
        case = f"x {x.shape} n {n} pads {pads}, {threads} threads"
        l2_nbytes = (1, 200_000, None)[i % 3]
        compare(tally, case, x, w, numbers, pads, spec, threads, l2_nbytes)
    tally.finish()


@pytest.mark.parametrize("spec, epilogue", ROWS)
def test_extremes(spec: WinogradSpec, epilogue: str) -> None:
    """All 0 or 255 times all -128 or 127, and the signs that transform to the largest factors;
    zero points at both ends; sums that pass int16, and int32 before the output transform."""
    name = name_or_skip(spec, epilogue)
    tally = Tally(name, seed=704)
    rng = np.random.default_rng(tally.seed)
    outer = np.einsum("ai,bj->abij", matrices.INPUT, matrices.INPUT)
    pieces = [np.where(o > 0, 255, 0) for o in outer.reshape(36, 6, 6)]
    signs = np.einsum("ai,bj->abij", matrices.KERNEL, matrices.KERNEL).reshape(36, 3, 3)
    c, n = 101, 36
    for x_zero_point, y_zero_point, w_zero_point in combinations(
        (0, 128, 255), (0, 255), (0, -128)
    ):
        base = draw_numbers(rng, n, 9 * c, "u8")
        numbers = replace(
            base, x_zero_point=x_zero_point, y_zero_point=y_zero_point, y_scale=9 * c * 128.0,
            w_zero_point=np.full(n, w_zero_point, np.int32),
        )  # fmt: skip
        if epilogue != "u8":
            numbers = replace(numbers, y_scale=None)
        few = 50 if w_zero_point else c  # weights of nine bits: the sums reach twice as far
        for x_value, w_value in combinations((0, 255), (-128, 127)):
            x = np.full((1, few, 9, 6), x_value, np.uint8)
            w = np.full((n, few, 3, 3), w_value, np.int8)
            case = (x_value, w_value, x_zero_point, y_zero_point, w_zero_point)
            compare(tally, case, x, w, numbers, SAME, spec)
        for inverse in (0, 255):
            x = np.stack([np.tile(np.abs(inverse - p), (2, 2)) for p in pieces[:: 36 // 6]])
            x = np.repeat(x, 9, 0)[None, :few].astype(np.uint8)
            w = np.where(signs[:, None] >= 0, 127, -128).repeat(x.shape[1], 1).astype(np.int8)
            compare(tally, ("signs", inverse), x, w, numbers, (0, 0, 0, 0), spec)
    tally.finish()


@pytest.mark.parametrize("spec, epilogue", ROWS)
def test_the_limit(spec: WinogradSpec, epilogue: str) -> None:
    """Sums up to LIMIT - 1 are exact, on both sides; one more, and the product runs directly."""
    name = name_or_skip(spec, epilogue)
    tally = Tally(name, seed=705)
    c, n = 114, 3
    furthest = 9 * c * 255 * 127
    for sign, beyond in combinations((1, -1), (0, 1)):
        bias = sign * (matrices.LIMIT - 1 - furthest + beyond)
        x = np.full((1, c, 6, 7), 255, np.uint8)
        x[0, :, 3] = 0
        w = np.full((n, c, 3, 3), 127 * sign, np.int8)
        numbers = Numbers(
            np.ones(n, np.float32), 2.0**18 if epilogue == "u8" else None, 0, 128,
            bias=np.full(n, bias, np.int32), sums=epilogue == "sums",
        )  # fmt: skip
        node = conv_node(x.shape, w, numbers, strides=(1, 1), pads=SAME, dilations=(1, 1), group=1)
        sums = conv_sums(x, w, numbers, (1, 1), SAME, (1, 1), 1, (6, 7))
        assert np.abs(sums + bias).max() == matrices.LIMIT - 1 + beyond
        with always(spec):
            got, kernels = run(node, x, level_of(spec.features))
        tally.compare((sign, beyond), got, numbers.finish(sums, axis=1), kernels)
        took = name in kernels
        tally.expect((sign, beyond), took == (not beyond), f"ran {kernels}")
    tally.finish()


def test_max_scaled() -> None:
    """A multiplier past the precondition of the vector epilogue: the product's lowering decides."""
    for spec in (s for s in WINOGRAD if runnable(s.features, s.kernel_name("u8"))):
        x = np.full((1, 2, 6, 6), 255, np.uint8)
        w = np.full((1, 2, 3, 3), 127, np.int8)
        for y_scale, takes in ((2.0**-10, True), (2.0**-12, False)):
            numbers = Numbers(np.ones(1, np.float32), y_scale)
            node = conv_node(
                x.shape, w, numbers, strides=(1, 1), pads=SAME, dilations=(1, 1), group=1
            )
            with always(spec):
                got, kernels = run(node, x, level_of(spec.features))
            assert (spec.kernel_name("u8") in kernels) == takes, (y_scale, kernels)
            assert (got == 255).all()


@pytest.mark.parametrize("spec, epilogue", ROWS)
def test_threads_and_blocks(spec: WinogradSpec, epilogue: str) -> None:
    """Shares of tiles and of panels, more threads than either, blocks of few tiles and of all."""
    name = name_or_skip(spec, epilogue)
    tally = Tally(name, seed=706)
    rng = np.random.default_rng(tally.seed)
    nr = spec.tile.nr
    for size, n in (((3, 3), 5 * nr + 1), ((4, 9), 2 * nr), ((22, 13), 7), ((14, 31), nr + 1)):
        x, w, numbers = drawn(rng, 2, 9, n, size, epilogue)
        for threads, l2_nbytes in combinations((1, 2, 3, 4, 9), (1, 100_000, None)):
            case = (size, n, threads, l2_nbytes)
            compare(tally, case, x, w, numbers, SAME, spec, threads, l2_nbytes)
    tally.finish()


OTHERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "stride": ((1, 64, 16, 16), (64, 64, 3, 3), {"strides": (1, 2)}),
    "dilation": ((1, 64, 16, 16), (64, 64, 3, 3), {"dilations": (2, 1)}),
    "groups": ((1, 64, 16, 16), (64, 32, 3, 3), {"group": 2}),
    "5x5": ((1, 64, 16, 16), (64, 64, 5, 5), {}),
    "3x1": ((1, 64, 16, 16), (64, 64, 3, 1), {}),
    "one axis": ((1, 64, 16), (64, 64, 3), {}),
    "no outputs": ((1, 64, 2, 9), (64, 64, 3, 3), {}),
    "no images": ((0, 64, 9, 9), (64, 64, 3, 3), {}),
}


def kernels_of(x_shape: tuple[int, ...], w_shape: tuple[int, ...], **geometry: Any) -> set[str]:
    """Kernel families that lowering takes at the active level."""
    rng = np.random.default_rng(707)
    w = rng.integers(-128, 128, w_shape, dtype=np.int8)
    numbers = draw_numbers(rng, w_shape[0], w[0].size, "u8")
    bench = ProductBench(frozenset(WINOGRAD[0].features), 1)
    conv.lower(conv_node(x_shape, w, numbers, **geometry), bench)
    return {kernel.family for kernel, _ in bench.rows}


def test_others_run_directly() -> None:
    """What is no 3x3 convolution of stride 1 is never Winograd's."""
    with always(WINOGRAD[0]):
        found = {label: kernels_of(x, w, **geometry) for label, (x, w, geometry) in OTHERS.items()}
        assert kernels_of((1, 64, 16, 16), (64, 64, 3, 3)) == {"winograd"}
    assert not any("winograd" in families for families in found.values()), found


def test_the_knob_and_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto takes what is large enough, never takes none, anything else is refused."""
    large, small = ((1, 64, 56, 56), (64, 64, 3, 3)), ((1, 3, 56, 56), (16, 3, 3, 3))
    streaming = ((1, 512, 7, 7), (512, 512, 3, 3))  # 19 MB of weights for 4 tiles
    monkeypatch.delenv("QRT_WINOGRAD", raising=False)
    assert kernels_of(*large) == {"winograd"}
    assert "winograd" not in kernels_of(*small) | kernels_of(*streaming)
    monkeypatch.setenv("QRT_WINOGRAD", "never")
    assert kernels_of(*large) == {"gemm"}
    monkeypatch.setenv("QRT_WINOGRAD", "yes")
    with pytest.raises(QrtError, match="QRT_WINOGRAD must be auto, always or never, got 'yes'"):
        kernels_of(*large)
