"""Why a quantized tensor differs from the float one, where that can be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from qrt.errors import QrtError
from qrt.ir import QParams
from qrt.ptq.backends import PRODUCTS
from qrt.ptq.draft import Draft, attributes
from qrt.quant.affine import Array, dequantize

CLIPPED = 0.01  # share beyond the grid from which saturation is a cause however little it loses
WIDE = 16.0  # times the median range, from which a channel is wide
NEAR = 3.0  # dB: what is no better than this above the layer is at least half of its noise
FOLDED = 3.0  # dB: weights that differ more are others (a BatchNormalization is in them)
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
PAIR = (QUANTIZE, DEQUANTIZE)
THROUGH = ("Relu", "Clip", "Add", "Cast", "Mul", *PAIR)  # between a product and its result
WIDE_CHANNEL = "one wide channel"
TINY = np.finfo(np.float32).tiny
Step = tuple[float, float, float]


@dataclass
class Seen:
    """What is seen of a tensor's exact values: how they lie on the grid, and in its channels."""

    step: Step | None  # (low, high, step) of its grid per tensor
    beyond: float = 0.0
    elements: int = 0
    power: float = 0.0
    clipped: float = 0.0  # power of what lies beyond
    varies: bool = False
    ranges: Array | None = None

    def add(self, x: Array) -> None:
        """One more sample."""
        if not x.size:
            return
        if self.step is not None:
            low, high, step = self.step
            self.clipped += float(((x - np.clip(x, low, high)).astype(np.float64) ** 2).sum())
            self.beyond += float(((x < low - step) | (x > high + step)).sum())
        self.varies |= bool(np.ptp(x) > 0)
        self.power += float((x.astype(np.float64) ** 2).sum())
        self.elements += x.size
        if x.ndim >= 2:
            axis = 1 if x.ndim > 2 else x.ndim - 1
            others = tuple(a for a in range(x.ndim) if a != axis)
            ranges = np.asarray(np.abs(x).max(axis=others))
            if self.ranges is not None and self.ranges.shape == ranges.shape:
                ranges = np.maximum(self.ranges, ranges)
            self.ranges = ranges


def take_zero_scales(draft: Draft) -> dict[str, str]:
    """What engines make of scales that are 0, without dividing by them: everything becomes 0.

    Returns, by name of the pair's data and result, how much of it has such a scale.
    """
    found: dict[str, str] = {}
    for node in draft.nodes:
        scale = draft.arrays.get(node.input[1]) if node.op_type in PAIR else None
        if scale is None or scale.dtype != np.float32 or (scale > 0).all():
            continue
        bad = ~(scale > 0)
        text = f"zero scale: {bad.sum()} of {bad.size}" if bad.size > 1 else "zero scale"
        found[node.input[0]] = found[node.output[0]] = text
        node.input[1] = draft.constant(f"{node.input[1]}_tiny", np.where(bad, TINY, scale))
    return found


def grids(draft: Draft) -> dict[str, Step]:
    """(low, high, step) of the per-tensor pair behind a tensor, or that gives it."""
    found: dict[str, Step] = {}
    for node in draft.nodes:
        if node.op_type not in PAIR or len(node.input) < 3 or node.input[0] in draft.arrays:
            continue
        scale, zero_point = (draft.arrays.get(name) for name in node.input[1:3])
        if scale is None or zero_point is None or scale.size != 1:
            continue
        limits = np.iinfo(zero_point.dtype) if zero_point.dtype.kind in "iu" else None
        if limits is not None:
            step, zero = float(scale.reshape(())), int(zero_point.reshape(()))
            low, high = (limits.min - zero) * step, (limits.max - zero) * step
            named = node.input if node.op_type == QUANTIZE else node.output
            found.setdefault(named[0], (low, high, step))
    return found


def cause(
    name: str, local: float, seen: Seen, float_: Draft, quantized: Draft, zeros: dict[str, str]
) -> str:
    """Why tensor `name`, whose local SQNR is `local` dB, differs; "" where that is not known."""
    node = _product(name, quantized)
    causes = [zeros[name]] if name in zeros else []
    if node is not None:
        causes += _of_weights(node, name, local, float_, quantized, zeros)
    share = seen.beyond / max(seen.elements, 1)
    if share > CLIPPED or _decibels(seen.power, seen.clipped) < local + NEAR:
        causes.append(f"saturation: {100 * share:.2g} % lie beyond the grid")
    elif seen.step is not None and name not in zeros:
        step = seen.step[2]
        if not seen.varies:
            causes.append("constant on these data")
        elif _decibels(seen.power, seen.elements * step**2 / 12) < local + NEAR:
            steps = float(np.sqrt(seen.power / seen.elements)) / step
            causes.append(f"rounding of its output: {steps:.2g} steps root mean square")
        wide = _wide(seen.ranges)
        if wide and not any(WIDE_CHANNEL in text for text in causes):
            causes.append(f"{WIDE_CHANNEL}: {wide}")
    return "; ".join(causes)


def _product(name: str, draft: Draft) -> onnx.NodeProto | None:
    """The product that gives a tensor, perhaps through a clamp or a bias."""
    producers = draft.producers()
    node = producers.get(name)
    while node is not None and node.op_type in THROUGH:
        node = producers.get(node.input[0])
    products = (*PRODUCTS, "MatMulNBits")
    return node if node is not None and node.op_type in products else None


def _of_weights(
    node: onnx.NodeProto, name: str, local: float, float_: Draft, quantized: Draft,
    zeros: dict[str, str],
) -> list[str]:  # fmt: skip
    """What is wrong with the weights of a product."""
    if node.op_type == "MatMulNBits":
        return [f"weights of {attributes(node)['bits']} bits"]
    maker = quantized.producers().get(node.input[1])
    if maker is None or maker.op_type != DEQUANTIZE:
        return []
    causes = [f"{zeros[maker.output[0]]} of its weights"] if maker.output[0] in zeros else []
    codes, scale = (quantized.arrays.get(n) for n in maker.input[:2])
    if codes is None or scale is None:
        return causes
    if scale.size == 1 and codes.ndim > 1:
        axis = 0 if node.op_type == "Conv" or attributes(node).get("transB", 0) else codes.ndim - 1
        others = tuple(a for a in range(codes.ndim) if a != axis)
        if wide := _wide(np.abs(codes.astype(np.int64)).max(axis=others)):
            causes.append(f"{WIDE_CHANNEL} of its weights: {wide}")
    sqnr = _weights_sqnr(name, maker, node, float_, quantized)
    bits = _bits(codes)
    if sqnr is not None and (sqnr < local + NEAR or bits < 8):
        causes.append(f"weights of {bits} bits: {sqnr:.1f} dB by themselves")
    return causes


def _weights_sqnr(
    name: str, maker: onnx.NodeProto, node: onnx.NodeProto, float_: Draft, quantized: Draft
) -> float | None:
    """SQNR of the weights, where the float model has them as they were."""
    other = _product(name, float_)
    w = float_.arrays.get(other.input[1]) if other is not None else None
    codes, scale = (quantized.arrays[n] for n in maker.input[:2])
    zero: Any = quantized.arrays.get(maker.input[2]) if len(maker.input) > 2 else None
    if w is None or w.shape != codes.shape or (other is not None and other.op_type != node.op_type):
        return None
    attrs = attributes(maker)
    kind = np.dtype(np.int16)  # holds codes of up to 8 bits
    is_one = scale.size == 1
    scale = scale.reshape(()) if is_one else scale
    zeros = np.broadcast_to(np.asarray(0 if zero is None else zero, kind).reshape(
        () if zero is None or zero.size == 1 else scale.shape), scale.shape)  # fmt: skip
    block_size = attrs.get("block_size") or None
    q = QParams(scale, zeros, kind, None if is_one else attrs.get("axis", 1), block_size)
    try:
        back = dequantize(codes.astype(kind), q)
    except QrtError:
        return None
    signal, noise = (float((a.astype(np.float64) ** 2).sum()) for a in (w, w - back))
    found = _decibels(signal, noise)
    return found if found > FOLDED else None


def _decibels(signal: float, noise: float) -> float:
    return 10 * float(np.log10(signal / noise)) if signal and noise else float("inf")


def _bits(codes: Array) -> int:
    """Of ONNX's type: int4 has 4, though NumPy keeps it in a byte."""
    name = codes.dtype.name
    digits = "".join(c for c in name if c.isdigit())
    return int(digits) if digits else 8 * codes.itemsize


def _wide(ranges: Array | None) -> str:
    """The channel that is far wider than most, and by how much; "" where there is none."""
    if ranges is None or ranges.size < 2:
        return ""
    middle = float(np.median(ranges))
    largest = float(ranges.max())
    if largest <= WIDE * middle or not middle:
        return ""
    return f"{int(ranges.argmax())} spans {largest / middle:.0f}x the median"
