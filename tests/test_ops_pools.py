"""MaxPool, AveragePool and means, quantized and float, against windows walked one by one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from kernel_harness import channels_last, new_value, run_node
from operator_cases import NHWC, Cases, codes, onnx_outputs, qparams, within

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ops import average_pool, float_average_pool, float_reduce, max_pool, reduce_mean

Array = np.ndarray[Any, Any]
CHANNELS = (1, 3, 15, 16, 17, 63, 64, 65, 130)
GEOMETRIES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((7, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((11,), {"kernel_shape": [3], "strides": [2], "pads": [1, 1], "ceil_mode": 1}),
    ((9, 8), {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}),
    ((9, 8), {"kernel_shape": [2, 3], "dilations": [3, 2], "pads": [1, 0, 0, 2]}),
    ((8, 8), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [3, 1]}),
    ((8, 8), {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER", "strides": [1, 1]}),
    ((5, 5), {"kernel_shape": [5, 5]}),
    ((1, 1), {"kernel_shape": [1, 1]}),
]


def _windows(x: Array, attrs: dict[str, Any]) -> list[tuple[tuple[int, ...], Array, int, int]]:
    """(output index, elements (N, C, inside), how many inside, how many with padding)."""
    spatial = x.shape[2:]
    kernel = attrs["kernel_shape"]
    strides = attrs.get("strides", [1] * len(spatial))
    dilations = attrs.get("dilations", [1] * len(spatial))
    pads = attrs.get("pads", [0] * 2 * len(spatial))
    lines = []
    for i, n in enumerate(spatial):
        begin, end = pads[i], pads[i + len(spatial)]
        extent = (kernel[i] - 1) * dilations[i] + 1
        if "auto_pad" in attrs:
            count = math.ceil(n / strides[i])
            total = max((count - 1) * strides[i] + extent - n, 0)
            begin = total // 2 if attrs["auto_pad"] == "SAME_UPPER" else total - total // 2
            end = total - begin
        room = n + begin + end - extent
        count = math.floor(room / strides[i]) + 1
        if attrs.get("ceil_mode"):
            count = math.ceil(room / strides[i]) + 1
            count -= (count - 1) * strides[i] >= n + begin
        line = []
        for o in range(count):
            at = [o * strides[i] - begin + k * dilations[i] for k in range(kernel[i])]
            line.append(([p for p in at if 0 <= p < n], sum(-begin <= p < n + end for p in at)))
        lines.append(line)
    found = []
    for index in itertools.product(*(range(len(line)) for line in lines)):
        picks = [line[o] for line, o in zip(lines, index, strict=True)]
        part = x
        for axis, (positions, _) in enumerate(picks, 2):
            part = part.take(positions, axis)
        inside = math.prod(len(p) for p, _ in picks)
        padded = math.prod(c for _, c in picks)
        found.append((index, part.reshape(*x.shape[:2], -1), inside, padded))
    return found


@pytest.mark.parametrize("spec", [max_pool.SPEC, max_pool.FLOAT_SPEC], ids=["u8", "f32"])
def test_max_pool(spec: Any) -> None:
    rng = np.random.default_rng(1)
    dtype = np.float32 if spec.domain == "" else np.uint8
    with Cases("MaxPool") as cases:
        for channels, (spatial, attrs) in itertools.product(CHANNELS, GEOMETRIES):
            shape = (2, channels, *spatial)
            x = codes(rng, shape).astype(dtype) - (dtype(200) if dtype == np.float32 else dtype(0))
            layout = channels_last(len(shape))
            node = Node(
                "MaxPool",
                [new_value("x", dtype, shape, layout)],
                [new_value("y", dtype, layout=layout)],
                attrs,
                spec.domain,
                version=12,
            )
            windows = _windows(x, attrs)
            counts = tuple(v + 1 for v in windows[-1][0])
            want = np.empty((2, channels, *counts), dtype)
            for index, part, _, _ in windows:
                want[(..., *index)] = part.max(axis=-1)
            cases.node((shape, attrs), spec, node, [x], [want])


def test_a_window_inside_the_padding_is_lowest() -> None:
    attrs = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    x = np.full((1, 2, 2, 2), 9, np.uint8)
    node = Node(
        "MaxPool",
        [new_value("x", np.uint8, x.shape, NHWC)],
        [new_value("y", np.uint8, layout=NHWC)],
        attrs,
        "qrt",
    )
    with Cases("MaxPool") as cases:
        cases.node("", max_pool.SPEC, node, [x], [np.pad(x, [(0, 0)] * 2 + [(1, 1)] * 2)])


@pytest.mark.parametrize("real", [False, True], ids=["u8", "to_f32"])
def test_average_pool(real: bool) -> None:
    rng = np.random.default_rng(2)
    with Cases("AveragePool") as cases:
        for channels, (spatial, attrs), include in itertools.product(
            CHANNELS[:6], GEOMETRIES, (0, 1)
        ):
            shape = (2, channels, *spatial)
            x = codes(rng, shape)
            qx, qy = qparams(0.02, 255), None if real else qparams(0.017, 190)
            layout = channels_last(len(shape))
            node = Node(
                "AveragePool",
                [new_value("x", np.uint8, shape, layout)],
                [new_value("y", np.uint8, layout=layout)],
                {**attrs, "count_include_pad": include, "x": qx, "y": qy, "qmin": 1, "qmax": 250},
                "qrt",
            )
            windows = _windows(x, attrs)
            counts = tuple(v + 1 for v in windows[-1][0])
            want = np.empty((2, channels, *counts), np.float32 if real else np.uint8)
            for index, part, inside, padded in windows:
                acc = (part.astype(np.int64) - 255).sum(axis=-1).astype(np.float32)
                count = np.float32(padded if include else inside)
                if qy is None:
                    want[(..., *index)] = acc * (qx.scale / count)
                else:
                    steps = np.round(acc * (qx.scale / (qy.scale * count))) + 190
                    want[(..., *index)] = np.clip(steps, 1, 250)
            cases.node((shape, attrs, include), average_pool.SPEC, node, [x], [want])


def test_float_average_pool() -> None:
    rng = np.random.default_rng(3)
    with Cases("AveragePool") as cases:
        for channels, (spatial, attrs), include in itertools.product(
            (1, 16, 37), GEOMETRIES, (0, 1)
        ):
            shape = (2, channels, *spatial)
            x = rng.standard_normal(shape).astype(np.float32)
            layout = channels_last(len(shape))
            node = Node(
                "AveragePool",
                [new_value("x", np.float32, shape, layout)],
                [new_value("y", np.float32, layout=layout)],
                {**attrs, "count_include_pad": include},
                version=19,
            )
            windows = _windows(x, attrs)
            counts = tuple(v + 1 for v in windows[-1][0])
            want = np.empty((2, channels, *counts), np.float32)
            for index, part, inside, padded in windows:
                want[(..., *index)] = part.sum(axis=-1) / np.float32(padded if include else inside)
            cases.node(
                (shape, attrs, include), float_average_pool.SPEC, node, [x], [want],
                oracle_compare=within(1e-5, 1e-6),
            )  # fmt: skip


@pytest.mark.parametrize("real", [False, True], ids=["u8", "to_f32"])
def test_reduce_mean(real: bool) -> None:
    rng = np.random.default_rng(4)
    shapes = ((2, 5, 7, 9), (1, 64, 3, 3), (2, 35, 7, 7), (1, 1, 1, 1), (1, 2048, 7, 7))
    axes_ = ((2, 3), (1,), (0,), (-1,), (1, 2, 3), (0, 2), (0, 1, 2, 3), (1, 3))
    with Cases("ReduceMean") as cases:
        for shape, axes, keep in itertools.product(shapes, axes_, (0, 1)):
            x = codes(rng, shape)
            qx, qy = qparams(0.02, 0), None if real else qparams(0.021, 3)
            acc = x.astype(np.int64).sum(axis=axes, keepdims=bool(keep)).astype(np.float32)
            count = np.float32(x.size / acc.size)
            if qy is None:
                want = np.asarray(acc * (qx.scale / count), np.float32)
            else:
                steps = np.round(acc * (qx.scale / (qy.scale * count))) + 3
                want = np.asarray(np.clip(steps, 0, 255), np.uint8)
            for layout in (None, NHWC):
                node = Node(
                    "ReduceMean",
                    [new_value("x", np.uint8, shape, layout)],
                    [new_value("y", np.uint8, layout=layout if keep else None)],
                    {"axes": axes, "keepdims": keep, "x": qx, "y": qy, "qmin": 0, "qmax": 255},
                    "qrt",
                )
                case = (shape, axes, keep, layout)
                cases.node(case, reduce_mean.SPEC, node, [x], [want], specs=["portable", ""])


def test_extreme_sums_are_exact() -> None:
    """All 255 over 4096 x 2047 elements with zero point 0: just below the largest window."""
    x = np.full((1, 1, 4096, 2047), 255, np.uint8)
    q = qparams(1.0, 0)
    node = Node(
        "ReduceMean",
        [new_value("x", np.uint8, x.shape)],
        [new_value("y", np.float32)],
        {"axes": (2, 3), "keepdims": 1, "x": q, "y": None, "qmin": 0, "qmax": 255},
        "qrt",
    )
    acc = np.float32(255 * 4096 * 2047)
    want = np.full((1, 1, 1, 1), acc * (np.float32(1) / np.float32(4096 * 2047)), np.float32)
    with Cases("ReduceMean") as cases:
        cases.node("", reduce_mean.SPEC, node, [x], [want])


@pytest.mark.parametrize("spec", float_reduce.SPECS, ids=lambda s: s.op)
def test_float_reduce(spec: Any) -> None:
    rng = np.random.default_rng(5)
    with Cases(spec.op) as cases:
        for shape, axes, keep in itertools.product(
            ((2, 35, 7, 7), (2, 3, 5, 40), (1, 64, 1, 1)),
            ([2, 3], [1], [-1], [0, 1, 2, 3], [0], [1, 3]),
            (0, 1),
        ):
            pooled = spec.op == "GlobalAveragePool"
            if pooled and (axes != [2, 3] or not keep):
                continue
            attrs = {} if pooled else {"axes": axes, "keepdims": keep}
            x = rng.standard_normal(shape).astype(np.float32)
            want = onnx_outputs(spec.op, 11, attrs, [x])
            for layout in (None, NHWC):
                node = Node(
                    spec.op,
                    [new_value("x", np.float32, shape, layout)],
                    [new_value("y", np.float32, layout=layout if keep else None)],
                    attrs,
                    version=11,
                )
                # float32 sums of up to 3430 numbers around 1 against float64 ones
                cases.node((shape, axes, keep, layout), spec, node, [x], want, within(1e-5, 1e-4))


def test_what_is_refused() -> None:
    x = new_value("x", np.uint8, (1, 2, 4, 4, 4), channels_last(5))
    node = Node("MaxPool", [x], [new_value("y", np.uint8)], {"kernel_shape": [2, 2, 2]}, "qrt")
    with pytest.raises(UnsupportedError, match="3 spatial axes"):
        run_node(max_pool.SPEC, node, [np.zeros(x.shape, np.uint8)])


def test_float_reduce_of_nothing() -> None:
    """What no elements reduce to is constant; no elements of which to make nothing are nothing."""
    want = {"ReduceSum": 0, "ReduceMax": -np.inf, "ReduceMin": np.inf, "ReduceMean": np.nan}
    with Cases("reduce nothing") as cases:
        for spec in float_reduce.SPECS:
            for shape in ((2, 3, 0, 5), (0, 3, 2, 2)):
                pooled = spec.op == "GlobalAveragePool"
                node = Node(
                    spec.op,
                    [new_value("x", np.float32, shape)],
                    [new_value("y", np.float32)],
                    {} if pooled else {"axes": [2, 3], "keepdims": 1},
                    version=11,
                )
                empty = np.full((*shape[:2], 1, 1), want.get(spec.op, np.nan), np.float32)
                x = np.zeros(shape, np.float32)
                cases.node((spec.op, shape), spec, node, [x], [empty], specs=[""])
