"""Resize: every coordinate transformation and rounding, in both memory orders."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from kernel_harness import new_value
from operator_cases import (
    NHWC,
    Cases,
    codes,
    constant,
    onnx_outputs,
    plain_dequantize,
    plain_quantize,
    qparams,
    within,
)

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ops import resize
from qrt.ops.resize_axes import ROUNDINGS, TRANSFORMS

Array = np.ndarray[Any, Any]
# (scales, sizes) of an (N, C, 5, 7) input
TARGETS: list[tuple[list[float] | None, list[int] | None]] = [
    ([1, 1, 2, 2], None),
    ([1, 1, 0.6, 1.7], None),
    (None, [2, -1, 3, 11]),
    ([1, 1, 1, 2], None),
    ([1, 1, 1, 1], None),
]
NOT_IN_ORACLE = ("tf_half_pixel_for_nn", "half_pixel_symmetric")


def _node(
    x: Array, layout: Any, attrs: dict[str, Any], scales: Any, sizes: Any, domain: str
) -> tuple[Node, list[Array | None]]:
    arrays = [
        x,
        None,
        None if scales is None else np.array(scales, np.float32),
        None if sizes is None else np.array(sizes, np.int64),
    ]
    values = [new_value("x", x.dtype, x.shape, layout)]
    values += [None if a is None else constant(a) for a in arrays[1:]]  # type: ignore[misc]
    node = Node(
        "Resize", values, [new_value("y", x.dtype, layout=layout)], attrs, domain, version=13
    )
    return node, arrays


def _cases(channels: int) -> Any:
    for layout, transform, (scales, sizes) in itertools.product(
        (None, NHWC), TRANSFORMS[:-1], TARGETS
    ):
        given = None if sizes is None else [2, channels, *sizes[2:]]
        yield layout, transform, scales, given


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_nearest(dtype: str) -> None:
    rng = np.random.default_rng(1)
    spec = resize.SPEC if dtype == "uint8" else resize.ONNX_SPEC
    with Cases("Resize nearest") as cases:
        for channels in (3, 20):
            x = codes(rng, (2, channels, 5, 7)).astype(dtype)
            for layout, transform, scales, sizes in _cases(channels):
                for rounding in ROUNDINGS:
                    attrs = {
                        "mode": "nearest",
                        "coordinate_transformation_mode": transform,
                        "nearest_mode": rounding,
                    }
                    node, arrays = _node(x, layout, attrs, scales, sizes, spec.domain)
                    want = None
                    if transform not in NOT_IN_ORACLE:
                        want = onnx_outputs("Resize", 13, attrs, arrays)
                    case = (channels, layout, transform, rounding, scales, sizes)
                    ties = _has_near_ties(node)
                    oracle = None if ties else want
                    cases.node(case, spec, node, arrays, oracle, specs=["", "portable"])


def _has_near_ties(node: Node) -> bool:
    """The oracle computes coordinates in float64: near a rounding boundary it may differ."""
    from qrt.ops.resize_axes import parse

    for axis in parse(node).axes:
        near = np.abs(axis.coordinates * 2 - np.rint(axis.coordinates * 2))
        if (near < 1e-4).any():
            return True
    return False


def test_linear_float() -> None:
    rng = np.random.default_rng(2)
    with Cases("Resize linear") as cases:
        for channels in (3, 20):
            x = rng.standard_normal((2, channels, 5, 7)).astype(np.float32)
            for layout, transform, scales, sizes in _cases(channels):
                attrs = {"mode": "linear", "coordinate_transformation_mode": transform}
                node, arrays = _node(x, layout, attrs, scales, sizes, "")
                want = None
                # the oracle takes a length of 2.99 where the output has 2: not what ONNX says
                fractional = transform == "align_corners" and scales and 0.6 in scales
                if not fractional and transform not in NOT_IN_ORACLE:
                    want = onnx_outputs("Resize", 13, attrs, arrays)
                cases.node(
                    (channels, layout, transform, scales, sizes), resize.ONNX_SPEC, node, arrays,
                    want, oracle_compare=within(1e-5, 1e-5),
                )  # fmt: skip


def test_linear_quantized() -> None:
    """The same as dequantize, the float operator, quantize."""
    rng = np.random.default_rng(3)
    qx, qy = qparams(0.02, 100), qparams(0.021, 255)
    with Cases("Resize linear") as cases:
        for channels in (3, 20):
            x = codes(rng, (2, channels, 5, 7))
            real = plain_dequantize(x, qx)
            for layout, transform, scales, sizes in _cases(channels):
                attrs = {"mode": "linear", "coordinate_transformation_mode": transform}
                node, arrays = _node(real, layout, attrs, scales, sizes, "")
                between = resize.ONNX_SPEC.reference(node, arrays)[0]  # type: ignore[misc]
                node, arrays = _node(x, layout, {**attrs, "x": qx, "y": qy}, scales, sizes, "qrt")
                want = [plain_quantize(between, qy)]
                case = (channels, layout, transform, scales, sizes)
                cases.node(case, resize.SPEC, node, arrays, want)


def test_upsample_takes_scales_from_either_place() -> None:
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    scales = np.array([1, 1, 2, 3], np.float32)
    want = [x.repeat(2, 2).repeat(3, 3)]
    out = new_value("y", x.dtype)
    with Cases("Upsample") as cases:
        value = new_value("x", x.dtype, x.shape)
        node = Node("Upsample", [value], [out], {"scales": [1.0, 1.0, 2.0, 3.0]}, version=7)
        cases.node(7, resize.UPSAMPLE, node, [x], want)
        node = Node("Upsample", [value, constant(scales)], [out], {}, version=9)
        cases.node(9, resize.UPSAMPLE, node, [x, scales], want)


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"mode": "cubic"}, "mode='cubic'"),
        ({"antialias": 1}, "antialias=1"),
        ({"coordinate_transformation_mode": "sideways"}, "sideways"),
        ({"keep_aspect_ratio_policy": "not_larger"}, "not_larger"),
        ({"colour": 3}, "'colour'"),
    ],
)
def test_what_is_refused(attrs: dict[str, Any], words: str) -> None:
    x = np.zeros((1, 1, 2, 2), np.float32)
    node, _ = _node(x, None, attrs, [1, 1, 2, 2], None, "")
    with pytest.raises(UnsupportedError, match=words):
        resize.ONNX_SPEC.infer(node)
