"""What tensors are without any data: BatchNormalization says what its results were in training.

Its gamma and beta are deviation and mean of each channel (Nagel et al. 2019, sections 4.1.3 and
4.2.1). What follows is worked out operator by operator, as if values were normal and independent:
behind a Relu or Clip lies a clipped normal distribution (appendix C there), an Add sums means and
variances, a product multiplies them by its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import onnx

from qrt.errors import InputError
from qrt.ptq.backends import PRODUCTS
from qrt.ptq.channels import clip_limits
from qrt.ptq.draft import Draft, attributes
from qrt.quant.affine import Array

DEVIATIONS = 6.0  # a range reaches so far from the mean (section 5 there)
POINTS = 256  # a distribution is as many values of equal probability
_SHARES = (np.arange(POINTS) + 0.5) / POINTS
NORMAL = np.array([NormalDist().inv_cdf(share) for share in _SHARES])
PASSING = (
    "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Reshape", "Flatten", "Squeeze",
    "Unsqueeze", "Transpose", "Identity", "Dropout", "Pad",
)  # fmt: skip


@dataclass(frozen=True)
class InputRanges:
    """In place of calibration data: (lowest, highest) value of each input of the model, by name, or
    of all."""

    ranges: Mapping[str, tuple[float, float]] | tuple[float, float]

    def of(self, name: str) -> tuple[float, float]:
        """The range of one input. Raises InputError when it has none."""
        given = self.ranges.get(name) if isinstance(self.ranges, Mapping) else self.ranges
        if given is None:
            raise InputError(f"without calibration data, input '{name}' needs a range")
        try:
            low, high = (float(end) for end in given)
        except (TypeError, ValueError):
            raise InputError(
                f"the range of input '{name}' is its lowest and highest value, got {given!r}"
            ) from None
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise InputError(f"the range of input '{name}' is no range: {low:g} to {high:g}")
        return low, high


@dataclass(frozen=True)
class Expected:
    """Of a tensor, by channel: its distribution as values of equal probability, rising, (channels,
    POINTS); the lowest and highest value, (channels,) each."""

    values: Array
    low: Array
    high: Array

    @classmethod
    def normal(cls, mean: Array, deviation: Array, low: Array, high: Array) -> Expected:
        """Normal, within what is possible."""
        return cls(
            mean[:, None] + deviation[:, None] * NORMAL,
            np.clip(mean - DEVIATIONS * deviation, low, high),
            np.clip(mean + DEVIATIONS * deviation, low, high),
        )

    @property
    def mean(self) -> Array:
        """(channels,)."""
        return np.asarray(self.values.mean(axis=1))

    @property
    def variance(self) -> Array:
        """(channels,)."""
        return np.asarray(self.values.var(axis=1))


def expect(draft: Draft, given: InputRanges) -> dict[str, Expected]:
    """What can be said of each tensor, by name.

    Raises InputError when an input has no range.
    """
    found: dict[str, Expected] = {}
    for value in draft.inputs:
        low, high = (np.array([end]) for end in given.of(value.name))
        # as if all values between were equally likely
        found[value.name] = Expected(low + (high - low) * _SHARES[None], low, high)
    for node in draft.nodes:
        out = node.output[0]
        if out in draft.normals:
            mean, deviation = draft.normals[out]
            everything = np.full(mean.shape, np.inf)
            found[out] = Expected.normal(mean, deviation, -everything, everything)
            continue
        made = _of(draft, node, found)
        if made is not None:
            found[out] = made
    return found


def _of(draft: Draft, node: onnx.NodeProto, found: Mapping[str, Expected]) -> Expected | None:
    """What a node makes of what it reads; None for what is not known."""
    x = found.get(node.input[0]) if node.input else None
    if node.op_type in PASSING:
        return x
    if node.op_type in ("Add", "Mul"):
        return _pair(draft, node, found)
    if x is None:
        return None
    if node.op_type in PRODUCTS:
        return _product(draft, node, x)
    if node.op_type == "MaxPool":
        # the largest of so many independent ones
        count = int(np.prod(attributes(node)["kernel_shape"]))
        picked = (_SHARES ** (1 / count) * POINTS).astype(int)
        return Expected(x.values[:, picked], x.low, x.high)
    if node.op_type == "Clip":
        low, high = clip_limits(draft, node)
        if low is None or high is None:
            return None
        return _mapped(x, lambda v: np.clip(v, low, high))
    make = FUNCTIONS.get(node.op_type)
    if make is None:
        return None
    attrs = attributes(node)
    return _mapped(x, lambda v: make(v, attrs))


def _sigmoid(v: Array, attrs: Mapping[str, float]) -> Array:
    return 1 / (1 + np.exp(-v))


FUNCTIONS: dict[str, Callable[[Array, Mapping[str, float]], Array]] = {
    "Relu": lambda v, attrs: np.maximum(v, 0),
    "LeakyRelu": lambda v, attrs: np.where(v < 0, attrs.get("alpha", 0.01) * v, v),
    "Sigmoid": _sigmoid,
    "Tanh": lambda v, attrs: np.tanh(v),
    "HardSigmoid": lambda v, attrs: np.clip(
        attrs.get("alpha", 0.2) * v + attrs.get("beta", 0.5), 0, 1
    ),
    "HardSwish": lambda v, attrs: v * np.clip(v / 6 + 0.5, 0, 1),
}


def _mapped(x: Expected, function: Callable[[Array], Array]) -> Expected:
    """Element by element."""
    # a grid between the ends: what is lowest need not lie at an end
    reach = function(x.low[:, None] + (x.high - x.low)[:, None] * np.linspace(0, 1, 65))
    return Expected(np.sort(function(x.values), axis=1), reach.min(axis=1), reach.max(axis=1))


def _pair(draft: Draft, node: onnx.NodeProto, found: Mapping[str, Expected]) -> Expected | None:
    """Add and Mul, of two tensors or of one and a constant per channel."""
    sides = [found.get(name) or _constant(draft, name) for name in node.input]
    a, b = sides
    if a is None or b is None:
        return None
    if len({len(a.mean), len(b.mean)} - {1}) > 1:
        return None
    if node.op_type == "Add":
        deviation = np.sqrt(a.variance + b.variance)
        return Expected.normal(a.mean + b.mean, deviation, a.low + b.low, a.high + b.high)
    mean = a.mean * b.mean
    variance = (a.variance + a.mean**2) * (b.variance + b.mean**2) - mean**2
    ends = np.stack(np.broadcast_arrays(
        a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high
    ))  # fmt: skip
    return Expected.normal(mean, np.sqrt(variance.clip(0)), ends.min(axis=0), ends.max(axis=0))


def _constant(draft: Draft, name: str) -> Expected | None:
    array = draft.arrays.get(name)
    if array is None or array.size != max(array.shape, default=1):
        return None
    values = array.reshape(-1).astype(np.float64)
    return Expected(np.repeat(values[:, None], POINTS, axis=1), values, values)


def _product(draft: Draft, node: onnx.NodeProto, x: Expected) -> Expected | None:
    """Conv, Gemm and MatMul with constant weights."""
    w, attrs = draft.arrays.get(node.input[1]), attributes(node)
    if w is None or (node.op_type != "Conv" and w.ndim != 2) or attrs.get("transA", 0):
        return None
    mean, variance = (rows_of_channels(node, w, part) for part in (x.mean, x.variance))
    if mean is None or variance is None:
        return None
    groups = len(mean)
    rows = (w.reshape(len(w), -1) if _rows_first(node) else w.T).astype(np.float64)
    split = attrs.get("alpha", 1.0) * rows.reshape(groups, len(rows) // groups, -1)
    total = np.einsum("gok,gk->go", split, mean).reshape(-1)
    spread = np.einsum("gok,gk->go", split**2, variance).reshape(-1)
    bias = draft.arrays.get(node.input[2]) if len(node.input) > 2 else None
    if bias is not None:
        total = total + attrs.get("beta", 1.0) * bias.reshape(-1)
    everything = np.full(total.shape, np.inf)
    return Expected.normal(total, np.sqrt(spread), -everything, everything)


def rows_of_channels(node: onnx.NodeProto, w: Array, values: Array) -> Array | None:
    """A value per channel as one per input of the product: (groups, k). None where they differ."""
    if node.op_type == "Conv":
        groups = int(attributes(node).get("group", 1))
        channels, taps = groups * w.shape[1], w[0, 0].size
    else:
        groups, channels, taps = 1, w.shape[1 if _rows_first(node) else 0], 1
        if len(values) and channels % len(values) == 0:
            values = np.repeat(values, channels // len(values))  # flattened
    if len(values) == 1:
        values = np.broadcast_to(values, (channels,))
    if len(values) != channels:
        return None
    return np.repeat(values.reshape(groups, -1), taps, axis=1)


def _rows_first(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" or bool(attributes(node).get("transB", 0))
