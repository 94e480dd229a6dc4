"""MatMul, Gemm and Conv of float32 against float64, with the same bits whatever threads and CPU."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from kernel_harness import channels_last, new_value
from operator_cases import Cases, constant, onnx_outputs, within

from qrt.ir import Node
from qrt.ops import float_conv, float_matmul

Array = np.ndarray[Any, Any]
# sums of up to 288 products of normal numbers: a few ulp of the largest partial sum
CLOSE = within(1e-5, 2e-5)


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def test_matmul() -> None:
    rng = np.random.default_rng(1)
    shapes = (
        ((5, 7), (7, 9)), ((1, 64), (64, 100)), ((37, 30), (30, 65)), ((2, 3, 5, 7), (7, 33)),
        ((2, 3, 5, 7), (3, 7, 33)), ((7,), (7, 5)), ((5, 7), (7,)), ((7,), (7,)),
        ((2, 1, 4, 8), (1, 3, 8, 40)), ((4, 0), (0, 40)), ((0, 3), (3, 4)), ((3, 5), (5, 31)),
        ((4, 5), (5, 32)), ((5, 5), (5, 33)), ((3, 5), (5, 64)), ((16, 9), (9, 16)),
        ((3, 1), (1, 17)), ((2, 4, 3), (2, 3, 15)),
    )  # fmt: skip
    with Cases("MatMul") as cases:
        for sa, sb in shapes:
            a, b = _random(rng, sa), _random(rng, sb)
            values = [new_value("a", a.dtype, sa), new_value("b", b.dtype, sb)]
            node = Node("MatMul", values, [new_value("y", a.dtype)], {}, version=13)
            want = [np.asarray(np.matmul(a, b))]
            cases.node((sa, sb), float_matmul.MATMUL, node, [a, b], want, CLOSE)


def test_matmul_of_keys() -> None:
    """The right operand transposed in memory, as the keys of attention are: packed by columns."""
    rng = np.random.default_rng(7)
    with Cases("MatMul of keys") as cases:
        for m, k, n in ((3, 5, 7), (9, 8, 8), (4, 17, 70), (1, 32, 65), (6, 33, 129), (5, 1, 9)):
            a, b = _random(rng, (2, 3, m, k)), _random(rng, (2, 3, k, n))
            values = [new_value("a", a.dtype, a.shape), new_value("b", b.dtype, b.shape)]
            values[1].layout = (0, 3, 1, 2)
            node = Node("MatMul", values, [new_value("y", a.dtype)], {}, version=13)
            want = [np.asarray(np.matmul(a, b))]
            cases.node((m, k, n), float_matmul.MATMUL, node, [a, b], want, CLOSE)


def test_gemm() -> None:
    rng = np.random.default_rng(2)
    shapes = (
        (1, 64, 1000, (1000,)), (5, 7, 9, (5, 1)), (33, 20, 40, (33, 40)), (8, 8, 8, ()),
        (4, 9, 32, None), (3, 4, 17, (1, 17)),
    )  # fmt: skip
    with Cases("Gemm") as cases:
        for (m, k, n, shape), ta, tb in itertools.product(shapes, (0, 1), (0, 1)):
            a, b = _random(rng, (k, m) if ta else (m, k)), _random(rng, (n, k) if tb else (k, n))
            arrays = [a, b]
            values = [new_value("a", a.dtype, a.shape), constant(b)]
            if shape is not None:
                arrays.append(_random(rng, shape))
                values.append(constant(arrays[2]))
            attrs = {"alpha": 0.5, "beta": 2.0, "transA": ta, "transB": tb}
            node = Node("Gemm", values, [new_value("y", a.dtype)], attrs, version=13)
            want = onnx_outputs("Gemm", 13, attrs, arrays)
            cases.node((m, k, n, shape, ta, tb), float_matmul.GEMM, node, arrays, want, CLOSE)


def test_conv() -> None:
    rng = np.random.default_rng(3)
    geometries: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
        ((7, 9), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((6, 5), {"pads": [1, 2, 0, 1], "dilations": [2, 1]}),
        ((11,), {"strides": [2], "pads": [1, 1]}),
        ((8, 8), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
        ((3, 3), {}),
    )
    channels = ((3, 16, 1), (16, 70, 1), (5, 3, 1), (32, 64, 4), (37, 37, 37), (6, 12, 6))
    with Cases("Conv") as cases:
        for (inputs, outputs, group), (spatial, attrs), biased in itertools.product(
            channels, geometries, (False, True)
        ):
            x = _random(rng, (2, inputs, *spatial))
            w = _random(rng, (outputs, inputs // group, *[3] * len(spatial)))
            arrays = [x, w, _random(rng, (outputs,))][: 3 if biased else 2]
            layout = channels_last(x.ndim)
            values = [new_value("x", x.dtype, x.shape, layout), *(constant(a) for a in arrays[1:])]
            given = {**attrs, "group": group}
            node = Node(
                "Conv", values, [new_value("y", x.dtype, layout=layout)], given, version=11
            )
            want = onnx_outputs("Conv", 11, given, arrays)
            case = (inputs, outputs, group, spatial, attrs, biased)
            cases.node(case, float_conv.SPEC, node, arrays, want, CLOSE)
