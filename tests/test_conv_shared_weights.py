"""Two convolutions of one weight array share packed bytes only where those are the same bytes.

A session packs by key; the second use of a key takes what the first one packed.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np
import pytest
from product_cases import (
    Array,
    Numbers,
    Tally,
    conv_node,
    conv_sums,
    draw_numbers,
    matmul_node,
    run,
)
from product_cases import matmul_sums as mm

from qrt.errors import QrtError
from qrt.ir import Value


def check(
    tally: Tally, case: str, x: Array, w: Array, numbers: Numbers, group: int,
    store: dict[Hashable, Array],
) -> None:  # fmt: skip
    """A 3x3 convolution without pads whose packed weights come from and go to `store`."""
    ones = (1, 1)
    node = conv_node(x.shape, w, numbers, group=group)
    out = tuple(s - 2 for s in x.shape[2:])
    sums = conv_sums(x, w, numbers, ones, (0,) * 4, ones, group, out)
    got, kernels = run(node, x, store=store)
    tally.compare(case, got, numbers.finish(sums, axis=1), kernels)


@pytest.mark.parametrize("order", ((0, 1, 2), (2, 1, 0)))
def test_group_counts(order: tuple[int, ...]) -> None:
    """(8, 2, 3, 3) weights serve 2 channels in one group, 4 in two, 8 in four."""
    tally = Tally("one weight, several group counts", seed=311)
    rng = np.random.default_rng(tally.seed)
    store: dict[Hashable, Array] = {}
    w = rng.integers(-128, 128, (8, 2, 3, 3), dtype=np.int8)
    numbers = draw_numbers(rng, 8, 18, "u8")
    for i in order:
        group = (1, 2, 4)[i]
        x = rng.integers(0, 256, (1, 2 * group, 5, 5), dtype=np.uint8)
        check(tally, f"group {group}, order {order}", x, w, numbers, group, store)
    tally.finish()


@pytest.mark.parametrize("channels, group", [(1, 6), (5, 1)], ids=["depthwise", "product"])
def test_weight_zero_points(channels: int, group: int) -> None:
    """The same bytes with other zero points are other weights."""
    tally = Tally("one weight, several zero points", seed=312)
    rng = np.random.default_rng(tally.seed)
    store: dict[Hashable, Array] = {}
    w = rng.integers(-128, 128, (6, channels, 3, 3), dtype=np.int8)
    x = rng.integers(0, 256, (1, channels * group, 5, 5), dtype=np.uint8)
    drawn = draw_numbers(rng, 6, 9 * channels, "u8")
    for w_zero_point in (0, 5, -128, 127, np.arange(6, dtype=np.int32)):
        numbers = replace(drawn, w_zero_point=w_zero_point)
        check(tally, f"w_zero_point {w_zero_point}", x, w, numbers, group, store)
    tally.finish()


def test_other_numbers() -> None:
    """Epilogue, x zero point, scales and bias may differ as they like."""
    tally = Tally("one weight, other numbers", seed=313)
    rng = np.random.default_rng(tally.seed)
    store: dict[Hashable, Array] = {}
    w = rng.integers(-128, 128, (70, 3, 3, 3), dtype=np.int8)
    for size, epilogue in ((4, "u8"), (9, "f32"), (4, "f32"), (20, "u8"), (3, "u8")):
        x = rng.integers(0, 256, (1, 3, size, size), dtype=np.uint8)
        numbers = draw_numbers(rng, 70, 27, epilogue)
        check(tally, f"size {size} {epilogue}", x, w, numbers, 1, store)
    tally.finish()


def test_one_matrix_seen_as_several() -> None:
    """A square matrix is one product and, with its batch axis, several."""
    tally = Tally("one matrix", seed=314)
    rng = np.random.default_rng(tally.seed)
    store: dict[Hashable, Array] = {}
    w = rng.integers(-128, 128, (3, 7, 9), dtype=np.int8)
    numbers = draw_numbers(rng, 9, 7, "u8")
    for x_shape in ((2, 7), (3, 4, 7), (1, 1, 7), (5, 3, 1, 7)):
        x = rng.integers(0, 256, x_shape, dtype=np.uint8)
        got, kernels = run(matmul_node(x_shape, w, numbers), x, store=store)
        sums = mm(x, w, numbers)
        tally.compare(x_shape, got, numbers.finish(sums, axis=sums.ndim - 1), kernels)
    tally.finish()


@pytest.mark.parametrize("position", (2, 3), ids=["bias", "float_bias"])
def test_a_computed_bias_is_not_taken_for_zero(position: int) -> None:
    """Lowering must refuse a bias that is no constant: taking none would be silently wrong."""
    rng = np.random.default_rng(315)
    w = rng.integers(-128, 128, (4, 2, 3, 3), dtype=np.int8)
    node = conv_node((1, 2, 5, 5), w, draw_numbers(rng, 4, 18, "f32"))
    bias = node.inputs[position]
    assert bias is not None
    node.inputs[position] = Value("computed", bias.dtype, bias.shape)
    with pytest.raises((QrtError, AssertionError)):
        run(node, np.zeros((1, 2, 5, 5), np.uint8))
