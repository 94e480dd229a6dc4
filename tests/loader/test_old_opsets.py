"""Opsets 1 to 6: what operators meant then, told by plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import qrt
from qrt.errors import ModelError, QrtError
from qrt.loader import load_graph
from qrt.loader.old_opsets import BASE, REWRITES
from tests.loader.models import Array, f32, make_model, node, tensor_info

X = np.random.default_rng(0).normal(0, 2, (2, 3, 4, 5)).astype(np.float32)
ROWS = f32(1, 2, 3)  # along axis 1
BLOCK = np.arange(1, 13, dtype=np.float32).reshape(3, 4)  # along axes 1 and 2
BOOLS = X > 0
MEANS = {"s": f32(1, 2, 3), "b": f32(0, 1, 0), "m": f32(0, 0, 1), "v": f32(1, 4, 1)}


def unpacked(values: Array) -> Array:
    return values[:, None, None]


def selu(alpha: float, gamma: float) -> Array:
    return np.where(X > 0, gamma * X, gamma * alpha * (np.exp(X) - 1)).astype(np.float32)


# opset, node, constants, expected for the input x
Case = tuple[int, onnx.NodeProto, dict[str, Array], Array]
CASES: dict[str, Case] = {
    "Add axis 1": (
        6, node("Add", "x b", "y", broadcast=1, axis=1), {"b": ROWS}, X + unpacked(ROWS)
    ),
    "Sub axis 1 and 2": (
        1, node("Sub", "x b", "y", broadcast=1, axis=1, consumed_inputs=[0, 0]), {"b": BLOCK},
        X - BLOCK[:, :, None],
    ),
    "Mul last": (
        6, node("Mul", "x b", "y", broadcast=1), {"b": f32(1, 2, 3, 4, 5)}, X * f32(1, 2, 3, 4, 5)
    ),
    "Div alike": (6, node("Div", "x x", "y"), {}, X / X),
    "Pow axis 1": (
        1, node("Pow", "x b", "y", broadcast=1, axis=1), {"b": ROWS}, X ** unpacked(ROWS)
    ),
    "Greater axis 0": (
        1, node("Greater", "x b", "y", broadcast=1, axis=0), {"b": f32(0, 1)},
        np.greater(X, f32(0, 1)[:, None, None, None]),
    ),
    "PRelu per channel": (
        6, node("PRelu", "x b", "y"), {"b": ROWS}, np.where(X < 0, X * unpacked(ROWS), X)
    ),
    "PRelu shared": (1, node("PRelu", "x b", "y"), {"b": f32(0.5)}, np.where(X < 0, X / 2, X)),
    "Cast to a name": (1, node("Cast", "x", "y", to="INT32"), {}, X.astype(np.int32)),
    "Cast": (6, node("Cast", "x", "y", to=TensorProto.INT32), {}, X.astype(np.int32)),
    "Concat default axis": (1, node("Concat", "x x", "y"), {}, np.concatenate([X, X], 1)),
    "Dropout at inference": (6, node("Dropout", "x", "y", is_test=1, ratio=0.9), {}, X),
    "BatchNormalization": (
        6, node("BatchNormalization", "x s b m v", "y", is_test=1, epsilon=0.0), MEANS,
        (X - unpacked(MEANS["m"])) / np.sqrt(unpacked(MEANS["v"])) * unpacked(MEANS["s"])
        + unpacked(MEANS["b"]),
    ),
    "Pad": (
        1, node("Pad", "x", "y", paddings=[0, 0, 1, 0, 0, 0, 0, 2], value=3.0), {},
        np.pad(X, [(0, 0), (0, 0), (1, 0), (0, 2)], constant_values=3),
    ),
    "Reshape": (1, node("Reshape", "x", "y", shape=[0, -1]), {}, X.reshape(2, 60)),
    "Reshape to an input": (
        5, node("Reshape", "x s", "y"), {"s": np.array([6, 20])}, X.reshape(6, 20)
    ),
    "Selu 1": (1, node("Selu", "x", "y"), {}, selu(1.6732, 1.0507)),
    "Selu 6": (6, node("Selu", "x", "y"), {}, selu(1.6732632423543772, 1.0507009873554805)),
    "Split with lengths": (
        1, node("Split", "x s", "y z", axis=3), {"s": np.array([2, 3])}, X[..., :2]
    ),
    "Tile": (
        1, node("Tile", "x t a", "y"), {"t": np.array(3), "a": np.array(2)},
        np.tile(X, (1, 1, 3, 1)),
    ),
    "Tile 6": (
        6, node("Tile", "x r", "y"), {"r": np.array([1, 2, 1, 1])}, np.tile(X, (1, 2, 1, 1))
    ),
    "Upsample": (
        1, node("Upsample", "x", "y", height_scale=2.0, width_scale=1.0), {}, X.repeat(2, axis=2)
    ),
    "LpPool": (
        1, node("LpPool", "x", "y", p=1.0, kernel_shape=[1, 1]), {}, np.abs(X)
    ),
    "Relu": (1, node("Relu", "x", "y", consumed_inputs=[0]), {}, np.maximum(X, 0)),
}  # fmt: skip


@pytest.mark.parametrize("dims", [X.shape, None], ids=["known", "unknown"])
@pytest.mark.parametrize("name", CASES)
def test_meaning(name: str, dims: Any) -> None:
    opset, made, constants, expected = CASES[name]
    kind = onnx.helper.np_dtype_to_tensor_dtype(expected.dtype)
    model = make_model(
        [made], inputs=[tensor_info("x", dims)], outputs=[tensor_info("y", None, kind)],
        constants=constants, opset=opset, ir_version=3,
    )  # fmt: skip
    got = qrt.load(model).run(["y"], {"x": X})[0]
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_gemm_and_logic() -> None:
    a, b, c = X[0, 0], X[0, 1].T, f32(1, 2, 3, 4)
    model = make_model(
        [node("Gemm", "a b c", "y", broadcast=1)], inputs=[tensor_info("a", a.shape)],
        constants={"b": np.ascontiguousarray(b), "c": c}, opset=6,
    )  # fmt: skip
    np.testing.assert_allclose(qrt.load(model)(a), a @ b + c, rtol=1e-5)
    other = np.array([True, False, True])
    for op, function in LOGIC.items():
        model = make_model(
            [node(op, "x b", "y", broadcast=1, axis=1)],
            inputs=[tensor_info("x", X.shape, TensorProto.BOOL)],
            outputs=[tensor_info("y", None, TensorProto.BOOL)], constants={"b": other}, opset=1,
        )  # fmt: skip
        np.testing.assert_array_equal(qrt.load(model)(BOOLS), function(BOOLS, unpacked(other)))


LOGIC: dict[str, Callable[..., Array]] = {
    "And": np.logical_and, "Equal": np.equal, "Or": np.logical_or, "Xor": np.logical_xor,
}  # fmt: skip


def test_dropout_and_batchnorm_in_training() -> None:
    """They stay what they were: random, and of the batch's own statistics."""
    model = make_model(
        [node("Dropout", "x", "y", ratio=0.5)], inputs=[tensor_info("x", X.shape)], opset=6
    )
    y = qrt.load(model)(X)
    assert ((y == 0) | np.isclose(y, 2 * X)).all() and (y == 0).any() and (y != 0).any()
    model = make_model(
        [node("BatchNormalization", "x s b m v", "y m2 v2", epsilon=0.0)],
        inputs=[tensor_info("x", X.shape)], constants=MEANS, opset=6,
    )  # fmt: skip
    axes = (0, 2, 3)
    mean, variance = X.mean(axes, keepdims=True), X.var(axes, keepdims=True)
    expected = (X - mean) / np.sqrt(variance) * unpacked(MEANS["s"]) + unpacked(MEANS["b"])
    np.testing.assert_allclose(
        qrt.load(model).run(["y"], {"x": X})[0], expected, rtol=1e-4, atol=1e-5
    )


def test_what_is_wrong_is_named() -> None:
    for made, opset, says in (
        (node("Add", "x x", "y", broadcast=1, axis=-2), 6, "Add.*axis must be 0 or more, got -2"),
        (node("Cast", "x", "y", to="FLOATS"), 1, "Cast.*to='FLOATS' is no type"),
        (node("Upsample", "x", "y", height_scale=2.0), 1, "'width_scale' is required"),
        (node("Add", "x x", "y", broadcast=2), 6, "'broadcast' must be 0 or 1, got 2"),
    ):
        with pytest.raises(ModelError, match=says):
            load_graph(make_model([made], opset=opset))
    with pytest.raises(QrtError):  # no axis 3 in x
        model = make_model(
            [node("Add", "x b", "y", broadcast=1, axis=3)], constants={"b": ROWS}, opset=6
        )
        qrt.load(model)


def test_every_operator_that_changed_has_a_rewrite() -> None:
    """One whose attributes or inputs are others in opset 7 is in the table, or loses some."""
    forms: dict[str, dict[int, tuple[set[str], int]]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= BASE:
            form = (
                set(schema.attributes) - {"consumed_inputs", "output_sequence"},
                schema.min_input,
            )
            forms.setdefault(schema.name, {})[schema.since_version] = form
    changed = {
        op for op, by in forms.items()
        if any(names - by[max(by)][0] or least != by[max(by)][1] for names, least in by.values())
    }  # fmt: skip
    assert changed and changed <= REWRITES.keys(), changed - REWRITES.keys()
