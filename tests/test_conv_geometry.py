"""qrt.Conv over every table row: whatever its geometry, it equals gathered windows bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from product_cases import (
    Array,
    Tally,
    conv_node,
    conv_sums,
    draw_numbers,
    forced,
    level_of,
    level_or_skip,
    run,
    tile_rows,
)

from qrt.gemm.table import TileSpec
from qrt.ops import conv

Ints = tuple[int, ...]
ROWS = [pytest.param(*row, id=row[0].kernel_name(row[1])) for row in tile_rows()]
RANDOM_CASES = 150


@dataclass(frozen=True)
class Case:
    """One convolution, 1-D or 2-D."""

    batch: int
    channels: int  # per group
    size: Ints
    n: int  # per group
    kernel: Ints
    strides: Ints
    pads: Ints
    dilations: Ints
    group: int

    @property
    def out(self) -> Ints:
        """Output sizes by ONNX's formula (Conv, opset 11), counted instead of divided."""
        rank = len(self.size)
        sizes = []
        for i in range(rank):
            padded = self.size[i] + self.pads[i] + self.pads[rank + i]
            reach = (self.kernel[i] - 1) * self.dilations[i]
            sizes.append(len(range(0, padded - reach, self.strides[i])))
        return tuple(sizes)


def plane(h: int, w: int, kernel: Ints, **more: object) -> Case:
    """A 2-D case with dull defaults."""
    defaults = Case(1, 5, (h, w), 7, kernel, (1, 1), (0, 0, 0, 0), (1, 1), 1)
    return replace(defaults, **more)  # type: ignore[arg-type]


def line(length: int, kernel: int, **more: object) -> Case:
    """A 1-D case with dull defaults."""
    return replace(
        Case(1, 5, (length,), 7, (kernel,), (1,), (0, 0), (1,), 1),
        **more,  # type: ignore[arg-type]
    )


# what networks and adversaries do; each says why it is here
EDGES = {
    "pointwise": plane(4, 5, (1, 1)),
    "pointwise, batch": plane(4, 5, (1, 1), batch=3),
    "pointwise, stride": plane(7, 8, (1, 1), strides=(2, 3)),
    "pointwise, pads": plane(3, 3, (1, 1), pads=(1, 0, 2, 3)),
    "one pixel": plane(1, 1, (1, 1)),
    "one pixel, 3x3 in pads": plane(1, 1, (3, 3), pads=(1, 1, 1, 1)),
    "kernel is the image": plane(4, 3, (4, 3)),
    "kernel larger than the image": plane(3, 2, (5, 6), pads=(2, 2, 2, 2)),
    "kernel larger, dilated": plane(4, 4, (3, 3), pads=(3, 4, 3, 4), dilations=(3, 4)),
    "outputs that see pads only": plane(2, 2, (2, 2), pads=(5, 5, 5, 5)),
    "outputs between which pixels are skipped": plane(9, 10, (2, 2), strides=(4, 5)),
    "stride over the end": plane(5, 5, (1, 1), strides=(9, 9)),
    "asymmetric pads": plane(5, 6, (3, 4), pads=(0, 3, 2, 1)),
    "bottom and right pads only": plane(6, 6, (3, 3), strides=(2, 2), pads=(0, 0, 1, 1)),
    "dilations, one axis": plane(9, 9, (3, 3), dilations=(1, 3), pads=(1, 3, 1, 3)),
    "dilations, other axis": plane(9, 9, (3, 3), dilations=(4, 1), pads=(4, 1, 4, 1)),
    "first layer": plane(11, 13, (7, 7), channels=3, strides=(2, 2), pads=(3, 3, 3, 3), batch=2),
    "one channel": plane(9, 9, (3, 3), channels=1, pads=(1, 1, 1, 1)),
    "row kernel": plane(5, 9, (1, 5), pads=(0, 2, 0, 2)),
    "column kernel": plane(9, 5, (5, 1), pads=(2, 0, 2, 0)),
    "groups": plane(6, 6, (3, 3), group=3, channels=4, n=5, pads=(1, 1, 1, 1)),
    "groups of odd channels": plane(6, 6, (3, 3), group=5, channels=3, n=1, batch=2),
    "groups, wide": plane(3, 3, (1, 1), group=2, channels=33, n=65),
    "depthwise with a multiplier": plane(6, 6, (3, 3), group=4, channels=1, n=3),
    "batch": plane(5, 4, (3, 2), batch=4, pads=(1, 1, 1, 1)),
    "1-D": line(11, 3),
    "1-D, all at once": line(13, 3, strides=(2,), pads=(3, 0), dilations=(2,), batch=3),
    "1-D, groups": line(9, 2, group=3, channels=2, n=4, pads=(0, 1)),
    "1-D, kernel larger than the input": line(2, 5, pads=(2, 2)),
}

EMPTY = {
    "no image": plane(4, 4, (2, 2), batch=0),
    "no rows": plane(0, 4, (1, 1)),
    "kernel does not fit": plane(2, 2, (3, 3)),
    "kernel does not fit, stride": plane(2, 2, (3, 3), strides=(2, 3)),
    "kernel does not fit by far, stride": plane(6, 6, (9, 9), strides=(2, 2)),
    "kernel does not fit one axis": plane(2, 7, (4, 2), strides=(3, 1)),
    "pads around nothing": plane(0, 0, (1, 1), pads=(1, 1, 1, 1)),
    "no channels": plane(4, 4, (3, 3), channels=0, pads=(1, 1, 1, 1)),
    "1-D, kernel does not fit": line(2, 9, strides=(4,)),
}


def draw_case(rng: np.random.Generator) -> Case:
    """Any convolution of modest size whose output is not empty."""
    rank = 1 if rng.random() < 0.2 else 2
    group = int(rng.choice([1, 1, 1, 2, 3, 5]))

    def some(low: int, high: int, count: int = rank) -> Ints:
        return tuple(int(v) for v in rng.integers(low, high, count))

    while True:
        case = Case(
            batch=int(rng.choice([1, 1, 2, 3])),
            channels=int(rng.integers(1, 24 if group == 1 else 7)),
            size=some(1, 14),
            n=int(rng.integers(1, 80 if group == 1 else 20)),
            kernel=some(1, 6),
            strides=some(1, 5),
            pads=some(0, 5, 2 * rank),
            dilations=some(1, 4),
            group=group,
        )
        if min(case.out) > 0:
            return case


def compare(
    tally: Tally, name: str, case: Case, epilogue: str, features: str = "", threads: int = 1
) -> None:
    """Run one convolution of drawn numbers; `tally` notes a difference."""
    seed = tally.seed * 1000 + tally.cases
    rng = np.random.default_rng(seed)
    total = case.n * case.group
    w = rng.integers(-128, 128, (total, case.channels, *case.kernel), dtype=np.int8)
    x_shape = (case.batch, case.channels * case.group, *case.size)
    x = rng.integers(0, 256, x_shape, dtype=np.uint8)
    k = case.channels * int(np.prod(case.kernel))
    numbers = draw_numbers(rng, total, k, epilogue, weight_zero_points=rng.random() < 0.3)
    geometry = (case.strides, case.pads, case.dilations, case.group)
    label = f"{name} {case}, drawn from {seed}, {threads} threads"
    names = ("strides", "pads", "dilations", "group")
    node = conv_node(x_shape, w, numbers, **dict(zip(names, geometry, strict=True)))
    shape = (case.batch, total, *case.out)
    tally.expect(label, node.outputs[0].shape == shape, f"infer says {node.outputs[0].shape}")
    want = numbers.finish(conv_sums(x, w, numbers, *geometry, case.out), axis=1)
    try:
        got, kernels = run(node, x, features, threads, seed)
        (reference,) = conv.reference(node, [x, w])
    except ValueError as error:
        tally.expect(label, False, repr(error))
        return
    tally.compare(label, got, want, kernels)
    tally.compare((label, "reference"), reference, want)


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_edges(tile: TileSpec, epilogue: str) -> None:
    kernel = tile.kernel_name(epilogue)
    level_or_skip(tile.features, kernel)
    tally = Tally(kernel, seed=301)
    with forced(tile, threads_always=True):
        for name, case in EDGES.items():
            for threads in (1, 2, 3):
                compare(tally, name, case, epilogue, level_of(tile.features), threads)
    tally.finish()
    assert kernel in tally.kernels


@pytest.mark.parametrize("tile, epilogue", ROWS)
def test_random(tile: TileSpec, epilogue: str) -> None:
    kernel = tile.kernel_name(epilogue)
    level_or_skip(tile.features, kernel)
    tally = Tally(kernel, seed=302)
    rng = np.random.default_rng(tally.seed)
    with forced(tile, threads_always=True):
        for i in range(RANDOM_CASES):
            compare(tally, "random", draw_case(rng), epilogue, level_of(tile.features), 1 + i % 3)
    tally.finish()
    assert kernel in tally.kernels


def test_the_tables_own_choice() -> None:
    """Edges and random ones with the features in use, and tiles as lowering picks them."""
    tally = Tally("conv", seed=303)
    rng = np.random.default_rng(tally.seed)
    for i, (name, case) in enumerate(EDGES.items()):
        compare(tally, name, case, "f32" if i % 3 == 0 else "u8")
    for i in range(RANDOM_CASES):
        compare(tally, "random", draw_case(rng), "f32" if i % 3 == 0 else "u8", "", 1 + i % 2)
    tally.finish()
    print(f"ran {', '.join(sorted(tally.kernels))}")


@pytest.mark.parametrize("epilogue", ("u8", "f32"))
def test_empty(epilogue: str) -> None:
    """Nothing to compute, or nothing to sum: lowering and the reference agree on that too."""
    tally = Tally(f"empty convolutions {epilogue}", seed=304)
    for name, case in EMPTY.items():
        for threads in (1, 2):
            compare(tally, name, case, epilogue, "", threads)
    tally.finish()


def test_windows_of_the_test_itself() -> None:
    """`conv_sums` on a case small enough to sum by hand."""
    x = np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3)
    w = np.array([[[[1, 2], [3, 4]]]], np.int8)
    numbers = draw_numbers(np.random.default_rng(0), 1, 4, "u8")
    numbers = replace(numbers, x_zero_point=1, w_zero_point=0)
    got: Array = conv_sums(x, w, numbers, (2, 2), (1, 1, 0, 0), (1, 1), 1, (2, 2))
    # windows of x - 1 = [[-1, 0, 1], [2, 3, 4], [5, 6, 7]] with one row and column of pads before
    assert got.tolist() == [[[[-4.0, 4.0], [4 + 20.0, 3 + 8 + 18 + 28.0]]]]
