"""Host operators that qrt computes itself: onnxruntime, which has them too, gives the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest

from qrt.errors import QrtError
from qrt.ir import Node, Value
from qrt.ops.host_functions import HOST_FUNCTIONS, own_function
from qrt.ops.one_node import Evaluator, one_node_model
from tests.graphs.draw import Array

RNG = np.random.default_rng(0)
X = RNG.normal(0, 1, (2, 6, 5, 7)).astype(np.float32)
CHANNELS = [RNG.uniform(0.5, 2, 6).astype(np.float32) for _ in range(4)]
ELEMENTS = [RNG.uniform(0.5, 2, X.shape[1:]).astype(np.float32) for _ in range(4)]
GRID = RNG.uniform(-1.2, 1.2, (2, 3, 4, 2)).astype(np.float32)
BOXES = np.array([[1, 2, 6, 7], [0, 0, 3, 3], [5, 1, 9, 9]], np.float32)
REGIONS = np.array([[0, 1, 0, 4, 4], [1, 0, 2, 9, 8], [1, 3, 3, 3, 3]], np.float32)
WORDS = np.array([["b", "a"], ["x", "c"]], object)
A, B = (RNG.integers(0, 256, s, np.uint8) for s in ((2, 4, 9), (9, 5)))
PIXELS, FILTERS = (RNG.integers(0, 256, s, np.uint8) for s in ((2, 4, 5, 6), (6, 2, 3, 2)))
ZERO = np.array(7, np.uint8)
MAPPED = {"cats_strings": ["a", "b", "c"], "cats_int64s": [7, 8, 9]}


@dataclass
class Case:
    op: str
    version: int
    inputs: list[Array]
    attrs: dict[str, Any] = field(default_factory=dict)
    domain: str = ""


CASES = [
    *(Case(op, 11, [X], {"axis": axis}) for op in ("Hardmax", "LogSoftmax", "Softmax")
      for axis in (0, 1, 2, -1)),
    Case("Softmax", 1, [X]),
    Case("GlobalLpPool", 2, [X]),
    Case("GlobalLpPool", 2, [X], {"p": 3}),
    Case("Scatter", 9, [X[0, 0], np.array([[1, 0, 2], [0, 2, 1]]), X[1, :2, 0, :3]], {"axis": 1}),
    Case("Scatter", 9, [X[0, 0], np.array([[1, 0, 2]]), X[1, :1, 0, :3]]),
    Case("MeanVarianceNormalization", 13, [X]),
    Case("MeanVarianceNormalization", 9, [X], {"axes": [1, 3]}),
    Case("GroupNormalization", 18, [X, *(c[:3] for c in CHANNELS[:2])], {"num_groups": 3}),
    Case("BatchNormalization", 7, [X, *CHANNELS], {"epsilon": 0.01}),
    Case("BatchNormalization", 8, [X, *ELEMENTS], {"spatial": 0}),
    *(Case("GridSample", 16, [X, GRID], {"mode": mode, "padding_mode": padding})
      for mode in ("bilinear", "nearest") for padding in ("zeros", "border", "reflection")),
    Case("RoiAlign", 10, [X, BOXES, np.array([0, 1, 1])],
         {"output_height": 2, "output_width": 3, "sampling_ratio": 2, "spatial_scale": 0.5}),
    Case("MatMulInteger", 10, [A, B, ZERO, B[1]]),
    Case("MatMulInteger", 10, [A, B]),
    Case("ConvInteger", 10, [PIXELS, FILTERS, ZERO, ZERO],
         {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    Case("MaxRoiPool", 1, [X, REGIONS], {"pooled_shape": [2, 3]}),
    Case("MaxRoiPool", 1, [X, REGIONS], {"pooled_shape": [4, 4], "spatial_scale": 0.5}),
    *(Case("Upsample", 7, [X], {"mode": mode, "scales": [1.0, 1.0, 2.0, 3.0]})
      for mode in ("nearest", "linear")),
    Case("Upsample", 9, [X, np.array([1, 1, 1.6, 2], np.float32)]),
    *(Case("Resize", 10, [X, np.array([1, 1, *scales], np.float32)], {"mode": mode})
      for mode in ("nearest", "linear") for scales in ((2, 2), (0.6, 1.5))),
    Case("CategoryMapper", 1, [WORDS], MAPPED, "ai.onnx.ml"),
    Case("CategoryMapper", 1, [np.array([9, 1, 7])], MAPPED, "ai.onnx.ml"),
    Case("LabelEncoder", 1, [WORDS], {"classes_strings": ["c", "b", "a"], "default_int64": -3},
         "ai.onnx.ml"),
    Case("LabelEncoder", 1, [np.array([2, 5, 0])], {"classes_strings": ["c", "b", "a"]},
         "ai.onnx.ml"),
]  # fmt: skip


def make_node(case: Case) -> Node:
    values: list[Value | None] = [
        Value(f"x{i}", a.dtype, a.shape) for i, a in enumerate(case.inputs)
    ]
    return Node(case.op, values, [Value("y")], case.attrs, case.domain, version=case.version)


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{i}-{c.op}-{c.version}" for i, c in enumerate(CASES)]
)
def test_as_onnxruntime(case: Case) -> None:
    node = make_node(case)
    assert own_function(node) is not None
    evaluator = Evaluator(node)
    assert evaluator.own
    (got,) = evaluator(case.inputs)
    model = one_node_model(node, case.version, ())
    model.ir_version = 8
    if case.domain == "":
        del model.opset_import[1:]
        model.opset_import[0].version = case.version
    else:
        model.opset_import[0].version = 17
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [info.name for info in session.get_inputs()]
    (expected,) = session.run(None, dict(zip(names, case.inputs, strict=True)))
    if expected.dtype.kind in "OSU":
        assert got.dtype == object and got.tolist() == expected.tolist()
        return
    assert got.dtype == expected.dtype and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_multinomial_draws_with_the_odds_given() -> None:
    odds = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.0001, 0.8999]], np.float32))
    case = Case("Multinomial", 7, [odds], {"sample_size": 20000, "seed": 3.0})
    (drawn,) = Evaluator(make_node(case))(case.inputs)
    assert drawn.shape == (2, 20000) and drawn.dtype == np.int32
    shares = [[(row == i).mean() for i in range(3)] for row in drawn]
    np.testing.assert_allclose(shares, np.exp(odds), atol=0.02)  # 5 standard deviations
    (again,) = Evaluator(make_node(case))(case.inputs)
    assert (again == drawn).all()


def test_integer_products_with_vectors_of_zero_points() -> None:
    """Of rows and of channels, which onnxruntime does not take: the sums one by one."""
    rows = A[0, :, 0]
    (got,) = Evaluator(make_node(Case("MatMulInteger", 10, [A[1], B, rows])))([A[1], B, rows])
    for i, j in np.ndindex(4, 5):
        sums = [(int(a) - int(rows[i])) * int(b) for a, b in zip(A[1, i], B[:, j], strict=True)]
        assert got[i, j] == sum(sums)
    zeros, x, w = A[0, 0, :6], PIXELS[:1, :2, :3, :2], FILTERS
    (got,) = Evaluator(make_node(Case("ConvInteger", 10, [x, w, ZERO, zeros])))([x, w, ZERO, zeros])
    assert got.shape == (1, 6, 1, 1) and got.dtype == np.int32
    for channel in range(6):
        pairs = zip(x[0].ravel().tolist(), w[channel].ravel().tolist(), strict=True)
        want = sum((a - 7) * (b - int(zeros[channel])) for a, b in pairs)
        assert got[0, channel, 0, 0] == want


def test_all_of_them_are_tried() -> None:
    elsewhere = {("", "Multinomial"), ("", "MaxPool")}  # below, and test_pool3d.py
    tried = {(c.domain, c.op) for c in CASES} | elsewhere
    assert tried == {(spec.domain, spec.op) for spec in HOST_FUNCTIONS}


def test_bad_attributes_are_named() -> None:
    for case, says in (
        (Case("GroupNormalization", 18, [X], {"num_groups": 0}), "num_groups must be 1 or more"),
        (Case("Multinomial", 7, [X], {"sample_size": -1}), "sample_size must be 0 or more"),
        (Case("MaxRoiPool", 1, [X], {"pooled_shape": [1]}), "'pooled_shape' must be a list of 2"),
        (Case("Upsample", 7, [X], {"mode": "cubic", "scales": [1.0] * 4}), "mode='cubic' is not"),
    ):
        with pytest.raises(QrtError, match=says):
            Evaluator(make_node(case))
