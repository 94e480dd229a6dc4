"""Depthwise packing, read off ramps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qrt.gemm.depthwise_table import (
    DEPTHWISE,
    DepthwiseSpec,
    blocks,
    pack_depthwise,
    pack_depthwise_columns,
)
from qrt.gemm.order import column_order

SPECS = [pytest.param(spec, id=spec.kernel_name) for spec in DEPTHWISE]
GENERATED = [p for p, spec in zip(SPECS, DEPTHWISE, strict=True) if spec.family != "portable"]
CHANNELS = (1, 2, 5, 31, 32, 33, 63, 64, 65, 96, 97, 129)


@pytest.mark.parametrize("spec", GENERATED)
def test_blocks_cover_the_channels(spec: DepthwiseSpec) -> None:
    """Widest blocks, then the narrowest one that holds the rest; nothing twice, nothing left."""
    for channels in range(1, 300):
        found = blocks(channels, spec)
        assert set(found[:-1]) <= {spec.lanes[0]}
        assert 4 * sum(found[:-1]) < channels <= 4 * sum(found)
        rest = channels - 4 * sum(found[:-1])
        assert found[-1] == min(lanes for lanes in spec.lanes if 4 * lanes >= rest)


@pytest.mark.parametrize("spec", GENERATED)
@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (3, 3), (4, 1), (5, 2)])
def test_weights(spec: DepthwiseSpec, kernel: tuple[int, int]) -> None:
    """Per block, kernel column, group of rows, vector, lane: one channel's rows side by side."""
    kh, kw = kernel
    groups = -(-kh // spec.rows)
    for channels in CHANNELS:
        for step in (1, 53):
            ramp = (np.arange(channels * kh * kw) * step).astype(np.uint8).view(np.int8)
            w = ramp.reshape(channels, kh, kw).astype(np.int16)
            packed: Any = pack_depthwise(w, spec, 1, 1).view(spec.weight_dtype)
            if spec.planar:  # all lanes of a row, then of the next: back to side by side
                planes = packed.reshape(-1, spec.rows, spec.lanes[0])
                packed = planes.transpose(0, 2, 1).reshape(-1)
            at, c0 = 0, 0
            for lanes in blocks(channels, spec):
                order = column_order(4, lanes, "u8")
                for kx in range(kw):
                    for group in range(groups):
                        for position in range(4 * lanes):
                            channel = c0 + order[position]
                            for r in range(spec.rows):
                                ky = group * spec.rows + r
                                there = channel < channels and ky < kh
                                want = w[channel, ky, kx] if there else 0
                                assert packed[at] == want, (channels, kx, group, position, r)
                                at += 1
                c0 += 4 * lanes
            assert at == packed.size


@pytest.mark.parametrize("spec", [p for p in GENERATED if p.values[0].rows == 4])
def test_tall_weights(spec: DepthwiseSpec) -> None:
    """The fifth row lies across the columns: four taps, then the fifth in the last byte."""
    w = np.arange(-100, 25, dtype=np.int16).reshape(5, 5, 5)
    order = column_order(4, spec.lanes[-1], "u8")
    for steps in ((1, 1), (2, 1)):
        packed = pack_depthwise(w, spec, *steps).view(np.int8).reshape(5, 2, -1, 4)
        for position, channel in enumerate(order):
            here = packed[:, :, position]
            real = w[channel] if channel < 5 else np.zeros((5, 5), np.int16)
            np.testing.assert_array_equal(here[:, 0], real[:4].T)
            np.testing.assert_array_equal(here[0, 1], real[4, :4])
            np.testing.assert_array_equal(here[1, 1], [0, 0, 0, real[4, 4]])
            assert not here[2:, 1].any()
    walked = pack_depthwise(w, spec, 1, 2).view(np.int8).reshape(5, 2, -1, 4)
    np.testing.assert_array_equal(walked[:, 1, order.index(0), 0], w[0, 4])


def test_portable_weights() -> None:
    """Kernel row, kernel column, channel; int16."""
    spec = DEPTHWISE[-1]
    assert spec.family == "portable"
    w = np.arange(-30, 30, dtype=np.int16).reshape(5, 4, 3) * 8
    packed = pack_depthwise(w, spec, 1, 1).view(np.int16).reshape(4, 3, 5)
    for channel in range(5):
        np.testing.assert_array_equal(packed[:, :, channel], w[channel])


@pytest.mark.parametrize("spec", SPECS)
def test_columns(spec: DepthwiseSpec) -> None:
    """Per block: bias in the order of sums, then what the epilogue takes, in that of its outputs;
    zeros behind the last."""
    for channels in CHANNELS:
        bias = np.arange(channels, dtype=np.int32) + 1
        multiplier = np.arange(channels, dtype=np.float32) + 0.5
        float_bias = multiplier - 7
        arrays = [("u8", bias), (spec.epilogue, multiplier)]
        if spec.epilogue == "f32":
            arrays += [("f32", np.zeros(channels, np.float32)), ("f32", float_bias)]
        packed = pack_depthwise_columns(channels, spec, bias, multiplier, float_bias)
        if spec.family == "portable":
            for got, (_, want) in zip(packed.reshape(len(arrays), -1), arrays, strict=True):
                np.testing.assert_array_equal(got.view(want.dtype), want)
            continue
        at, c0 = 0, 0
        for lanes in blocks(channels, spec):
            for kind, values in arrays:
                order = np.array(column_order(4, lanes, kind)) + c0
                valid = order < channels
                got = packed[at : at + 16 * lanes].view(values.dtype)
                want = np.where(valid, values[np.where(valid, order, 0)], 0)
                np.testing.assert_array_equal(got, want, f"{channels} channels, block at {c0}")
                at += 16 * lanes
            c0 += 4 * lanes
        assert at == packed.size


@pytest.mark.parametrize("spec", GENERATED)
def test_order_is_what_unpacks_leave(spec: DepthwiseSpec) -> None:
    """In-lane unpacks of bytes, then words, put channels of a 128-bit lane into four vectors."""
    for lanes in spec.lanes:
        channels = np.arange(4 * lanes).reshape(-1, 16)  # rows are 128-bit lanes of bytes
        vectors = [channels[:, 4 * v : 4 * v + 4].reshape(-1) for v in range(4)]
        assert np.concatenate(vectors).tolist() == column_order(4, lanes, "u8")
