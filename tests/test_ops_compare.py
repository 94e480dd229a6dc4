"""Comparisons, logic and Where against NumPy, broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_harness import new_value
from operator_cases import NHWC, Cases

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ops import compare, where

SHAPES = (
    ((2, 3, 5, 7), NHWC, (2, 3, 5, 7), NHWC),
    ((2, 3, 5, 7), NHWC, (3, 1, 1), None),
    ((3, 1), None, (1, 40), None),
    ((1,), None, (33,), None),
    ((0, 3), None, (1, 3), None),
    ((), None, (), None),
)


def _draw(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Any:
    x = np.asarray(rng.integers(0, 3, shape)).astype(dtype)
    if dtype == "float32" and x.size > 1:
        x.reshape(-1)[0] = np.nan
    return x


@pytest.mark.parametrize("spec", compare.SPECS, ids=lambda s: s.op)
def test_comparisons(spec: Any) -> None:
    rng = np.random.default_rng(1)
    _, function, dtypes = compare.COMPARISONS[spec.op]
    with Cases(spec.op) as cases:
        for dtype in dtypes:
            for sa, la, sb, lb in SHAPES:
                a, b = _draw(rng, dtype, sa), _draw(rng, dtype, sb)
                layout = la if len(sa) >= len(sb) else lb
                values = [new_value("a", dtype, sa, la), new_value("b", dtype, sb, lb)]
                node = Node(spec.op, values, [new_value("y", bool, layout=layout)], {}, version=16)
                want = [np.asarray(function(a, b))]
                cases.node((dtype, sa, sb), spec, node, [a, b], want, specs=["portable", ""])


def test_where_and_not() -> None:
    rng = np.random.default_rng(2)
    with Cases("Where") as cases:
        for dtype in ("uint8", "int16", "float32", "int64"):
            for sa, la, sb, lb in SHAPES:
                c = _draw(rng, "bool", sa)
                a, b = _draw(rng, dtype, sb), _draw(rng, dtype, (1,) * len(sa))
                layout = la if len(sa) >= len(sb) else lb
                values = [
                    new_value("c", bool, sa, la),
                    new_value("a", dtype, sb, lb),
                    new_value("b", dtype, b.shape),
                ]
                node = Node("Where", values, [new_value("y", dtype, layout=layout)], version=16)
                want = [np.where(c, a, b)]
                cases.node((dtype, sa, sb), where.WHERE, node, [c, a, b], want, specs=[""])
        x = _draw(rng, "bool", (9001,))
        node = Node("Not", [new_value("x", bool, x.shape)], [new_value("y", bool)])
        cases.node("Not", where.NOT, node, [x], [~x], specs=[""])


def test_mixed_types_are_refused() -> None:
    values = [new_value("a", np.int32, (2,)), new_value("b", np.int64, (2,))]
    node = Node("Equal", values, [new_value("y", bool, (2,))])
    spec = next(s for s in compare.SPECS if s.op == "Equal")
    with pytest.raises(UnsupportedError, match="int32 and int64"):
        spec.lower(node, None)  # type: ignore[arg-type, misc]
