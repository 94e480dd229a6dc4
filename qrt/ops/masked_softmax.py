"""qrt.MaskedSoftmax: softmax(x * factor + bias) over the last axis, to float32 or to codes.

What stands between the two products of attention, in one pass: a row is read into L1, and written
as what the next product reads. x * factor + bias is rounded once; the softmax is that of
`float_softmax`, and its quotients are quantized by the contract. Rows have 16 elements and more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, QParams, Value
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.dispatch import best_kernel
from qrt.ops.float_softmax import (
    SHORT,
    declare_row,
    divide_row,
)
from qrt.ops.nests import Nest, broadcast_strides, collapse, names, numbered, reach
from qrt.ops.quantizing import (
    QUANTIZERS,
    RECORD_NBYTES,
    Quantizer,
    declare_span,
    division_records,
)
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.quant.affine import quantize
from qrt.simd.memory import operand, row_f32
from qrt.simd.scalar import share

RANK = 3  # loops over rows
FEWEST = 16  # elements of a row
ROWS = 4  # at once
TOO_MANY_THREADS = 1  # status
FIELDS = (
    "x",  # float32 (rows, n), dense
    "bias",  # float32
    "y",
    "record",
    "scratch",
    "max_threads",
    "n",
    "factor",
    *names("rows", RANK),
    *names("bias_stride", RANK),
)
(
    X, BIAS, Y, RECORD_, SCRATCH, MAX_THREADS, N, FACTOR, R0, R1, R2, B0, B1, B2,
) = slots(FIELDS)  # fmt: skip


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    y: QParams | None = node.attrs["y"]
    return [(node.required(0).static_shape, np.dtype(np.float32 if y is None else np.uint8))]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x, bias = inputs[0], inputs[1] if len(inputs) > 1 else None
    assert x is not None
    t = x.astype(np.float64) * node.attrs["factor"] + (0 if bias is None else bias)
    t = t.astype(np.float32).astype(np.float64)
    with np.errstate(invalid="ignore"):
        e = np.exp(t - t.max(axis=-1, keepdims=True))
        y = (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)
    qparams: QParams | None = node.attrs["y"]
    return [y if qparams is None else quantize(y, qparams)]


def nest_of(x: Value, bias: Value | None) -> Nest | None:
    """The loops over rows of x, with the steps of the bias; None when there are too many, or rows
    of the bias are not like those of x."""
    shape = x.static_shape
    if not shape or shape[-1] < FEWEST:
        return None
    own = bias.static_shape if bias is not None else ()
    if bias is not None and (len(own) > len(shape) or own[-1:] != shape[-1:]):
        return None
    strides = (0,) * len(shape) if bias is None else broadcast_strides(bias, shape)
    nest = collapse(shape[:-1], strides[:-1])
    return nest.padded(RANK) if len(nest.sizes) <= RANK else None


def lower(node: Node, program: Lowering) -> None:
    x, bias, y = node.required(0), node.input(1), node.outputs[0]
    nest = nest_of(x, bias)
    if nest is None or x.dtype != np.float32:
        raise UnsupportedError(f"rows of {x.dtype}{list(x.static_shape)} are not supported")
    if nest.count == 0:
        return
    n = x.static_shape[-1]
    qparams: QParams | None = node.attrs["y"]
    chosen, record, nbytes = FLOAT_KERNEL, np.zeros(0, np.int32), 0
    if qparams is not None:
        record, facts = division_records(qparams)
        chosen = best_kernel(BYTE_KERNELS, program.features, facts)
        nbytes = program.threads() * ROWS * 4 * n
    zeros = np.zeros(n, np.float32)
    program.emit(
        chosen,
        x=program.operand(x),
        bias=program.constant(zeros) if bias is None else program.operand(bias),
        y=program.operand(y),
        record=program.constant(record),
        scratch=program.scratch(nbytes),
        max_threads=program.threads(),
        n=n,
        factor=np.float32(node.attrs["factor"]),
        **nest.fields("rows", "bias_stride"),
    )


@helper
def _bias_of(row, bias, r):  # type: ignore[no-untyped-def]
    """The address of the bias of row r."""
    if row[R0] * row[R1] == 1:
        return bias + 4 * r * row[B2]
    inner = r // row[R2]
    step = inner // row[R1] * row[B0] + inner % row[R1] * row[B1] + (r - inner * row[R2]) * row[B2]
    return bias + 4 * step


def _declare(quantizer: Quantizer | None) -> Kernel:
    codes = quantizer is not None
    itemsize = 1 if codes else 4
    largest, exponentials = declare_row(masked=True)
    store = declare_span(QUANTIZERS[-1] if quantizer is None else quantizer)

    def extents(row: Mapping[str, int]) -> list[Extent]:
        sizes = numbered(row, "rows", RANK)
        n = product(row, "n")
        if n < FEWEST:
            raise ValueError(f"n must be {FEWEST} or more, got {n}")
        count = math.prod(sizes) * n
        low, high = reach([*sizes, n], [*numbered(row, "bias_stride", RANK), 1])
        own = product(row, "max_threads") * ROWS * 4 * n
        return [
            Extent("x", 4 * count),
            Extent("bias", 4 * (high - low), start=4 * low),
            Extent("y", itemsize * count, writes=True),
            Extent("record", RECORD_NBYTES if codes else 0),
            Extent("scratch", own if codes else 0, writes=True),
        ]

    @kernel(
        "masked_softmax_f32" if quantizer is None else quantizer.name("masked_softmax_f32_u8"),
        FIELDS,
        extents,
        family="softmax_f32",
        features=() if quantizer is None else quantizer.features,
        preconditions={} if quantizer is None else quantizer.preconditions,
    )
    def softmax(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        n = row[N]
        x = operand(row, X, arena, constants)
        bias = operand(row, BIAS, arena, constants)
        y = operand(row, Y, arena, constants)
        record = operand(row, RECORD_, arena, constants)
        factor = row_f32(row, FACTOR)
        if codes and threads > row[MAX_THREADS]:
            return TOO_MANY_THREADS
        own = operand(row, SCRATCH, arena, constants) + 4 * ROWS * n * thread
        start, stop = share(row[R0] * row[R1] * row[R2], thread, threads, ROWS)
        step = 4 * n
        r = start
        while r < stop:
            at = x + r * step
            to = own if codes else y + r * step
            b0 = _bias_of(row, bias, r)
            if n <= SHORT and r + ROWS <= stop:
                # one row waits less for what another adds up
                x1, x2, x3 = at + step, at + 2 * step, at + 3 * step
                y1, y2, y3 = to + step, to + 2 * step, to + 3 * step
                b1 = _bias_of(row, bias, r + 1)
                b2 = _bias_of(row, bias, r + 2)
                b3 = _bias_of(row, bias, r + 3)
                t0 = largest(at, n, factor, b0)
                t1 = largest(x1, n, factor, b1)
                t2 = largest(x2, n, factor, b2)
                t3 = largest(x3, n, factor, b3)
                s0 = exponentials(at, to, n, t0, factor, b0)
                s1 = exponentials(x1, y1, n, t1, factor, b1)
                s2 = exponentials(x2, y2, n, t2, factor, b2)
                s3 = exponentials(x3, y3, n, t3, factor, b3)
                divide_row(to, n, s0)
                divide_row(y1, n, s1)
                divide_row(y2, n, s2)
                divide_row(y3, n, s3)
                count = ROWS
            else:
                t0 = largest(at, n, factor, b0)
                divide_row(to, n, exponentials(at, to, n, t0, factor, b0))
                count = 1
            if codes:
                store(own, y + r * n, count * n, record)
            r += count
        return 0

    return softmax


FLOAT_KERNEL = _declare(None)
BYTE_KERNELS = tuple(_declare(quantizer) for quantizer in QUANTIZERS)

SPEC = OpSpec("MaskedSoftmax", "qrt", infer, reference, lower)
