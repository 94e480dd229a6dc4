"""Add and Mul of uint8, and the float32 operators of two inputs, over all kinds of broadcasting."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from kernel_harness import feature_levels, new_value
from operator_cases import (
    NHWC,
    Cases,
    codes,
    plain_dequantize,
    plain_quantize,
    qparams,
    same,
    within,
)

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ops import float_binary, quantized_binary
from qrt.ops.fixed_point import fixed_add
from qrt.ops.scaled_pairs import scaled_add, scaled_product

# (shape a, layout a, shape b, layout b); the output has the layout of the one of full rank
BROADCASTS = [
    ((2, 3, 5, 7), NHWC, (2, 3, 5, 7), NHWC),
    ((1, 64, 9, 9), None, (1, 64, 9, 9), None),
    ((2, 96, 5, 7), NHWC, (2, 96, 1, 1), NHWC),
    ((2, 96, 1, 1), NHWC, (2, 96, 5, 7), NHWC),
    ((1, 16, 12, 10), NHWC, (1, 16, 1, 1), NHWC),
    ((3, 16, 1, 1), NHWC, (3, 16, 12, 10), NHWC),
    ((16, 1, 1), None, (3, 16, 4, 10), NHWC),
    ((2, 3, 5, 7), NHWC, (3, 1, 1), None),
    ((2, 3, 5, 7), NHWC, (), None),
    ((), None, (2, 3, 5, 7), NHWC),
    ((2, 3, 5, 7), NHWC, (2, 1, 5, 7), NHWC),
    ((2, 3, 5, 7), None, (1, 1, 1, 7), None),
    ((2, 1, 3, 1, 2, 1, 4), None, (1, 2, 1, 3, 1, 2, 1), None),
    ((0, 3), None, (1, 3), None),
    ((3, 1), None, (1, 40), None),
    ((4099,), None, (4099,), None),
    ((17,), None, (1,), None),
    ((1,), None, (1,), None),
]


def _layout(sa: tuple[int, ...], la: Any, sb: tuple[int, ...], lb: Any) -> Any:
    return la if len(sa) >= len(sb) else lb


@pytest.mark.parametrize("spec", [quantized_binary.ADD, quantized_binary.MUL], ids=lambda s: s.op)
def test_quantized(spec: Any) -> None:
    rng = np.random.default_rng(1)
    with Cases(spec.op) as cases:
        for sa, la, sb, lb in BROADCASTS:
            a, b = codes(rng, sa), codes(rng, sb)
            y = qparams(0.04 if spec.op == "Add" else 0.11, 100)
            attrs: dict[str, Any] = {"a": qparams(0.02, 255), "b": qparams(0.031, 0), "y": y}
            attrs |= {"qmin": 3, "qmax": 250}
            node = Node(
                spec.op,
                [new_value("a", np.uint8, sa, la), new_value("b", np.uint8, sb, lb)],
                [new_value("y", np.uint8, layout=_layout(sa, la, sb, lb))],
                attrs,
                "qrt",
            )
            real_a, real_b = plain_dequantize(a, attrs["a"]), plain_dequantize(b, attrs["b"])
            real = np.add(real_a, real_b) if spec.op == "Add" else np.multiply(real_a, real_b)
            want = plain_quantize(real, y, 3, 250)
            cases.node((sa, la, sb, lb), spec, node, [a, b], [np.asarray(want)])


@pytest.mark.parametrize("spec", [quantized_binary.ADD, quantized_binary.MUL], ids=lambda s: s.op)
def test_every_pair_of_codes(spec: Any) -> None:
    """All 65536 pairs, with scales that make exact ties and with scales that do not."""
    a, b = (v.astype(np.uint8).reshape(-1) for v in np.meshgrid(range(256), range(256)))
    rng = np.random.default_rng(2)
    with Cases(f"{spec.op} of every pair") as cases:
        given = [(0.5, 0.25, 0.5), (1.0, 1.0, 2.0), (1.0, 1.0, 1.0)]
        given.append((2.0**-70, 2.0**-70, 2.0**-140))
        given += [tuple(rng.uniform(1e-3, 0.1, 3)) for _ in range(12)]
        for (sa, sb, sy), (za, zb, zy) in zip(
            given, itertools.cycle([(0, 0, 0), (255, 255, 255), (128, 3, 77)])
        ):
            attrs = {
                "a": qparams(sa, za), "b": qparams(sb, zb), "y": qparams(sy, zy),
                "qmin": 0, "qmax": 255,
            }  # fmt: skip
            node = Node(
                spec.op,
                [new_value("a", np.uint8, a.shape), new_value("b", np.uint8, b.shape)],
                [new_value("y", np.uint8)],
                attrs,
                "qrt",
            )
            case = (sa, sb, sy, za, zb, zy)
            cases.node(case, spec, node, [a, b], specs=feature_levels())


def test_most_scales_have_an_integer_formula() -> None:
    """The formula is proved on all pairs when it is made; here only that it is rarely missing."""
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(40):
        sa, sb = np.exp(rng.uniform(np.log(0.005), np.log(0.1), 2))
        za, zb, zy = rng.integers(0, 256, 3)
        y = qparams(np.hypot(sa, sb) * rng.uniform(0.7, 1.6), zy)
        found += fixed_add(_attrs(qparams(sa, za), qparams(sb, zb), y)) is not None
    assert found >= 36
    ties = [qparams(s, 0) for s in (0.5, 0.25, 0.5)]
    assert fixed_add(_attrs(*ties)) is None, "half to even is no floor"
    assert fixed_add(_attrs(qparams(1.0, 0), qparams(1.0, 0), qparams(1e-6, 0))) is None


def _attrs(a: Any, b: Any, y: Any) -> dict[str, Any]:
    return {"a": a, "b": b, "y": y, "qmin": 0, "qmax": 255}


@pytest.mark.parametrize("find", [scaled_add, scaled_product], ids=lambda f: f.__name__)
def test_most_scales_have_a_factor(find: Any) -> None:
    """Proved on all pairs when it is made; here only that it is rarely missing, ties included."""
    rng = np.random.default_rng(6)
    found = 0
    for i in range(40):
        sa, sb, sy = np.exp(rng.uniform(np.log(0.005), np.log(0.1), 3))
        if i % 2:  # short mantissas make exact ties
            sa, sb, sy = (np.round(s * 4096 + 1) / 4096 for s in (sa, sb, sy))
        za, zb, zy = rng.integers(0, 256, 3)
        found += find(_attrs(qparams(sa, za), qparams(sb, zb), qparams(sy, zy))) is not None
    assert found >= 24, found
    for tiny in (1e-30, 1e-44):
        attrs = _attrs(qparams(1.0, 0), qparams(1.0, 0), qparams(tiny, 0))
        assert find(attrs) is None, "rounding to int32 would overflow"


def test_per_channel_operands_are_refused() -> None:
    q = qparams(0.1, 0)
    per_channel = type(q)(np.ones(3, np.float32), np.zeros(3, np.uint8), q.dtype, 1)
    values = [new_value(n, np.uint8, (2, 3)) for n in "aby"]
    attrs = {"a": per_channel, "b": q, "y": q, "qmin": 0, "qmax": 255}
    node = Node("Add", values[:2], values[2:], attrs, "qrt")
    with pytest.raises(UnsupportedError, match="per channel"):
        quantized_binary.ADD.lower(node, None)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("spec", float_binary.SPECS, ids=lambda s: s.op)
def test_float(spec: Any) -> None:
    rng = np.random.default_rng(3)
    power = spec.op == "Pow"
    with Cases(spec.op) as cases:
        for sa, la, sb, lb in BROADCASTS:
            a, b = (rng.standard_normal(s).astype(np.float32) for s in (sa, sb))
            second = new_value("b", np.float32, sb, lb)
            if power:
                a = np.abs(a)
                b = rng.choice(float_binary.EXPONENTS, sb).astype(np.float32).reshape(sb)
                second.data = b
            node = Node(
                spec.op,
                [new_value("a", np.float32, sa, la), second],
                [new_value("y", np.float32, layout=_layout(sa, la, sb, lb))],
                {},
                version=13,
            )
            # a cube is rounded twice, a reciprocal root is two operations
            close = within(2.5e-7) if power else same
            cases.node((sa, la, sb, lb), spec, node, [a, b], None, close)


@pytest.mark.parametrize("op", ["Max", "Min", "Sum"])
def test_any_number_of_inputs(op: str) -> None:
    rng = np.random.default_rng(4)
    spec = next(s for s in float_binary.SPECS if s.op == op)
    shapes = ((2, 3, 4), (3, 1), (2, 3, 4), ())
    with Cases(op) as cases:
        for count in range(1, 5):
            xs = [rng.standard_normal(s).astype(np.float32) for s in shapes[:count]]
            values = [new_value(f"x{i}", np.float32, x.shape) for i, x in enumerate(xs)]
            node = Node(op, values, [new_value("y", np.float32)], {}, version=13)
            cases.node(count, spec, node, xs)
