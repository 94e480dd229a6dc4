"""BatchNormalization of float32 at inference (ONNX, opset 7 to 15): x * factor + offset.

Per channel factor = scale / sqrt(variance + epsilon) and offset = bias - mean * factor are computed
once, in float64, and rounded to float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, kernel, slots
from qrt.ops.channels import channel_view
from qrt.ops.constants import constant_input
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.memory import as_f32, operand
from qrt.simd.scalar import share

FIELDS = ("x", "y", "outer", "channels", "inner", "factors", "offsets")
X, Y, OUTER, CHANNELS, INNER, FACTORS, OFFSETS = slots(FIELDS)


def parse(node: Node) -> float:
    """epsilon; refuses training."""
    attrs = AttrReader(node, ("momentum",))
    epsilon = attrs.float("epsilon", float(np.float32(1e-5)))
    training = attrs.int("training_mode", 0)
    spatial = attrs.int("spatial", 1)
    attrs.done()
    if len(node.outputs) > 1 or training or spatial != 1:
        raise UnsupportedError("BatchNormalization is supported for inference only")
    return epsilon


def affine(node: Node) -> tuple[Array, Array]:
    """(factors, offsets), float32 per channel."""
    epsilon = parse(node)
    channels = node.required(0).static_shape[1]
    names = ("scale", "B", "input_mean", "input_var")
    found = [constant_input(node, i, name).astype(np.float64) for i, name in enumerate(names, 1)]
    for name, values in zip(names, found, strict=True):
        if values.shape != (channels,):
            raise ModelError(f"{name} must have {channels} elements, got {list(values.shape)}")
    scale, bias, mean, variance = found
    factor = scale / np.sqrt(variance + epsilon)
    return factor.astype(np.float32), (bias - mean * factor).astype(np.float32)


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    parse(node)
    x = node.required(0)
    return [(x.static_shape, x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x = inputs[0]
    assert x is not None
    shape = (1, -1, *(1,) * (x.ndim - 2))
    factors, offsets = (a.reshape(shape) for a in affine(node))
    return [x * factors + offsets]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    if x.dtype != np.float32:
        raise UnsupportedError(f"BatchNormalization of {x.dtype} is not supported, only float32")
    factors, offsets = affine(node)
    view = channel_view(x, 1)
    program.emit(
        channel_affine_kernel,
        x=program.operand(x),
        y=program.operand(y),
        outer=view.outer,
        channels=view.channels,
        inner=view.inner,
        factors=program.constant(factors),
        offsets=program.constant(offsets),
    )


def extents(row: Mapping[str, int]) -> list[Extent]:
    nbytes = 4 * product(row, "outer", "channels", "inner")
    parameters = 4 * row["channels"]
    return [
        Extent("x", nbytes),
        Extent("y", nbytes, writes=True),
        Extent("factors", parameters),
        Extent("offsets", parameters),
    ]


@kernel("channel_affine_f32", FIELDS, extents, family="batch_normalization")
def channel_affine_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = as_f32(operand(row, X, arena, constants))
    y = as_f32(operand(row, Y, arena, constants))
    factors = as_f32(operand(row, FACTORS, arena, constants))
    offsets = as_f32(operand(row, OFFSETS, arena, constants))
    channels = row[CHANNELS]
    inner = row[INNER]
    start, stop = share(row[OUTER] * channels, thread, threads, 1)
    if inner == 1:
        r = start
        while r < stop:
            first = r % channels
            count = min(channels - first, stop - r)
            for c in range(count):
                y[r + c] = x[r + c] * factors[first + c] + offsets[first + c]
            r += count
        return 0
    for r in range(start, stop):
        factor = factors[r % channels]
        offset = offsets[r % channels]
        for i in range(r * inner, (r + 1) * inner):
            y[i] = x[i] * factor + offset
    return 0


SPEC = OpSpec("BatchNormalization", "", infer, reference, lower, layout="any")
