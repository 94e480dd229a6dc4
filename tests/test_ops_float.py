"""Float32 operators of one input: close to float64, and the same bits at every feature level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_harness import new_value, run_node
from operator_cases import NHWC, Cases, constant, levels, onnx_outputs, same, within

from qrt.ir import Node
from qrt.ops import batch_normalization, cast, float_unary, layer_normalization

Array = np.ndarray[Any, Any]

# operator -> (ulp of the result, absolute error) that its float32 formula may be off by; what is
# not here is exact. Where terms cancel (a tail of Gelu, a corner of HardSwish) only the absolute
# error is small.
BOUNDS: dict[str, tuple[float, float]] = {
    "Celu": (3, 0),
    "Elu": (3, 0),
    "Erf": (8, 1e-37),
    "Exp": (1.5, 1e-44),
    "Gelu": (8, 1.5e-6),
    "HardSigmoid": (1, 1e-7),
    "HardSwish": (2, 4e-7),
    "Log": (1.5, 0),
    "Mish": (8, 1e-37),
    "Selu": (4, 0),
    "Sigmoid": (3, 1e-37),
    "Softplus": (4, 1e-44),
    "Softsign": (1.5, 0),
    "Swish": (4, 1e-36),
    "Tanh": (2, 0),
}


def _inputs() -> Array:
    rng = np.random.default_rng(1)
    positive = np.exp(rng.uniform(-95, 88, 20000))
    parts = [
        positive,
        -positive,
        rng.uniform(-20, 20, 40000),
        rng.uniform(-1, 1, 20000),
        rng.uniform(-110, 100, 20000),
        [0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, -0.5, -1.5, 1e-45, -1e-45, 1, -1],
        np.arange(-300, 300) / 2,
        [8388607.5, 8388608, -8388607.5, 16777217, 88.72283, 88.72284, -87.33654, -103.97],
    ]
    return np.concatenate(parts).astype(np.float32)


def _ulps(bound: float, atol: float) -> Any:
    def compare(got: Array, want: Array) -> str | None:
        if bound == 0:
            return same(got, want)
        with np.errstate(all="ignore"):
            gap = np.abs(got.astype(np.float64) - want.astype(np.float64))
            allowed = bound * np.spacing(np.abs(want)).astype(np.float64) + atol
            fine = (got == want) | (np.isnan(got) & np.isnan(want)) | (gap <= allowed)
        if fine.all():
            return None
        worst = int(np.argmax(~fine))
        return f"{int((~fine).sum())} values, input {worst}: {got[worst]} instead of {want[worst]}"

    return compare


@pytest.mark.parametrize("spec", float_unary.SPECS, ids=lambda s: s.op)
def test_unary(spec: Any) -> None:
    x = _inputs()
    values = [new_value("x", np.float32, x.shape)]
    attrs_list: list[dict[str, Any]] = [{}]
    if spec.op == "Clip":
        values += [constant(np.float32(-1.5)), None]  # type: ignore[list-item]
    if spec.op == "Gelu":
        attrs_list.append({"approximate": "tanh"})
    if spec.op in ("Elu", "LeakyRelu", "ThresholdedRelu", "Celu"):
        attrs_list.append({"alpha": 0.3})
    with Cases(spec.op) as cases:
        for attrs in attrs_list:
            node = Node(spec.op, values, [new_value("y", np.float32)], attrs, version=13)
            arrays = [x, *(None for _ in values[1:])]
            compare = _ulps(*BOUNDS.get(spec.op, (0, 0)))
            cases.node(attrs, spec, node, arrays, None, compare, specs=["portable", ""])


ONNX_HAS = (
    "Abs", "Celu", "Elu", "Erf", "HardSigmoid", "HardSwish", "LeakyRelu", "Round", "Selu", "Shrink",
    "Sigmoid", "Sign", "Softplus", "Softsign", "Tanh", "ThresholdedRelu",
)  # fmt: skip


@pytest.mark.parametrize("op", ONNX_HAS)
def test_reference_is_what_onnx_defines(op: str) -> None:
    spec = next(s for s in float_unary.SPECS if s.op == op)
    x = np.linspace(-4, 4, 257, dtype=np.float32)
    version = 15 if op not in ("HardSwish",) else 14
    node = Node(
        op, [new_value("x", x.dtype, x.shape)], [new_value("y", x.dtype)], {}, version=version
    )
    (want,) = onnx_outputs(op, version, {}, [x])
    (got,) = spec.reference(node, [x])  # type: ignore[misc]
    assert within(2e-6, 1e-6)(got, want.astype(np.float32)) is None


def test_batch_normalization() -> None:
    rng = np.random.default_rng(2)
    with Cases("BatchNormalization") as cases:
        for layout in (None, NHWC):
            x = rng.standard_normal((2, 37, 3, 5)).astype(np.float32)
            rest = [rng.random(37).astype(np.float32) + np.float32(0.1) for _ in range(4)]
            node = Node(
                "BatchNormalization",
                [new_value("x", x.dtype, x.shape, layout), *(constant(r) for r in rest)],
                [new_value("y", x.dtype, layout=layout)],
                {"epsilon": 1e-3},
                version=14,
            )
            want = onnx_outputs("BatchNormalization", 14, {"epsilon": 1e-3}, [x, *rest])
            cases.node(
                layout, batch_normalization.SPEC, node, [x, *rest], want,
                oracle_compare=within(1e-5, 1e-5),
            )  # fmt: skip


def test_layer_normalization() -> None:
    rng = np.random.default_rng(4)
    with Cases("LayerNormalization") as cases:
        for shape, axis in (((2, 5, 768), -1), ((3, 7), 1), ((2, 3, 4, 5), 2), ((0, 8), -1)):
            x = (rng.standard_normal(shape) * 3 + 1).astype(np.float32)
            rest = [rng.standard_normal(shape[axis:]).astype(np.float32) for _ in range(2)]
            want = onnx_outputs("LayerNormalization", 17, {"axis": axis}, [x, *rest])
            for given in (rest, rest[:1]):
                values = [new_value("x", x.dtype, shape), *(constant(r) for r in given)]
                out = [new_value("y", x.dtype)]
                node = Node("LayerNormalization", values, out, {"axis": axis}, version=17)
                cases.node(
                    (shape, axis, len(given)), layer_normalization.SPECS[0], node, [x, *given],
                    want if len(given) == 2 and x.size else None, within(2e-6, 2e-6),
                    within(1e-5, 1e-5),
                )  # fmt: skip


def test_rms_normalization() -> None:
    """x / sqrt(mean(x**2) + epsilon) * scale, in float64."""
    rng = np.random.default_rng(5)
    with Cases("RMSNormalization") as cases:
        for shape, axis in (((2, 5, 768), -1), ((3, 7), 1), ((2, 3, 4, 5), 2), ((0, 8), -1)):
            x = (rng.standard_normal(shape) * 3 + 1).astype(np.float32)
            scale = rng.standard_normal(shape[axis:]).astype(np.float32)
            axes = tuple(range(axis % len(shape), len(shape)))
            squares = (x.astype(np.float64) ** 2).mean(axis=axes, keepdims=True)
            want = (x / np.sqrt(squares + 0.25) * scale).astype(np.float32)
            values = [new_value("x", x.dtype, shape), constant(scale)]
            attrs = {"axis": axis, "epsilon": 0.25}
            node = Node("RMSNormalization", values, [new_value("y", x.dtype)], attrs, version=23)
            cases.node(
                (shape, axis), layer_normalization.SPECS[1], node, [x, scale],
                [want], within(2e-6, 2e-6),
            )  # fmt: skip


def test_cast() -> None:
    rng = np.random.default_rng(3)
    codes = {name: code for code, name in cast.DTYPES.items()}
    with Cases("Cast") as cases:
        for source, target in (*cast.KERNELS, ("uint8", "uint8")):
            low = 0 if "u" in (source[0], target[0]) else -120
            x = rng.integers(low, 120, 1001).astype(source)
            if source == "float32":
                x = x + np.float32(0.75)
            node = Node(
                "Cast",
                [new_value("x", source, x.shape)],
                [new_value("y", target)],
                {"to": codes[target]},
                version=13,
            )
            want = onnx_outputs("Cast", 13, {"to": codes[target]}, [x])
            cases.node((source, target), cast.SPEC, node, [x], want, specs=[""])


def test_threads_do_not_change_bits() -> None:
    x = np.linspace(-9, 9, 20011, dtype=np.float32)
    spec = next(s for s in float_unary.SPECS if s.op == "Tanh")
    node = Node("Tanh", [new_value("x", x.dtype, x.shape)], [new_value("y", x.dtype)], version=13)
    (one,) = run_node(spec, node, [x], levels()[-1], 1)
    for threads in (2, 3, 7, 16):
        (many,) = run_node(spec, node, [x], levels()[-1], threads)
        assert np.array_equal(one, many), threads
