"""QONNX's quantizers, QCDQ, and com.microsoft's QuantizeLinear, by their definitions.

The definitions are written out again here, from QONNX's operator pages (IntQuant 1, BipolarQuant 1,
Trunc 1 and 2). Scales are powers of two where bits are compared: then every product is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qrt
from qrt.errors import QrtError
from tests.contract.values import Array
from tests.loader.models import f32, node, scalar, tensor_info

QONNX = "qonnx.custom_op.general"
HOST = "host:"


def definition(
    x: Array, scale: Array, zero: Array, bits: int, signed: int, narrow: int, mode: str
) -> Array:
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    y = np.clip(x / scale + zero, np.float32(low), np.float32(high))
    return (ROUND[mode](y) - zero) * scale


def away(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda y: np.sign(y) * function(np.abs(y))


ROUND: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.round,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": away(np.ceil),
    "DOWN": away(np.floor),
    "HALF_UP": away(lambda y: np.floor(y + 0.5)),
    "HALF_DOWN": away(lambda y: np.ceil(y - 0.5)),
}


def test_the_table_of_roundings() -> None:
    """As the page of IntQuant lists it."""
    from qrt.quant.qonnx import ROUNDINGS

    x = f32(5.5, 2.5, 1.6, 1.1, 1.0, -1.0, -1.1, -1.6, -2.5, -5.5)
    told = {
        "ROUND": [6, 2, 2, 1, 1, -1, -1, -2, -2, -6],
        "CEIL": [6, 3, 2, 2, 1, -1, -1, -1, -2, -5],
        "FLOOR": [5, 2, 1, 1, 1, -1, -2, -2, -3, -6],
        "UP": [6, 3, 2, 2, 1, -1, -2, -2, -3, -6],
        "DOWN": [5, 2, 1, 1, 1, -1, -1, -1, -2, -5],
        "HALF_UP": [6, 3, 2, 1, 1, -1, -1, -2, -3, -6],
        "HALF_DOWN": [5, 2, 2, 1, 1, -1, -1, -2, -2, -5],
    }
    for mode, values in told.items():
        assert ROUNDINGS[mode](x).tolist() == values == ROUND[mode](x).tolist(), mode


def model(
    nodes: list[onnx.NodeProto],
    shape: tuple[Any, ...],
    constants: dict[str, Array],
    opset: int = 17,
    domain: str = QONNX,
    version: int = 1,
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [tensor_info("x", shape, kinds[0])], [tensor_info("y", None, kinds[1])],
        [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(domain, version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def quant(x: str, y: str, name: str = "", domain: str = QONNX, **attrs: Any) -> onnx.NodeProto:
    """A Quant whose parameters are called s, z and b, followed by `name`."""
    op = attrs.pop("op", "Quant")
    return node(op, f"{x} s{name} z{name} b{name}", y, domain=domain, **attrs)


def parameters(scale: Any, zero: Any, bits: float, name: str = "") -> dict[str, Array]:
    return {
        f"s{name}": np.asarray(scale, np.float32),
        f"z{name}": np.asarray(zero, np.float32),
        f"b{name}": np.asarray(bits, np.float32),
    }


X = np.concatenate(
    [np.random.default_rng(0).normal(0, 3, 1000), np.arange(-40, 40) / 8, [0.0, -0.0, 1e9, -1e9]]
).astype(np.float32)
PER_CHANNEL = np.array([0.25, 0.5, 1, 2], np.float32).reshape(1, 4, 1)
IMAGE = X[:1080].reshape(2, 4, 135)


@pytest.mark.parametrize("mode", ROUND)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 7, 8, 9, 16])
def test_quant(bits: int, mode: str) -> None:
    for signed, narrow in ((1, 0), (1, 1), (0, 0), (0, 1)):
        attrs = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
        for x, scale in ((X, np.float32(0.25)), (IMAGE, PER_CHANNEL)):
            for zero in (0.0, 2.0, 0.5):
                if zero == 2 and mode == "ROUND":
                    x = x[np.isfinite(x)] if x is X else x  # ties: an even zero point keeps them
                made = model([quant("x", "y", **attrs)], x.shape, parameters(scale, zero, bits))
                expected = definition(x, scale, np.float32(zero), bits, signed, narrow, mode)
                session = qrt.load(made)
                np.testing.assert_array_equal(session(x), expected, str((attrs, zero)))
                assert not hosted(session), session.explain()
                constant = model(
                    [quant("w", "d", **attrs), node("Add", "x d", "y")], x.shape,
                    parameters(scale, zero, bits) | {"w": x},
                )  # fmt: skip
                np.testing.assert_array_equal(qrt.load(constant)(0 * x), expected)


def hosted(session: qrt.Session) -> list[str]:
    return [row.operator for row in session.explain() if HOST in "".join(row.kernels)]


def operators(session: qrt.Session) -> list[str]:
    return [row.operator for row in session.explain()]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("domain", [QONNX, "onnx.brevitas", "finn.custom_op.general"])
def test_a_network_of_quants_is_integer(bits: int, domain: str) -> None:
    rng = np.random.default_rng(bits)
    x = rng.normal(0, 1, (2, 5, 9, 9)).astype(np.float32)
    w = rng.normal(0, 1, (7, 5, 3, 3)).astype(np.float32)
    scales = 2.0 ** rng.integers(-4, -1, (7, 1, 1, 1))
    nodes = [
        quant("x", "q", "x", domain), quant("w", "v", "w", domain, narrow=1),
        node("Conv", "q v", "c"), node("Relu", "c", "r"), quant("r", "y", "y", domain, signed=0),
    ]  # fmt: skip
    made = model(
        nodes, ("n", 5, 9, 9),
        {"w": w, **parameters(2.0**-3, 0, bits, "x"), **parameters(scales, 0, bits, "w"),
         **parameters(2.0**-2, 0, bits, "y")},
        domain=domain,
    )  # fmt: skip
    session = qrt.load(made)
    zero = np.float32(0)
    a = definition(x, np.float32(2**-3), zero, bits, 1, 0, "ROUND").astype(np.float64)
    b = definition(w, scales.astype(np.float32), zero, bits, 1, 1, "ROUND").astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(a, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, b)
    expected = definition(
        np.maximum(sums, 0).astype(np.float32), np.float32(2**-2), zero, bits, 0, 0, "ROUND"
    )
    np.testing.assert_array_equal(session(x), expected)
    ran = operators(session)
    assert "qrt.Conv" in ran and "Conv" not in ran and "Relu" not in ran, session.explain()
    # limits belong into the product; of a float input they are a table
    assert "qrt.Lookup" not in ran[ran.index("qrt.Conv") :]


def test_bipolar_quant() -> None:
    x, scale = IMAGE, PER_CHANNEL
    expected = np.where(x >= 0, scale, -scale)
    made = model([node("BipolarQuant", "x s", "y", domain=QONNX)], x.shape, {"s": scale})
    np.testing.assert_array_equal(qrt.load(made)(x), expected)
    # of codes it is a table, and of weights integers
    nodes = [
        quant("x", "q"), node("BipolarQuant", "q t", "p", domain=QONNX),
        node("BipolarQuant", "w s", "v", domain=QONNX), node("MatMul", "p v", "y"),
    ]  # fmt: skip
    w = np.random.default_rng(1).normal(0, 1, (5, 3)).astype(np.float32)
    made = model(
        nodes, (4, 5), {"w": w, "t": scalar(0.5), **parameters(0.25, 0, 8)} | {"s": scalar(0.25)}
    )
    session = qrt.load(made)
    x = X[:20].reshape(4, 5)
    steps = definition(x, np.float32(0.25), np.float32(0), 8, 1, 0, "ROUND")
    expected = np.where(steps >= 0, 0.5, -0.5) @ np.where(w >= 0, 0.25, -0.25)
    np.testing.assert_array_equal(session(x), expected.astype(np.float32))
    assert not hosted(session)


@pytest.mark.parametrize("mode", ["FLOOR", "CEIL", "ROUND", "round"])
def test_trunc(mode: str) -> None:
    scale, zero = np.float32(0.25), np.float32(0)
    x = definition(X, scale, zero, 8, 1, 0, "ROUND")
    first = ROUND[mode.upper()](np.round(x / scale) / 2**4) * scale
    made = model(
        [node("Trunc", "x s z i o", "y", domain=QONNX, rounding_mode=mode)], x.shape,
        {"s": scale, "z": zero, "i": f32(8), "o": f32(4)},
    )  # fmt: skip
    np.testing.assert_array_equal(qrt.load(made)(x), first)
    second = np.clip(np.round(x / scale) / 2**3, -8, 7)
    second = ROUND[mode.upper()](second) * np.float32(2)
    nodes = [
        quant("x", "q"),
        node("Trunc", "q s z i t o", "y", domain=QONNX, rounding_mode=mode, signed=1, narrow=0),
    ]
    numbers = {**parameters(scale, 0, 8), "i": f32(8), "t": scalar(2.0), "o": f32(4)}
    session = qrt.load(model(nodes, x.shape, numbers, version=2))
    np.testing.assert_array_equal(session(X), second)
    assert not hosted(session)


def test_what_is_wrong_is_named() -> None:
    good = parameters(0.5, 0, 4)
    for change, attrs, says in (
        ({"s": scalar(0)}, {}, "Quant .*a scale must be positive"),
        ({"s": scalar(np.nan)}, {}, "positive and finite"),
        ({"z": scalar(np.inf)}, {}, "zeropt must be finite"),
        ({"b": scalar(2.5)}, {}, "whole number from 1 to 32, got 2.5"),
        ({"b": f32(2, 3)}, {}, "one number, got 2"),
        ({}, {"rounding_mode": "NEAREST"}, "rounding_mode must be .*got 'NEAREST'"),
        ({}, {"signed": 2}, "'signed' must be 0 or 1, got 2"),
        ({}, {"wide": 1}, "'wide' not supported"),
    ):
        with pytest.raises(QrtError, match=says):
            qrt.load(model([quant("x", "y", **attrs)], (3,), good | change))
    with pytest.raises(QrtError, match="does not fit"):
        wide = model([quant("w", "y")], (3,), {**good, "s": f32(1, 2), "w": f32(1)})
        qrt.load(wide)


def test_parameters_may_be_inputs() -> None:
    made = model([quant("x", "y", op="IntQuant")], X.shape, parameters(0.5, 0, 4))
    info = helper.make_tensor_value_info("s", TensorProto.FLOAT, [])
    made.graph.input.append(info)
    kept = [t for t in made.graph.initializer if t.name != "s"]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    session = qrt.load(made)
    for scale in (np.float32(0.5), np.float32(2)):
        expected = definition(X, scale, np.float32(0), 4, 1, 0, "ROUND")
        np.testing.assert_array_equal(session.run(None, {"x": X, "s": scale})[0], expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_qcdq(dtype: Any) -> None:
    """Clip between the two narrows the integers; the network is as integer as without."""
    rng = np.random.default_rng(3)
    low, high = (-8, 7) if dtype == np.int8 else (0, 15)
    w = rng.integers(-20, 20, (6, 4)).astype(np.float32)
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("Clip", "q lo hi", "n"),
        node("DequantizeLinear", "n s z", "a"),
        node("QuantizeLinear", "w s wz", "wq"), node("Clip", "wq wlo whi", "wn"),
        node("DequantizeLinear", "wn s wz", "b"),
        node("MatMul", "a b", "c"),
        node("QuantizeLinear", "c t z", "d"), node("Clip", "d lo hi", "e"),
        node("DequantizeLinear", "e t z", "y"),
    ]  # fmt: skip
    constants = {
        "s": scalar(0.5), "t": scalar(4.0), "z": scalar(0, dtype), "wz": scalar(0, np.int8),
        "lo": scalar(low, dtype), "hi": scalar(high, dtype),
        "wlo": scalar(-7, np.int8), "whi": scalar(7, np.int8), "w": w,
    }  # fmt: skip
    session = qrt.load(model(nodes, (5, 6), constants))
    x = rng.normal(0, 4, (5, 6)).astype(np.float32)
    a = np.clip(np.rint(x / 0.5), low, high) * 0.5
    b = np.clip(np.rint(w / 0.5), -7, 7) * 0.5
    expected = np.clip(np.rint(a @ b / 4), low, high) * 4
    np.testing.assert_array_equal(session(x), expected.astype(np.float32))
    ran = operators(session)
    assert "qrt.MatMul" in ran and not {"MatMul", "Clip"} & set(ran), ran
    assert "qrt.Lookup" not in ran[ran.index("qrt.MatMul") :]


def test_qcdq_that_stays() -> None:
    """A Clip whose input is read elsewhere too, or that has no meaning for integers alone."""
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("Clip", "q lo hi", "n"),
        node("DequantizeLinear", "n s z", "a"), node("DequantizeLinear", "q s z", "b"),
        node("Sub", "b a", "y"),
    ]  # fmt: skip
    constants = {
        "s": scalar(0.5), "z": scalar(3, np.uint8), "lo": scalar(2, np.uint8),
        "hi": scalar(9, np.uint8),
    }  # fmt: skip
    q = np.clip(np.rint(X / np.float32(0.5)) + 3, 0, 255)
    expected = (q - np.clip(q, 2, 9)) * 0.5
    session = qrt.load(model(nodes, X.shape, constants))
    np.testing.assert_array_equal(session(X), expected.astype(np.float32))
    halves = {**constants, "s": scalar(0.5, np.float16)}
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16), node("QuantizeLinear", "h s z", "q"),
        node("Clip", "q lo hi", "n"), node("Cast", "n", "y", to=TensorProto.FLOAT),
    ]  # fmt: skip
    x = X[np.abs(X) < 100]
    expected = np.clip(np.rint(x.astype(np.float16) / np.float16(0.5)) + 3, 2, 9)
    got = qrt.load(model(nodes, x.shape, halves, opset=19))(x)
    np.testing.assert_array_equal(got, expected.astype(np.float32))


KINDS = {
    "int8": (np.int8, TensorProto.INT8), "uint8": (np.uint8, TensorProto.UINT8),
    "int16": (np.int16, TensorProto.INT16), "uint16": (np.uint16, TensorProto.UINT16),
    "int4": (ml_dtypes.int4, TensorProto.INT4), "uint4": (ml_dtypes.uint4, TensorProto.UINT4),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_com_microsoft_quantize_linear(kind: str, per_channel: bool) -> None:
    """Both operators of com.microsoft, as onnxruntime runs them."""
    dtype, _ = KINDS[kind]
    scale = f32(0.25, 0.5, 1, 2) if per_channel else scalar(0.25)
    zero = np.full(scale.shape, 2, dtype)
    attrs = {"axis": 1} if per_channel else {}
    domain = "com.microsoft"
    nodes = [
        node("QuantizeLinear", "x s z", "q", domain=domain, **attrs),
        node("DequantizeLinear", "q s z", "y", domain=domain, **attrs),
    ]
    made = model(nodes, IMAGE.shape, {"s": scale, "z": zero}, 21, domain)
    rival = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = rival.run(None, {"x": IMAGE})
    np.testing.assert_array_equal(qrt.load(made)(IMAGE), expected)
