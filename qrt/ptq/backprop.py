"""Operators with their gradients, in NumPy: what reconstruction runs and differentiates.

Each takes a node's attributes and float32 inputs (samples along axis 0) and returns its output and
a function from the gradient by the output to those by the inputs, constants such as axes left out.
Convolutions and pools go tap by tap: one product, or maximum, per position of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from qrt.errors import QuantizationError
from qrt.ptq.rows import same_pads
from qrt.quant.affine import Array

Attrs = Mapping[str, Any]
Back = Callable[[Array], tuple[Array | None, ...]]
Op = Callable[..., tuple[Array, Back]]


def _conv(attrs: Attrs, x: Array, w: Array, b: Array | None = None) -> tuple[Array, Back]:
    groups = attrs.get("group", 1)
    window = _Window(attrs, x.shape, w.shape[2:])
    n, outputs = len(x), len(w)
    padded = window.padded(x)
    deep = w.shape[1] == 1 and outputs == groups
    y = np.zeros((n, outputs, *window.positions), np.float32)
    size = int(np.prod(window.positions))
    split = (n, groups, -1, size)
    wide = w.reshape(groups, outputs // groups, *w.shape[1:])

    def at(tap: tuple[int, ...]) -> Any:
        return (..., *tap)

    for tap, index in window.taps():
        seen = padded[index]
        if deep:
            y += seen * w[at(tap)].reshape(-1, *[1] * window.rank)
        else:
            y += (wide[at(tap)] @ seen.reshape(split)).reshape(y.shape)
    if b is not None:
        y += b.reshape(-1, *[1] * window.rank)

    def back(g: Array) -> tuple[Array | None, ...]:
        by_padded, by_w = np.zeros_like(padded), np.empty_like(wide)
        lines = g.reshape(split)
        for tap, index in window.taps():
            seen = padded[index]
            if deep:
                by_padded[index] += g * w[at(tap)].reshape(-1, *[1] * window.rank)
                found = np.einsum("nck,nck->c", g.reshape(n, outputs, -1),
                                  seen.reshape(n, outputs, -1))  # fmt: skip
                by_w[at(tap)] = found.reshape(groups, 1, 1)
            else:
                by_padded[index] += (wide[at(tap)].swapaxes(1, 2) @ lines).reshape(seen.shape)
                products = lines @ seen.reshape(split).swapaxes(2, 3)
                by_w[at(tap)] = products.sum(axis=0)
        by_b = None if b is None else g.sum(axis=(0, *range(2, g.ndim)))
        return window.inner(by_padded), by_w.reshape(w.shape), by_b

    return y, back


def _gemm(attrs: Attrs, a: Array, b: Array, c: Array | None = None) -> tuple[Array, Back]:
    if attrs.get("alpha", 1.0) != 1.0 or attrs.get("transA", 0):
        raise QuantizationError("no gradient of a Gemm with alpha or transA")
    turned, beta = bool(attrs.get("transB", 0)), np.float32(attrs.get("beta", 1.0))
    rhs = b.T if turned else b
    y = a @ rhs
    if c is not None:
        y = y + beta * c

    def back(g: Array) -> tuple[Array | None, ...]:
        by_b = a.T @ g
        by_c = None if c is None else _summed(beta * g, c.shape)
        return g @ rhs.T, by_b.T if turned else by_b, by_c

    return y, back


def _matmul(attrs: Attrs, a: Array, b: Array) -> tuple[Array, Back]:
    if a.ndim < 2 or b.ndim < 2:
        raise QuantizationError("no gradient of a MatMul with a vector")

    def back(g: Array) -> tuple[Array | None, ...]:
        return _summed(g @ b.swapaxes(-1, -2), a.shape), _summed(a.swapaxes(-1, -2) @ g, b.shape)

    return a @ b, back


def _add(attrs: Attrs, a: Array, b: Array) -> tuple[Array, Back]:
    return a + b, lambda g: (_summed(g, a.shape), _summed(g, b.shape))


def _sub(attrs: Attrs, a: Array, b: Array) -> tuple[Array, Back]:
    return a - b, lambda g: (_summed(g, a.shape), _summed(-g, b.shape))


def _mul(attrs: Attrs, a: Array, b: Array) -> tuple[Array, Back]:
    return a * b, lambda g: (_summed(g * b, a.shape), _summed(g * a, b.shape))


def _relu(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    return np.maximum(x, 0), lambda g: (g * (x > 0),)


def _leaky_relu(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    slope = np.where(x > 0, np.float32(1), np.float32(attrs.get("alpha", 0.01)))
    return x * slope, lambda g: (g * slope,)


def _clip(attrs: Attrs, x: Array, low: Any = None, high: Any = None) -> tuple[Array, Back]:
    least = np.float32(attrs.get("min", -np.inf) if low is None else low)
    most = np.float32(attrs.get("max", np.inf) if high is None else high)
    return np.clip(x, least, most), lambda g: (g * ((x > least) & (x < most)),)


def _sigmoid(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    y = np.float32(1) / (1 + np.exp(-x))
    return y, lambda g: (g * y * (1 - y),)


def _tanh(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    y = np.tanh(x)
    return y, lambda g: (g * (1 - y * y),)


def _hard_sigmoid(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    alpha = np.float32(attrs.get("alpha", 0.2))
    line = alpha * x + np.float32(attrs.get("beta", 0.5))
    return np.clip(line, 0, 1), lambda g: (g * alpha * ((line > 0) & (line < 1)),)


def _hard_swish(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    gate, by_line = _hard_sigmoid({"alpha": 1 / 6}, x)
    return x * gate, lambda g: (g * gate + by_line(g * x)[0],)


def _max_pool(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    window = _Window(attrs, x.shape, attrs["kernel_shape"])
    padded = window.padded(x, -np.inf)
    y = np.full((*x.shape[:2], *window.positions), -np.inf, np.float32)
    for _, index in window.taps():
        y = np.maximum(y, padded[index])

    def back(g: Array) -> tuple[Array | None, ...]:
        by_padded, left = np.zeros_like(padded), g.copy()
        for _, index in window.taps():
            hit = padded[index] == y
            by_padded[index] += np.where(hit, left, 0)
            left = np.where(hit, 0, left)  # the first of several largest has it all
        return (window.inner(by_padded),)

    return y, back


def _average_pool(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    window = _Window(attrs, x.shape, attrs["kernel_shape"])
    every = attrs.get("count_include_pad", 0)
    ones = window.padded(np.ones((1, 1, *x.shape[2:]), np.float32), 1 if every else 0)
    padded = window.padded(x)
    count = sum(ones[index] for _, index in window.taps())
    y = sum(padded[index] for _, index in window.taps()) / count

    def back(g: Array) -> tuple[Array | None, ...]:
        by_padded = np.zeros_like(padded)
        for _, index in window.taps():
            by_padded[index] += g / count
        return (window.inner(by_padded),)

    return np.asarray(y), back


def _mean(x: Array, axes: tuple[int, ...], keep: bool) -> tuple[Array, Back]:
    kept = x.mean(axis=axes, keepdims=True)
    share = np.float32(kept.size / x.size)

    def back(g: Array) -> tuple[Array | None, ...]:
        return (np.broadcast_to(g.reshape(kept.shape) * share, x.shape),)

    return kept if keep else kept.squeeze(axes), back


def _global_average_pool(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    return _mean(x, tuple(range(2, x.ndim)), True)


def _reduce_mean(attrs: Attrs, x: Array, axes: Array | None = None) -> tuple[Array, Back]:
    named = attrs.get("axes") if axes is None else axes.tolist()
    if not named:
        raise QuantizationError("no gradient of a ReduceMean over everything")
    return _mean(x, tuple(a % x.ndim for a in named), bool(attrs.get("keepdims", 1)))


def _transpose(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    order = attrs.get("perm", list(range(x.ndim))[::-1])
    return x.transpose(order), lambda g: (g.transpose(np.argsort(order)),)


def _concat(attrs: Attrs, *parts: Array) -> tuple[Array, Back]:
    axis = attrs["axis"]
    ends = np.cumsum([part.shape[axis] for part in parts])[:-1]
    return np.concatenate(parts, axis), lambda g: tuple(np.split(g, ends, axis))


def _softmax(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    axis = attrs.get("axis", -1)
    raised = np.exp(x - x.max(axis=axis, keepdims=True))
    y = raised / raised.sum(axis=axis, keepdims=True)
    return y, lambda g: (y * (g - (g * y).sum(axis=axis, keepdims=True)),)


def _log_softmax(attrs: Attrs, x: Array) -> tuple[Array, Back]:
    axis = attrs.get("axis", -1)
    y, _ = _softmax(attrs, x)
    return np.log(y + np.float32(1e-30)), lambda g: (g - y * g.sum(axis=axis, keepdims=True),)


OPS: dict[str, Op] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _mul,
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Sub": _sub,
    "Tanh": _tanh,
    "Transpose": _transpose,
}
# only another shape of the same values, samples still along axis 0
VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


def viewed(x: Array, shape: tuple[int, ...]) -> tuple[Array, Back]:
    """x in another shape."""
    return x.reshape(shape), lambda g: (g.reshape(x.shape),)


class _Window:
    """The positions of a kernel over spatial axes, tap by tap."""

    def __init__(self, attrs: Attrs, shape: tuple[int, ...], kernel: Any) -> None:
        rank = self.rank = len(kernel)
        if attrs.get("ceil_mode", 0):
            raise QuantizationError("no gradient of a pool with ceil_mode")
        self._kernel = tuple(kernel)
        self._strides = attrs.get("strides") or [1] * rank
        self._dilations = attrs.get("dilations") or [1] * rank
        pads = attrs.get("pads") or [0] * 2 * rank
        auto = attrs.get("auto_pad", b"NOTSET").decode()
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            pads = same_pads(shape[2:], kernel, self._strides, self._dilations,
                             auto == "SAME_UPPER")  # fmt: skip
        self._pads = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
        self.positions = tuple(
            (size + sum(pad) - (k - 1) * d - 1) // s + 1
            for size, pad, k, s, d in zip(
                shape[2:], self._pads[2:], kernel, self._strides, self._dilations, strict=True
            )
        )
        self._inner = tuple(
            slice(begin, begin + size) for (begin, _), size in zip(self._pads, shape, strict=True)
        )[2:]

    def padded(self, x: Array, value: float = 0.0) -> Array:
        """x with its pads."""
        if not any(sum(pad) for pad in self._pads):
            return x
        return np.pad(x, self._pads, constant_values=np.float32(value))

    def inner(self, padded: Array) -> Array:
        """The other way."""
        found: Array = padded[(slice(None), slice(None), *self._inner)]
        return found

    def taps(self) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Each tap, and what it reads of the padded input."""
        for tap in np.ndindex(*self._kernel):
            yield tap, (
                slice(None), slice(None),
                *(
                    slice(t * d, t * d + (count - 1) * s + 1, s)
                    for t, d, s, count in zip(
                        tap, self._dilations, self._strides, self.positions, strict=True
                    )
                ),
            )  # fmt: skip


def _summed(g: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of what was broadcast to g's shape from `shape`."""
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        lead + i for i, size in enumerate(shape) if size == 1 and g.shape[lead + i] != 1
    )
    return np.asarray(g.sum(axis=axes)).reshape(shape)
