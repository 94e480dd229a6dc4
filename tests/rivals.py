"""Other evaluators of quantized models, and where their answer is not the operator's.

ONNX Runtime and ONNX's own reference are compared with, case by case; the cases left out are listed
here with the reason, so that nothing is left out silently.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.contract import evaluate
from tests.graphs.draw import Array

FLOAT_TOLERANCE = 2e-5  # float outputs, relative to the largest: sums of float32 in another order


def onnxruntime_outputs(
    model: onnx.ModelProto, inputs: dict[str, Array]
) -> dict[str, Array] | None:
    """As written, nothing fused; None when ONNX Runtime has no such kernel or refuses it."""
    ort: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        outputs = session.run(None, inputs)
    except Exception as error:
        # its shape inference keeps a window of ceil_mode that its kernels drop
        refusals = ("NOT_IMPLEMENTED", "padding values must be non-negative", "ShapeInferenceError")
        if any(refusal in str(error) for refusal in refusals):
            return None
        raise
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, outputs, strict=True))


def onnxruntime_sums_exactly() -> bool:
    """Its u8 x s8 products saturate at int16 on x86 without VNNI."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "vnni" in flags.read_text()


def onnxruntime_is_wrong(model: onnx.ModelProto, inputs: dict[str, Array]) -> bool:
    """Whether one of the rules below applies to a node of `model`."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    tensors = evaluate(model, inputs, intermediates=True)
    for node in model.graph.node:
        if node.output[0] not in tensors:
            continue  # nothing needs it
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        x, y = tensors[node.input[0]], tensors[node.output[0]]
        if node.op_type == "QLinearSoftmax" and _softmax_differs(node, constants, y):
            return True
        if node.op_type.endswith(("AveragePool", "MaxPool")) and _pool_differs(node, attrs):
            return True
        if node.op_type == "Resize" and _resize_differs(attrs, x.shape[2:], y.shape[2:]):
            return True
    return False


def reference_outputs(model: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array] | None:
    """None where the reference fails on a valid model."""
    try:
        outputs = ReferenceEvaluator(model).run(None, inputs)
    except Exception:
        return None
    names = [o.name for o in model.graph.output]
    return {n: np.asarray(v) for n, v in zip(names, outputs, strict=True)}


def reference_is_wrong(model: onnx.ModelProto) -> bool:
    """AveragePool with ceil_mode: the reference puts half of the missing elements in front. (Its
    MaxPool is worse: it forgets the pads of one or three axes, takes top, bottom, left, right for
    top, left, bottom, right, and floors the shape of SAME_LOWER; it is not compared at all.)
    Resize: align_corners divides by scale * length - 1, even when that has a fraction, instead of
    length_resized - 1; coordinates are float64, which matters to floor and to ties."""
    for node in model.graph.node:
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if attrs.get("ceil_mode"):
            return True
        transform = attrs.get("coordinate_transformation_mode")
        if transform == b"half_pixel_symmetric":
            return True
        if transform == b"align_corners" and len(node.input) < 4:
            return True
    return False


class Tally:
    """Runs all cases, fails once."""

    def __init__(self, allowed: float) -> None:
        """`allowed` is the largest distance in steps that is no failure."""
        self.allowed = allowed
        self.cases = self.values = self.apart = 0
        self.failures: list[str] = []

    def add(
        self, seed: object, model: onnx.ModelProto, want: dict[str, Array], got: dict[str, Array]
    ) -> None:
        """Compare one case; `seed` is only printed."""
        steps = _output_steps(model)
        self.cases += 1
        for name, expected in want.items():
            apart = steps_apart(expected, got[name], steps[name])
            self.values += apart.size
            self.apart += int((apart > 0).sum())
            if apart.max(initial=0) > self.allowed:
                ops = "+".join(n.op_type for n in model.graph.node)
                far = int((apart > self.allowed).sum())
                self.failures.append(
                    f"seed {seed} {ops} {expected.shape}: {far} of {apart.size}, max {apart.max()}"
                )

    def finish(self, title: str, at_least: int) -> None:
        """Print the counts; fail for any failure and for fewer cases than `at_least`."""
        print(f"\n{title}: {self.cases} cases, {self.apart} of {self.values} values differ")
        assert not self.failures, f"{len(self.failures)} of {self.cases}: {self.failures[:3]}"
        assert self.cases >= at_least


def steps_apart(expected: Array, got: Array, step: float) -> Array:
    """Distance in quantization steps, of integers or of floats that are multiples of `step`. Other
    floats (`step` 0) are near or not: 0 or infinite."""
    assert expected.shape == got.shape
    assert expected.dtype == got.dtype
    gap = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    if expected.dtype != np.float32:
        return np.asarray(gap)
    near = gap <= FLOAT_TOLERANCE * max(1e-30, float(np.abs(expected).max(initial=0)))
    return np.where(near, 0, np.rint(gap / step) if step else np.inf)


def _output_steps(model: onnx.ModelProto) -> dict[str, float]:
    """Scale of the DequantizeLinear that makes an output; 0 for others."""
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    last = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    names = [o.name for o in model.graph.output]
    return {n: float(scales[last[n].input[1]]) if n in last else 0.0 for n in names}


def _softmax_differs(node: onnx.NodeProto, constants: dict[str, Array], y: Array) -> bool:
    """QLinearSoftmax rounds 1 / y_scale down to an integer (254 for 1/255), wraps instead of
    saturating, and divides infinity by infinity when 1 / y_scale exceeds e^5 times the length."""
    exact = constants[node.input[3]] == np.float32(1 / 256)
    return not exact or bool(constants[node.input[4]] > 0) or min(y.shape) < 2


def _pool_differs(node: onnx.NodeProto, attrs: dict[str, Any]) -> bool:
    """QLinearAveragePool divides by the whole kernel even where ceil_mode leaves the padded input.
    Where SAME has nothing to pad, poolings pad by a negative number (or refuse): windows shift."""
    if node.op_type.endswith("GlobalAveragePool"):
        return False
    full = attrs.get("count_include_pad") and attrs.get("ceil_mode")
    if node.op_type == "QLinearAveragePool" and full:
        return True
    kernel = attrs["kernel_shape"]
    strides = attrs.get("strides", [1] * len(kernel))
    gaps = any(s > k for s, k in zip(strides, kernel, strict=True))
    return b"SAME" in attrs.get("auto_pad", b"") and gaps


def _resize_differs(attrs: dict[str, Any], old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """The region of interest of an axis whose length does not change is ignored. Coordinates closer
    than 1e-6 to a tie count as ties (since about 1.20)."""
    lengths = list(zip(old, new, strict=True))
    if attrs["coordinate_transformation_mode"] == b"tf_crop_and_resize":
        return any(n == m for n, m in lengths)
    if b"round_prefer" not in attrs.get("nearest_mode", b""):
        return False
    for n, m in lengths:
        x = np.arange(m)
        for exact in (x * n / m, (x + 0.5) * n / m - 0.5, x * (n - 1) / max(m - 1, 1)):
            if (np.abs(exact % 1 - 0.5) < 1e-5).any() and n & (n - 1) | m & (m - 1):
                return True
    return False
