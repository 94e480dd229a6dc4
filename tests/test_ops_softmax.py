"""Softmax of uint8 (exact integer sums) and of float32."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from kernel_harness import new_value
from operator_cases import NHWC, Cases, codes, onnx_outputs, plain_quantize, qparams, within

from qrt.ir import Node
from qrt.ops import float_softmax, masked_softmax, quantized_softmax

CASES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1, 1000), (1,)),
    ((2, 21, 5, 7), (1,)),
    ((2, 3, 5, 7), (1, 2, 3)),
    ((4, 7), (0,)),
    ((3,), (0,)),
    ((3, 1), (1,)),
    ((2, 3, 4, 5), (0, 2)),
    ((0, 3), (1,)),
]


@pytest.mark.parametrize("real", [False, True], ids=["u8", "to_f32"])
def test_quantized(real: bool) -> None:
    rng = np.random.default_rng(1)
    with Cases("Softmax") as cases:
        for (shape, axes), scale in itertools.product(CASES, (0.002, 0.1, 3.0)):
            x = codes(rng, shape)
            y = None if real else qparams(1 / 256, 0)
            attrs = {"axes": axes, "x": qparams(scale, 7), "y": y}
            table = [round(math.exp(-d * float(np.float32(scale))) * 2**23) for d in range(256)]
            top = x.max(axis=axes, keepdims=True, initial=0).astype(int)
            e = np.array(table)[top - x]
            p = e.astype(np.float32) / e.sum(axis=axes, keepdims=True).astype(np.float32)
            want = p if y is None else plain_quantize(p, y)
            for layout in (None, NHWC) if len(shape) == 4 else (None,):
                node = Node(
                    "Softmax",
                    [new_value("x", np.uint8, shape, layout)],
                    [new_value("y", np.uint8, layout=layout)],
                    attrs,
                    "qrt",
                )
                cases.node((shape, axes, scale, layout), quantized_softmax.SPEC, node, [x], [want])


@pytest.mark.parametrize("spec", float_softmax.SPECS, ids=lambda s: s.op)
def test_float(spec: Any) -> None:
    rng = np.random.default_rng(2)
    # exponentials are right to 1.5 ulp, sums of n of them to about n / 16 more
    compare = within(4e-6, 4e-6 if spec.op == "LogSoftmax" else 1e-9)
    with Cases(spec.op) as cases:
        for shape, axis in (((3, 1000), 1), ((2, 21, 5, 7), 1), ((2, 3, 5, 17), -1), ((5,), 0)):
            for layout, version in itertools.product((None, NHWC), (13, 11)):
                if layout and len(shape) != 4:
                    continue
                x = (rng.standard_normal(shape) * 5).astype(np.float32)
                want = onnx_outputs(spec.op, 13, {"axis": axis}, [x])
                if version == 11:
                    first = axis % x.ndim
                    flat = x.reshape(math.prod(shape[:first]), -1)
                    (want_flat,) = onnx_outputs(spec.op, 13, {"axis": 1}, [flat])
                    want = [want_flat.reshape(shape)]
                node = Node(
                    spec.op,
                    [new_value("x", np.float32, shape, layout)],
                    [new_value("y", np.float32, layout=layout)],
                    {"axis": axis},
                    version=version,
                )
                cases.node((shape, axis, layout, version), spec, node, [x], want, compare)


def test_every_power_down_to_nothing() -> None:
    """Right down to the smallest normal floats, within the bound of `test_float`; then 0."""
    gaps = np.concatenate([np.linspace(0, 85.9, 3001), [86.5, 87.5, 90, 104, 1e9, np.inf]])
    x = np.float32(2.5) - gaps.astype(np.float32)[None]
    node = Node(
        "Softmax", [new_value("x", np.float32, x.shape)], [new_value("y", np.float32)], version=13
    )
    exact = np.exp(x.astype(np.float64) - 2.5)
    exact /= exact.sum()

    def close(got: Any, _: Any) -> str | None:
        tail = gaps > 85.9
        far = np.abs(got[0] - exact[0])[~tail] / exact[0][~tail]
        if far.max() > 4e-6:
            return f"{far.max()} of the value off"
        return None if not got[0][tail].any() else "the tail is not 0"

    with Cases("Softmax") as cases:
        cases.node("", float_softmax.SPECS[0], node, [x], compare=close)


def test_large_and_infinite_logits() -> None:
    x = np.array([[1e30, -1e30, 0], [-np.inf, 0, 0], [88, 89, 90]], np.float32)
    node = Node(
        "Softmax", [new_value("x", np.float32, (3, 3))], [new_value("y", np.float32)], version=13
    )
    with Cases("Softmax") as cases:
        spec = float_softmax.SPECS[0]
        cases.node("", spec, node, [x], compare=within(4e-6, 1e-9))


# x, the mask that is added, the factor
MASKED: list[tuple[tuple[int, ...], tuple[int, ...] | None, float]] = [
    ((2, 3, 5, 37), (2, 1, 1, 37), 0.25),
    ((2, 3, 6, 64), (3, 6, 64), 1.0),
    ((2, 3, 4, 16), None, 0.3),
    ((3, 1040), (1040,), -2.0),
]


def test_masked() -> None:
    """Against ONNX's Softmax of what is masked, and codes against QuantizeLinear of that."""
    rng = np.random.default_rng(6)
    with Cases("MaskedSoftmax") as cases:
        for (shape, mask, factor), real in itertools.product(MASKED, (True, False)):
            x = (rng.standard_normal(shape) * 5).astype(np.float32)
            arrays, values = [x], [new_value("x", np.float32, shape)]
            logits = x.astype(np.float64) * np.float32(factor)
            if mask is not None:
                low = np.where(rng.random(mask) < 0.3, np.finfo(np.float32).min, 0)
                arrays.append(low.astype(np.float32))
                values.append(new_value("mask", np.float32, mask))
                logits = logits + arrays[1]
            (want,) = onnx_outputs("Softmax", 13, {"axis": -1}, [logits.astype(np.float32)])
            y = None if real else qparams(1 / 256, 3)
            node = Node(
                "MaskedSoftmax",
                list(values),
                [new_value("y", np.float32 if real else np.uint8)],
                {"factor": np.float32(factor), "y": y},
                "qrt",
            )
            # a probability beside half a step may fall to either side
            close = within(1e-5, 1e-9) if real else within(0, 1)
            codes_of = want if y is None else plain_quantize(want, y)
            cases.node((shape, real), masked_softmax.SPEC, node, arrays, [codes_of], close, close)
