"""ConvInteger and MatMulInteger in every combination of types and zero points, and hostile floats.

Sums here are NumPy's int64, and each float step is NumPy's float32, in the order of the nodes.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.graphs.draw import Array
from tests.sessions import THREADS, Cases, difference, feature_levels, named, run

OPSET = 13
TYPES = (np.uint8, np.int8)
ZEROS = ("absent", "constant", "per column", "computed")


def model_of(nodes: list[Any], feeds: dict[str, Array], constants: dict[str, Array]) -> Any:
    """A model of `nodes` whose output is y."""
    kinds = helper.np_dtype_to_tensor_dtype
    inputs = [helper.make_tensor_value_info(n, kinds(a.dtype), a.shape) for n, a in feeds.items()]
    graph = helper.make_graph(
        nodes, "tested", inputs, [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


def drawn(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> Array:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


@pytest.mark.parametrize("features", feature_levels(), ids=named)
@pytest.mark.parametrize("op", ("MatMulInteger", "ConvInteger", "depthwise"))
def test_types_and_zero_points(op: str, features: str) -> None:
    cases = Cases()
    rng = np.random.default_rng(31)
    for x_type, w_type, x_zero, w_zero in product(TYPES, TYPES, ZEROS, ZEROS):
        if x_zero == "per column" or (w_zero == "computed" and op != "MatMulInteger"):
            continue
        groups = 5 if op == "depthwise" else 1
        x = drawn(rng, x_type, (3, 7) if op == "MatMulInteger" else (2, 5, 6, 6))
        w_shape = (7, 5) if op == "MatMulInteger" else (5, 5 // groups, 3, 3)
        feeds, constants = {"x": x}, {"w": drawn(rng, w_type, w_shape)}
        names, zeros = ["x", "w"], []
        for name, dtype, kind in (("x0", x_type, x_zero), ("w0", w_type, w_zero)):
            zero = drawn(rng, dtype, (5,) if kind == "per column" else ())
            if kind == "absent":
                zero = np.zeros_like(zero)
            else:
                (feeds if kind == "computed" else constants)[name] = zero
            names.append("" if kind == "absent" else name)
            zeros.append(zero.astype(np.int64))
        attrs = {} if op == "MatMulInteger" else {"pads": [1, 0, 1, 2], "group": groups}
        name = "MatMulInteger" if op == "MatMulInteger" else "ConvInteger"
        while names[-1] == "":
            names.pop()
        model = model_of([helper.make_node(name, names, ["y"], **attrs)], feeds, constants)
        xs = x.astype(np.int64) - zeros[0]
        ws = constants["w"].astype(np.int64)
        if op == "MatMulInteger":
            want = xs @ (ws - zeros[1])
        else:
            ws = ws - zeros[1].reshape(-1, 1, 1, 1)
            xs = np.pad(xs, ((0, 0), (0, 0), (1, 1), (0, 2)))
            windows = np.lib.stride_tricks.sliding_window_view(xs, (3, 3), axis=(2, 3))
            formula = "nchwij,cij->nchw" if groups > 1 else "nchwij,ocij->nohw"
            want = np.einsum(formula, windows, ws[:, 0] if groups > 1 else ws)
        for threads in THREADS:
            got = run(model, feeds, features, threads)["y"]
            label = f"{x_type.__name__} {x_zero}, {w_type.__name__} {w_zero}, {threads} threads"
            cases.check(label, difference(want.astype(np.int32), got))
    cases.finish(op, at_least=60)


HOSTILE = {
    "zeros": np.zeros((2, 6)),
    "NaN": np.array([[1, np.nan, -2, 3, 4, 5], [np.nan] * 6]),
    "infinity": np.array([[1, np.inf, -2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]),
    "both infinities": np.array([[-np.inf, np.inf, -2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]),
    "scale underflows": np.full((2, 6), 1e-44),
    "large": np.array([[3e38, 1, 2, 3, 4, 5], [-3e37, 0, 0, 0, 0, 1]]),
}


@pytest.mark.parametrize("features", feature_levels(), ids=named)
@pytest.mark.parametrize("w_scale", (0.03, 0.0, -0.5))
def test_hostile_floats(w_scale: float, features: str) -> None:
    """NaN is no part of the range and is quantized to 0; what floats give is what nodes say."""
    cases = Cases()
    rng = np.random.default_rng(32)
    w = drawn(rng, np.int8, (6, 21))
    bias = rng.standard_normal(21).astype(np.float32)
    factor = np.array(w_scale, np.float32)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "factor"], ["scale"]),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["y"]),
    ]
    for (name, values), threads in product(HOSTILE.items(), THREADS):
        x = values.astype(np.float32)
        feeds = {"x": x}
        model = model_of(nodes, feeds, {"w": w, "factor": factor, "bias": bias})
        with np.errstate(all="ignore"):
            low = np.fmin.reduce(x, axis=None, initial=np.float32(0))
            high = np.fmax.reduce(x, axis=None, initial=np.float32(0))
            scale = (high - low) / np.float32(255) if high > low else np.float32(1)
            if name == "both infinities" or scale == 0 or not np.isfinite(scale):
                # no zero point is a number: only that the run ends, and on every level alike
                native = run(model, feeds, "", 1)["y"]
                got = run(model, feeds, features, threads)["y"]
                same = np.array_equal(np.isnan(native), np.isnan(got))
                cases.check(f"{name}, {threads} threads", "" if same else "NaN elsewhere")
                continue
            zero = np.rint(-low / scale)
            steps = np.rint(x / scale)
            q = np.clip(np.where(np.isnan(steps), -zero, steps) + zero, 0, 255)
            sums = (q.astype(np.int64) - int(zero)) @ w.astype(np.int64)
            want = sums.astype(np.int32).astype(np.float32) * (scale * factor) + bias
        got = run(model, feeds, features, threads)["y"]
        cases.check(f"{name}, {threads} threads", difference(want, got))
    cases.finish(f"w_scale {w_scale}", at_least=len(HOSTILE))
