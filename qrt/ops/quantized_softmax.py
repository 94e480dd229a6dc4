"""qrt.Softmax: uint8 to uint8 or float32, over one axis or several together.

e = table[q_max - q] with table[d] = round_half_even(exp(-d * scale) * 2**23) (exp in float64),
S = sum of e, exact in int64; p = float32(e) / float32(S), then Quantize. Integer sums make the
result independent of order, threads and CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops.channels import normalized_axes
from qrt.ops.nests import names
from qrt.ops.reductions import FIELDS as NEST_FIELDS
from qrt.ops.reductions import INNER, softmax_fields, softmax_reach
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant.affine import quantize
from qrt.simd.memory import as_f32, as_i32, as_u8, operand, row_f32
from qrt.simd.scalar import quantize_u8, share

# `scratch` holds the exponentials of one output at a time, for each of `scratch_threads`
FIELDS = (
    "x", "y", "table", *NEST_FIELDS, "y_scale", "low", "high", "y_zero_point",
    "scratch", "scratch_threads",
)  # fmt: skip
(
    X, Y, TABLE, N0, N1, N2, XS0, XS1, XS2, YS0, YS1, YS2, R0, R1, R2, RS0, RS1, RS2,
    Y_SCALE, LOW, HIGH, Y_ZERO_POINT, SCRATCH, SCRATCH_THREADS,
) = slots(FIELDS)  # fmt: skip
TOO_MANY_THREADS = 1  # status
ONE = 2.0**23  # exp(0) in the table: entries are exact in float32, sums of 2**39 of them fit int64


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    y: QParams | None = node.attrs["y"]
    return [(node.required(0).static_shape, y.dtype if y else np.dtype(np.float32))]


def exponentials(scale: Array) -> Array:
    """int64[256]: exp(-d * scale) in steps of 2**-23."""
    return np.rint(np.exp(-np.arange(256) * np.float64(scale)) * ONE).astype(np.int64)


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    axes = normalized_axes(tuple(node.attrs["axes"]), x.ndim)
    q = x.astype(np.int64)
    e = exponentials(node.attrs["x"].scale)[q.max(axis=axes, keepdims=True, initial=0) - q]
    p = e.astype(np.float32) / e.sum(axis=axes, keepdims=True).astype(np.float32)
    return [p if node.attrs["y"] is None else quantize(p, node.attrs["y"])]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    qx: QParams = node.attrs["x"]
    qy: QParams | None = node.attrs["y"]
    dtype = np.dtype(y.dtype).name
    if x.dtype != np.uint8 or not qx.per_tensor or (qy is not None and not qy.per_tensor):
        raise UnsupportedError(f"Softmax needs uint8 with one scale and zero point, got {x.dtype}")
    if dtype != ("float32" if qy is None else "uint8"):
        raise UnsupportedError(f"Softmax to {dtype} is not supported, only uint8 and float32")
    if math.prod(x.static_shape) == 0:
        return
    axes = normalized_axes(tuple(node.attrs["axes"]), len(x.static_shape))
    nest = {**softmax_fields(x, y, axes), "scratch_threads": program.threads()}
    y_zero_point = 0 if qy is None else int(qy.zero_point)
    program.emit(
        KERNELS[dtype],
        x=program.operand(x),
        y=program.operand(y),
        table=program.constant(exponentials(qx.scale).astype(np.int32)),
        **nest,
        scratch=program.scratch(scratch_nbytes(nest)),
        y_scale=np.float32(1 if qy is None else qy.scale),
        low=np.float32(0 if qy is None else qy.qmin - y_zero_point),
        high=np.float32(0 if qy is None else qy.qmax - y_zero_point),
        y_zero_point=y_zero_point,
    )


def scratch_nbytes(row: Mapping[str, int]) -> int:
    """float32 exponentials of everything that is normalised together, per thread."""
    return 4 * product(row, *names("r", INNER), "scratch_threads")


def _declare(name: str, itemsize: int) -> Kernel:
    quantized = name == "u8"

    def extents(row: Mapping[str, int]) -> list[Extent]:
        low, high = softmax_reach(row)
        return [
            Extent("x", high - low, start=low),
            Extent("y", itemsize * (high - low), writes=True, start=itemsize * low),
            Extent("table", 4 * 256),
            Extent("scratch", scratch_nbytes(row), writes=True),
        ]

    @kernel(f"softmax_u8_{name}", FIELDS, extents, family="softmax_u8")
    def softmax(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        table = as_i32(operand(row, TABLE, arena, constants))
        y_scale = row_f32(row, Y_SCALE)
        low = row_f32(row, LOW)
        high = row_f32(row, HIGH)
        y_zero_point = np.int32(row[Y_ZERO_POINT])
        lines = row[R0] * row[R1]
        n = row[R2]
        if threads > row[SCRATCH_THREADS]:
            return TOO_MANY_THREADS
        own = operand(row, SCRATCH, arena, constants) + 4 * thread * lines * n
        step = row[RS2]
        start, stop = share(row[N0] * row[N1] * row[N2], thread, threads, 1)
        for o in range(start, stop):
            at = (
                o // row[N2] // row[N1] * row[XS0]
                + o // row[N2] % row[N1] * row[XS1]
                + o % row[N2] * row[XS2]
            )
            top = np.uint8(0)
            for line in range(lines):
                source = as_u8(x + at + line // row[R1] * row[RS0] + line % row[R1] * row[RS1])
                if step == 1:
                    for i in range(n):
                        top = max(top, source[i])
                else:
                    for i in range(n):
                        top = max(top, source[i * step])
            total = np.int64(0)
            highest = np.int64(top)
            for line in range(lines):
                source = as_u8(x + at + line // row[R1] * row[RS0] + line % row[R1] * row[RS1])
                kept = as_f32(own + 4 * line * n)
                for i in range(n):
                    e = table[highest - np.int64(source[i * step])]
                    kept[i] = np.float32(e)
                    total += np.int64(e)
            divisor = np.float32(total)
            for line in range(lines):
                offset = at + line // row[R1] * row[RS0] + line % row[R1] * row[RS1]
                kept = as_f32(own + 4 * line * n)
                if quantized:
                    codes = as_u8(y + offset)
                    if step == 1:
                        for i in range(n):
                            p = kept[i] / divisor
                            codes[i] = quantize_u8(p / y_scale, low, high, y_zero_point)
                    else:
                        for i in range(n):
                            p = kept[i] / divisor
                            codes[i * step] = quantize_u8(p / y_scale, low, high, y_zero_point)
                else:
                    reals = as_f32(y + 4 * offset)
                    if step == 1:
                        for i in range(n):
                            reals[i] = kept[i] / divisor
                    else:
                        for i in range(n):
                            reals[i * step] = kept[i] / divisor
        return 0

    return softmax


KERNELS = {"uint8": _declare("u8", 1), "float32": _declare("f32", 4)}

SPEC = OpSpec("Softmax", "qrt", infer, reference, lower, layout="any")
