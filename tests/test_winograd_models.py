"""Models whose convolutions run as Winograd's, bit for bit the numeric contract on every level."""

from __future__ import annotations

from itertools import product as combinations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qrt
from qrt.gemm.winograd_table import WINOGRAD
from qrt.simd.features import active_features
from tests.contract import evaluate
from tests.sessions import THREADS, Cases, differences, feature_levels, named, run


def model_of(
    rng: np.random.Generator, x_dtype: type, w_dtype: type, n: int, pads: list[int], zero_point: int
) -> onnx.ModelProto:
    """Two QLinearConv 3x3, per-channel weights, a bias."""
    tensors = {
        "x_scale": np.float32(0.02), "x_zero": np.array(zero_point, x_dtype),
        "y_scale": np.float32(0.7), "y_zero": np.array(zero_point // 2, x_dtype),
    }  # fmt: skip
    nodes = []
    channels, source = 7, "x"
    info = np.iinfo(w_dtype)
    for i in range(2):
        w = rng.integers(info.min, info.max + 1, (n, channels, 3, 3)).astype(w_dtype)
        zeros = rng.integers(100, 140, n) if w_dtype is np.uint8 else np.zeros(n)
        tensors |= {
            f"w{i}": w, f"w{i}_scale": (rng.random(n) * 0.01 + 0.001).astype(np.float32),
            f"w{i}_zero": zeros.astype(w_dtype), f"b{i}": rng.integers(-9999, 9999, n, np.int32),
        }  # fmt: skip
        before, after = ("x", "y") if i == 0 else ("y", "y")
        names = [source, f"{before}_scale", f"{before}_zero", f"w{i}", f"w{i}_scale", f"w{i}_zero"]
        names += [f"{after}_scale", f"{after}_zero", f"b{i}"]
        nodes.append(helper.make_node("QLinearConv", names, [f"y{i}"], pads=pads))
        channels, source = n, f"y{i}"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(x_dtype))
    graph = helper.make_graph(
        nodes, "two", [helper.make_tensor_value_info("x", kind, [2, 7, 11, 14])],
        [helper.make_tensor_value_info("y1", kind, None)],
        [numpy_helper.from_array(np.asarray(t), name) for name, t in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("wish", ("always", "never"))
def test_models_equal_the_contract(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed and unsigned activations and weights; the direct kernels give the same bits."""
    monkeypatch.setenv("QRT_WINOGRAD", wish)
    rng = np.random.default_rng(721)
    cases = Cases()
    took = 0
    for x_dtype, w_dtype, (n, pads) in combinations(
        (np.uint8, np.int8), (np.int8, np.uint8), ((5, [1, 1, 1, 1]), (33, [0, 2, 1, 0]))
    ):
        info = np.iinfo(x_dtype)
        zero_point = int(rng.choice([info.min, 3, info.max]))
        model = model_of(rng, x_dtype, w_dtype, n, pads, zero_point)
        inputs = {"x": rng.integers(info.min, info.max + 1, (2, 7, 11, 14)).astype(x_dtype)}
        expected = evaluate(model, inputs)
        for features, threads in combinations(feature_levels(), THREADS):
            what = differences(expected, run(model, inputs, features, threads))
            label = f"{x_dtype.__name__} {w_dtype.__name__} {n} {pads} {zero_point}"
            cases.check(f"{label}, {named(features)}, {threads} threads", what)
            kernels = qrt.load(model, features=features).explain().kernels()
            count = sum(k for name, k in kernels.items() if name.startswith("winograd"))
            able = any(active_features(features).issuperset(s.features) for s in WINOGRAD)
            expect = 2 if able and wish == "always" else 0
            wrong = f"{count} Winograd rows, expected {expect}" if count != expect else ""
            cases.check(f"{label}, {named(features)}", wrong)
            took += count
    cases.finish(f"convolutions, {wish}", at_least=32)
    print(f"{took} Winograd rows ran")
