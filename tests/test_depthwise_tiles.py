"""Every row of the table of depthwise kernels equals gathered windows bit for bit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product as combinations

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
    level_or_skip,
    run,
)

from qrt.gemm.depthwise_table import DEPTHWISE, DepthwiseSpec
from qrt.ops import conv
from qrt.simd.features import active_features

SPECS = [pytest.param(spec, id=spec.kernel_name) for spec in DEPTHWISE]
NARROW = [pytest.param(s, id=s.kernel_name) for s in DEPTHWISE if s.epilogue == "u8"]
NAMES = ("strides", "pads", "dilations")
Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
RANDOM_CASES = 250


def compare(
    tally: Tally, case: object, x: Array, w: Array, numbers: Numbers, geometry: Geometry,
    level: str, expect: str, threads: int = 1,
) -> None:  # fmt: skip
    """Run a depthwise convolution of x (batch, c, ...) and w (c, 1, ...); `expect` must run it."""
    c = w.shape[0]
    node = conv_node(x.shape, w, numbers, group=c, **dict(zip(NAMES, geometry, strict=True)))
    out = node.outputs[0].static_shape[2:]
    want = numbers.finish(conv_sums(x, w, numbers, *geometry, c, out), axis=1)
    with forced(None, threads_always=True):
        got, kernels = run(node, x, level, threads, tally.seed)
    tally.compare(case, got, want, kernels)
    (reference,) = conv.reference(node, [x, w])
    tally.compare((case, "reference"), reference, want)
    if want.size:
        tally.expect(case, kernels == (expect,), f"ran {kernels}, not {expect}")


def drawn(
    rng: np.random.Generator, batch: int, c: int, size: tuple[int, ...], kernel: tuple[int, ...],
    epilogue: str = "u8",
) -> tuple[Array, Array, Numbers]:  # fmt: skip
    """x, w and numbers, no weight zero points."""
    x = rng.integers(0, 256, (batch, c, *size), dtype=np.uint8)
    w = rng.integers(-128, 128, (c, 1, *kernel), dtype=np.int8)
    return x, w, draw_numbers(rng, c, int(np.prod(kernel)), epilogue)


@pytest.mark.parametrize("spec", SPECS)
def test_channels_and_widths(spec: DepthwiseSpec) -> None:
    """Channel blocks and pixel tiles at their edges, and primes."""
    level = level_or_skip(spec.features, spec.kernel_name)
    tally = Tally(spec.kernel_name, seed=401)
    rng = np.random.default_rng(tally.seed)
    wide, slim = 4 * spec.lanes[0], 4 * spec.lanes[-1]
    edges = {2, 3, slim - 1, slim, slim + 1, 2 * slim + 1, wide - 1, wide, wide + 1}
    edges |= {wide + slim, wide + slim + 1, 2 * wide - 1, 2 * wide + 1, 37, 97}
    widths = {1, 2, 3, 5, 7, 13, spec.pixels, spec.pixels + 1, 2 * spec.pixels + 1}
    # 5x5 too: with dot groups of four rows it has a row function of its own
    for c, width, size in combinations(sorted(e for e in edges if e > 1), sorted(widths), (3, 5)):
        stride = 1 + (size == 5 and width % 2)
        x, w, numbers = drawn(rng, 1, c, (4, width), (size, size), spec.epilogue)
        geometry = ((stride, stride), (size // 2,) * 4, (1, 1))
        compare(tally, (c, width, size), x, w, numbers, geometry, level, spec.kernel_name)
    tally.finish()


@pytest.mark.parametrize("spec", SPECS)
def test_kernels(spec: DepthwiseSpec) -> None:
    """Kernel heights around the rows of a dot group, all widths, 1-D too."""
    level = level_or_skip(spec.features, spec.kernel_name)
    tally = Tally(spec.kernel_name, seed=402)
    rng = np.random.default_rng(tally.seed)
    for kh, kw, stride in combinations((1, 2, 3, 4, 5, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2)):
        x, w, numbers = drawn(rng, 1, 5, (11, 10), (kh, kw), spec.epilogue)
        geometry = ((stride, stride), (kh // 2, kw // 2, kh // 2, kw // 2), (1, 1))
        compare(tally, (kh, kw, stride), x, w, numbers, geometry, level, spec.kernel_name)
    for kernel, stride in combinations((1, 2, 3, 8), (1, 3)):
        x, w, numbers = drawn(rng, 2, 67, (13,), (kernel,), spec.epilogue)
        line: Geometry = ((stride,), (kernel - 1, 0), (2,))
        compare(tally, (kernel, stride), x, w, numbers, line, level, spec.kernel_name)
    tally.finish()


@pytest.mark.parametrize("spec", SPECS)
def test_random_geometry(spec: DepthwiseSpec) -> None:
    """Strides, dilations, asymmetric pads, kernels larger than the image, batches, threads."""
    level = level_or_skip(spec.features, spec.kernel_name)
    tally = Tally(spec.kernel_name, seed=403)
    rng = np.random.default_rng(tally.seed)
    while tally.cases < 3 * RANDOM_CASES:
        size = tuple(int(v) for v in rng.integers(1, 14, 2))
        kernel = tuple(int(v) for v in rng.integers(1, 7, 2))
        strides, dilations = (tuple(int(v) for v in rng.integers(1, 5, 2)) for _ in range(2))
        pads = tuple(int(v) for v in rng.integers(0, 6, 4))
        spans = [size[i] + pads[i] + pads[2 + i] - (kernel[i] - 1) * dilations[i] for i in range(2)]
        if min(spans) < 1:
            continue
        batch, c = int(rng.integers(1, 4)), int(rng.integers(2, 150))
        x, w, numbers = drawn(rng, batch, c, size, kernel, spec.epilogue)
        threads = int(rng.integers(1, 4))
        case = f"x {x.shape} w {w.shape} {strides} {pads} {dilations}, {threads} threads"
        geometry = (strides, pads, dilations)
        compare(tally, case, x, w, numbers, geometry, level, spec.kernel_name, threads)
    tally.finish()


@pytest.mark.parametrize("spec", SPECS)
def test_extremes(spec: DepthwiseSpec) -> None:
    """All 0 or 255 times all -128 or 127, zero points at both ends, narrowed outputs, and a kernel
    whose sums pass int16 many times over."""
    level = level_or_skip(spec.features, spec.kernel_name)
    tally = Tally(spec.kernel_name, seed=404)
    rng = np.random.default_rng(tally.seed)
    c = 4 * spec.lanes[0] + 3
    for x_value, w_value, x_zero_point, y_zero_point in combinations(
        (0, 255), (-128, 127), (0, 128, 255), (0, 255)
    ):
        for kernel, (qmin, qmax) in (((3, 3), (0, 255)), ((9, 11), (0, 255)), ((3, 3), (100, 101))):
            x = np.full((1, c, 12, 12), x_value, np.uint8)
            w = np.full((c, 1, *kernel), w_value, np.int8)
            numbers = replace(
                draw_numbers(rng, c, kernel[0] * kernel[1], spec.epilogue),
                x_zero_point=x_zero_point, y_zero_point=y_zero_point, qmin=qmin, qmax=qmax,
                y_scale=kernel[0] * kernel[1] * 128.0 if spec.epilogue == "u8" else None,
            )  # fmt: skip
            geometry = ((1, 1), (1, 2, 3, 4), (1, 1))
            case = (x_value, w_value, x_zero_point, y_zero_point, kernel, qmin, qmax)
            compare(tally, case, x, w, numbers, geometry, level, spec.kernel_name)
    tally.finish()


@pytest.mark.parametrize("spec", NARROW)
def test_ties_and_multipliers(spec: DepthwiseSpec) -> None:
    """Sums on ties, denormal multipliers; a multiplier past the precondition runs portably."""
    level = level_or_skip(spec.features, spec.kernel_name)
    tally = Tally(spec.kernel_name, seed=405)
    portable = next(s for s in DEPTHWISE if s.family == "portable").kernel_name
    x = np.arange(256, dtype=np.uint8).reshape(1, 2, 8, 16)
    w = np.array([1, -1], np.int8).reshape(2, 1, 1, 1)
    geometry = ((1, 1), (0, 0, 0, 0), (1, 1))
    for y_scale, bias, y_zero_point in combinations(
        (2.0, 4.0, 16.0, 3e38, 2.0**-24, 2.0**-25, 2.0**-40), (0, 1), (0, 1, 128, 255)
    ):
        numbers = Numbers(
            np.array([1.0, 1.0], np.float32), y_scale, 128, y_zero_point,
            bias=np.full(2, bias, np.int32),
        )  # fmt: skip
        bound = (128 + bias) / y_scale
        expect = spec.kernel_name if bound * 1.001 < 2**31 else portable
        compare(tally, (y_scale, bias, y_zero_point), x, w, numbers, geometry, level, expect)
    tally.finish()


@pytest.mark.parametrize("spec", SPECS)
def test_weight_zero_points(spec: DepthwiseSpec) -> None:
    """w - zero_point needs nine bits: rows of int8 weights leave it to rows of int16 ones."""
    level = level_or_skip(spec.features, spec.kernel_name)
    tally = Tally(spec.kernel_name, seed=406)
    rng = np.random.default_rng(tally.seed)
    able = [s for s in DEPTHWISE if set(s.features) <= active_features(level)]
    able = [s for s in able if s.epilogue == spec.epilogue]
    expect = next(s for s in able if s.weight_dtype is np.int16).kernel_name
    for c, extreme in combinations((2, 31, 67), (False, True)):
        x, w, numbers = drawn(rng, 2, c, (6, 7), (3, 3), spec.epilogue)
        zero_points = rng.integers(-128, 128, c)
        if extreme:
            w[...] = rng.choice([-128, 127], w.shape)
            zero_points = rng.choice([-128, 127], c)
            x[...] = rng.choice([0, 255], x.shape)
        numbers = replace(numbers, w_zero_point=zero_points.astype(np.int32))
        geometry = ((1, 1), (1, 1, 1, 1), (1, 1))
        compare(tally, (c, extreme), x, w, numbers, geometry, level, expect)
    tally.finish()


@pytest.mark.parametrize("spec", SPECS)
def test_threads(spec: DepthwiseSpec) -> None:
    """Lines and channel blocks over 1, 2, 3 threads, and more threads than lines."""
    level = level_or_skip(spec.features, spec.kernel_name)
    tally = Tally(spec.kernel_name, seed=407)
    rng = np.random.default_rng(tally.seed)
    for threads, c, height, batch in combinations((1, 2, 3, 8), (2, 65, 130), (1, 2, 5), (1, 2)):
        x, w, numbers = drawn(rng, batch, c, (height, 6), (3, 3), spec.epilogue)
        geometry = ((1, 1), (1, 1, 1, 1), (1, 1))
        case = (threads, c, height, batch)
        compare(tally, case, x, w, numbers, geometry, level, spec.kernel_name, threads)
    tally.finish()


def test_empty() -> None:
    """Outputs of no elements."""
    tally = Tally("empty depthwise", seed=408)
    rng = np.random.default_rng(tally.seed)
    for batch, size in ((0, (4, 4)), (1, (2, 9)), (1, (9, 2)), (1, (0, 0))):
        x, w, numbers = drawn(rng, batch, 5, size, (3, 3))
        geometry = ((1, 1), (0, 0, 0, 0), (1, 1))
        compare(tally, (batch, size), x, w, numbers, geometry, "", "")
    tally.finish()
