"""Check one operator on many cases: reference against an oracle, kernels against the reference.

All cases run, then the test fails once, naming how many differ and the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from kernel_harness import feature_levels, new_value, run_node
from onnx import helper
from onnx.reference import ReferenceEvaluator

from qrt.ir import Node, QParams, Value
from qrt.ops.spec import OpSpec

Array = np.ndarray[Any, Any]
U8 = np.dtype(np.uint8)
NHWC = (0, 2, 3, 1)
Compare = Callable[[Array, Array], "str | None"]


def levels() -> list[str]:
    """One feature spec per family of code, and all that this CPU has."""
    return [v for v in feature_levels() if v not in ("sse41", "avx512")]


def same(got: Array, want: Array) -> str | None:
    """None when shape, dtype and every value are equal (NaN equals NaN)."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    equal_nan = want.dtype.kind == "f"
    if np.array_equal(got, want, equal_nan=equal_nan):
        return None
    differs = got != want
    gap = np.abs(got.astype(np.float64) - want.astype(np.float64))
    return f"{int(differs.sum())} of {got.size} values, max {np.nanmax(gap)}"


def within(rtol: float, atol: float = 0.0) -> Compare:
    """Equal but for a float error of `rtol` of the value plus `atol`."""

    def compare(got: Array, want: Array) -> str | None:
        if got.shape != want.shape or got.dtype != want.dtype:
            return same(got, want)
        if np.allclose(got, want, rtol=rtol, atol=atol, equal_nan=True):
            return None
        gap = np.abs(got.astype(np.float64) - want)
        return f"beyond rtol {rtol} atol {atol}: max {np.nanmax(gap)}"

    return compare


class Cases:
    """Collects what differs; leaving the `with` block fails when anything did."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.count = 0
        self.failures: list[str] = []

    def check(self, case: object, why: str | None) -> None:
        """Count a case; `why` it failed, or None."""
        self.count += 1
        if why:
            self.failures.append(f"{case}: {why}")

    def node(
        self,
        case: object,
        spec: OpSpec,
        node: Node,
        inputs: Sequence[Array | None],
        want: Sequence[Array] | None = None,
        compare: Compare = same,
        oracle_compare: Compare | None = None,
        specs: Sequence[str] | None = None,
    ) -> None:
        """`spec.reference` against `want` (an oracle), each level's kernels against the reference.

        Every level must give the same bits, with one thread and with two.
        """
        expected = spec.reference(node, inputs) if spec.reference else []
        if want is not None:
            for ours, theirs in zip(expected, want, strict=True):
                why = (oracle_compare or compare)(np.asarray(ours), np.asarray(theirs))
                self.check((case, "reference"), why)
        first: list[Array] | None = None
        for level in levels() if specs is None else specs:
            for threads in (1, 2):
                label = (case, level or "all features", f"{threads} threads")
                try:
                    got = run_node(spec, node, inputs, level, threads)
                except AssertionError as error:
                    self.check(label, str(error))
                    continue
                for out, ours in zip(got, expected, strict=True):
                    self.check(label, compare(out, np.asarray(ours)))
                if first is None:
                    first = got
                for out, other in zip(got, first, strict=True):
                    self.check((label, "same bits"), same(out, other))

    def __enter__(self) -> Cases:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self.failures:
            raise AssertionError(
                f"{self.what}: {len(self.failures)} of {self.count} cases differ;"
                f" first {self.failures[0]}"
            )


def constant(array: Any, name: str = "c") -> Value:
    """A constant input."""
    array = np.asarray(array)
    return new_value(name, array.dtype, array.shape, data=array)


def qparams(scale: float, zero_point: int, dtype: Any = np.uint8) -> QParams:
    """per_tensor QParams."""
    dtype = np.dtype(dtype)
    return QParams(np.asarray(scale, np.float32), np.asarray(zero_point, dtype), dtype)


def codes(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """Random uint8 with both extremes well represented."""
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    x[rng.random(shape) < 0.1] = 0
    x[rng.random(shape) < 0.1] = 255
    return x


def onnx_outputs(
    op: str, version: int, attrs: dict[str, Any], inputs: Sequence[Array | None], outputs: int = 1
) -> list[Array]:
    """What onnx.reference computes for one node."""
    names = [f"i{k}" if a is not None else "" for k, a in enumerate(inputs)]
    results = [f"o{k}" for k in range(outputs)]
    node = helper.make_node(op, names, results, **attrs)
    fed = {n: a for n, a in zip(names, inputs, strict=True) if a is not None}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in fed.items()
    ]
    graph = helper.make_graph(
        [node], "g", infos, [onnx.helper.make_empty_tensor_value_info(o) for o in results]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    found: list[Array] = ReferenceEvaluator(model).run(None, fed)
    return found


def plain_quantize(real: Array, q: QParams, qmin: int = 0, qmax: int = 255) -> Array:
    """QuantizeLinear written out: round half to even first, then add the zero point."""
    steps = np.round((real / q.scale).astype(np.float64)) + int(q.zero_point)
    return np.clip(steps, qmin, qmax).astype(q.dtype)


def plain_dequantize(codes_: Array, q: QParams) -> Array:
    """DequantizeLinear written out."""
    centered = codes_.astype(np.int32) - np.int32(q.zero_point)
    return np.asarray(centered.astype(np.float32) * q.scale)
