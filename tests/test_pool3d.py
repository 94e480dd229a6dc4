"""Pools over three axes, Conv with computed weights, Mean: as onnxruntime runs the same model.

Quantized ones are compared with the plain definition: dequantize, pool, quantize (a power of two).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import qrt
from tests.contract.values import Array
from tests.loader.models import make_model, node, scalar, tensor_info

VOLUME = np.random.default_rng(0).normal(0, 2, (2, 3, 7, 6, 8)).astype(np.float32)
GEOMETRY: dict[str, dict[str, Any]] = {
    "plain": {"kernel_shape": [2, 3, 2]},
    "strides": {"kernel_shape": [3, 2, 3], "strides": [2, 1, 3]},
    "pads": {"kernel_shape": [3, 3, 3], "pads": [1, 0, 2, 1, 1, 0]},
    "dilations": {"kernel_shape": [2, 2, 3], "dilations": [3, 2, 1], "pads": [1, 1, 1, 1, 1, 1]},
    "ceil": {"kernel_shape": [2, 3, 2], "strides": [2, 2, 3], "ceil_mode": 1},
    "same": {"kernel_shape": [3, 2, 4], "strides": [2, 2, 2], "auto_pad": "SAME_UPPER"},
}


def rival(model: onnx.ModelProto, **inputs: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    outputs: list[Array] = session.run(None, inputs)
    return outputs


def hosted(session: qrt.Session) -> bool:
    return any("host" in kernel for row in session.explain() for kernel in row.kernels)


@pytest.mark.parametrize("name", GEOMETRY)
def test_max_pool(name: str) -> None:
    pool = node("MaxPool", "x", "y", **GEOMETRY[name])
    model = make_model([pool], inputs=[tensor_info("x", VOLUME.shape)], opset=13)
    (expected,) = rival(model, x=VOLUME)
    session = qrt.load(model)
    np.testing.assert_array_equal(session(VOLUME), expected)
    assert not hosted(session)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"])
def test_quantized(op: str, dtype: Any) -> None:
    for name, attrs in GEOMETRY.items():
        if op == "AveragePool" and name in ("dilations", "ceil"):
            continue  # of later opsets; and its count is another one than onnxruntime's
        given = {} if op.startswith("Global") else attrs
        pool = [node(op, "x", "y", **given)]
        scale, zero = np.float32(2**-4), 3
        info = np.iinfo(dtype)
        x = (np.clip(np.rint(VOLUME / scale) + zero, info.min, info.max) - zero) * scale
        plain = make_model(pool, inputs=[tensor_info("x", x.shape)], opset=13)
        (pooled,) = rival(plain, x=x.astype(np.float32))
        expected = np.clip(np.rint(pooled / scale) + zero, info.min, info.max) - zero
        model = make_model(
            [
                node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
                node(op, "d", "e", **given),
                node("QuantizeLinear", "e s z", "f"), node("DequantizeLinear", "f s z", "y"),
            ],
            inputs=[tensor_info("x", VOLUME.shape)],
            constants={"s": np.asarray(scale), "z": scalar(zero, dtype)}, opset=13,
        )  # fmt: skip
        session = qrt.load(model)
        got = session(VOLUME) / scale
        # an average is summed in another order: a tie of a float sum may fall either way
        apart = np.abs(got - expected)
        assert apart.max() <= (0 if op.endswith("MaxPool") else 1), name
        assert (apart != 0).mean() < 0.01
        assert hosted(session) == (op == "AveragePool")


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("storage_order", [0, 1])
def test_indices(axes: int, storage_order: int) -> None:
    x = np.random.default_rng(3).integers(-3, 4, (2, 3, 7, 6, 8)[: axes + 2]).astype(np.float32)
    for name, attrs in GEOMETRY.items():
        cut = {
            k: v[:axes] if k != "pads" else [*v[:axes], *v[3 : 3 + axes]]
            for k, v in attrs.items()
            if isinstance(v, list)
        }
        rest = {k: v for k, v in attrs.items() if not isinstance(v, list)}
        pool = node("MaxPool", "x", "y i", **cut, **rest, storage_order=storage_order)
        model = make_model(
            [pool], inputs=[tensor_info("x", x.shape)],
            outputs=["y", tensor_info("i", None, onnx.TensorProto.INT64)], opset=13,
        )  # fmt: skip
        for expected, got in zip(
            rival(model, x=x), qrt.load(model).run(None, {"x": x}), strict=True
        ):
            np.testing.assert_array_equal(got, expected, name)


def test_conv_with_computed_weights() -> None:
    rng = np.random.default_rng(1)
    x, w, b = (rng.normal(0, 1, s).astype(np.float32) for s in ((2, 4, 6, 5), (6, 2, 3, 3), (6,)))
    model = make_model(
        [node("Relu", "w", "v"), node("Conv", "x v b", "y", group=2, pads=[1, 1, 1, 1])],
        inputs=[tensor_info("x", x.shape), tensor_info("w", w.shape), tensor_info("b", b.shape)],
    )
    (expected,) = rival(model, x=x, w=w, b=b)
    (got,) = qrt.load(model).run(None, {"x": x, "w": w, "b": b})
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["Mean", "Max", "Min", "Sum"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_several_inputs_that_broadcast(op: str, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    arrays = [rng.normal(0, 1, s).astype(dtype) for s in ((4, 1, 3), (5, 1), (3,))]
    names = ("a", "b", "c")
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = make_model(
        [node(op, "a b c", "y")],
        inputs=[tensor_info(n, a.shape, kind) for n, a in zip(names, arrays, strict=True)],
        outputs=[tensor_info("y", None, kind)],
    )
    feeds = dict(zip(names, arrays, strict=True))
    first, second, third = arrays
    expected = {
        "Mean": (first + second + third) / 3,
        "Max": np.maximum(np.maximum(first, second), third),
        "Min": np.minimum(np.minimum(first, second), third),
        "Sum": first + second + third,
    }[op]
    session = qrt.load(model)
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, rtol=1e-5, atol=1e-6)
    assert hosted(session) == (dtype == np.float64)
